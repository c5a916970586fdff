//! Another program has the node forward nothing that it does not know, as Docker does (`iptables -P FORWARD DROP`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ringfence_e2e::machine::Machine;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, where_primary};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "forward-drop",
    about: "iptables of each node is told to forward nothing (`-P FORWARD DROP`), and all its rules are taken away \
        meanwhile",
    obstacle: where_primary,
    run: |stage, _| Box::pin(run(stage)),
};

/// By when what is allowed has to be answered again.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);

/// On every node at once, and twice: the second time with rules of agents that are taken away.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let mut slowest = Duration::ZERO;
    stage.exempt_open();
    let shut =
        (1..=stage.nodes.len()).map(|number| Shut::make(&machine, number)).collect::<anyhow::Result<Vec<_>>>()?;
    slowest = slowest.max(stage.reach(Instant::now(), PATIENCE, |_| true).await?);
    let changed = stage.change(!stage.visit).await?;
    stage.reach(changed, PATIENCE, |_| true).await?;
    stage.exempt_open();
    for number in 1..=stage.nodes.len() {
        iptables(&machine, number, &["-F", "FORWARD"])?;
    }
    slowest = slowest.max(stage.reach(Instant::now(), PATIENCE, |_| true).await?);
    stage.agents_ready().await?;
    drop(shut);
    stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    let slowest_told = slowest.as_millis();
    ensure!(slowest <= REPAIR_LIMIT, "what is allowed was answered again after {slowest_told} ms only");
    Ok(format!(
        "on all nodes at once, and with what agents had put there taken away again; what is allowed was answered after \
         {slowest_told} ms at most"
    ))
}

/// A node that forwards nothing; as before when dropped.
struct Shut<'a> {
    machine: &'a Machine,
    number: usize,
}

impl<'a> Shut<'a> {
    fn make(machine: &'a Machine, number: usize) -> anyhow::Result<Self> {
        iptables(machine, number, &["-P", "FORWARD", "DROP"])?;
        Ok(Self { machine, number })
    }
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        if let Err(error) = iptables(self.machine, self.number, &["-P", "FORWARD", "ACCEPT"]) {
            println!("node {} forwards nothing any more: {error:#}", self.number);
        }
    }
}

fn iptables(machine: &Machine, number: usize, words: &[&str]) -> anyhow::Result<()> {
    let done = machine.on(number, "iptables").args(words).output().context("iptables")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "iptables {} on node {number}: {}", words.join(" "), said.trim());
    Ok(())
}
