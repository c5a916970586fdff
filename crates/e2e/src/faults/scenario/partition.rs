//! A node is cut off from the API while policies change.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ringfence_e2e::machine::Machine;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "partition",
    about: "A node is cut off from the API while policies change",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// The time that the old policy must stand on the node that is cut off.
const OUTAGE: Duration = Duration::from_secs(20);
const TABLE: &str = "ringfence_e2e";

/// Cuts off each node in turn: while a permission is given, and while it is taken.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let port = api_port(&machine)?;
    let (mut elsewhere, mut here) = (Duration::ZERO, Duration::ZERO);
    let mut times = 0;
    for number in 1..=stage.nodes.len() {
        for _ in 0..2 {
            let cut = Cut::make(&machine, number, port)?;
            let changed = stage.change_without(number, !stage.visit).await?;
            elsewhere = elsewhere.max(stage.reach(changed, PATIENCE, |pair| pair.to != number).await?);
            tokio::time::sleep(OUTAGE.saturating_sub(changed.elapsed())).await;
            stage.release(number);
            drop(cut);
            here = here.max(stage.reach(Instant::now(), PATIENCE, |_| true).await?);
            times += 1;
        }
    }
    stage.agents_ready().await?;
    Ok(format!(
        "{times} times for {} s; a policy changed meanwhile was in force on the other node after {} ms at most, the \
         old one stood on the node cut off, the new one was in force there {:.1} s at most after the end",
        OUTAGE.as_secs(),
        elsewhere.as_millis(),
        here.as_secs_f64()
    ))
}

/// The API's port, behind any translation.
fn api_port(machine: &Machine) -> anyhow::Result<u16> {
    let path = machine.directory().join("admin.kubeconfig");
    let config = kube::config::Kubeconfig::read_from(&path)?;
    let cluster = config.clusters.into_iter().next().and_then(|named| named.cluster);
    let url = cluster.and_then(|cluster| cluster.server).context("a kubeconfig without server")?;
    let port = url.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches('/').parse().ok());
    port.with_context(|| format!("{url} has no port"))
}

/// A node without the API; ends when dropped.
struct Cut<'a> {
    machine: &'a Machine,
    number: usize,
}

impl<'a> Cut<'a> {
    fn make(machine: &'a Machine, number: usize, port: u16) -> anyhow::Result<Self> {
        let rules = format!(
            "table inet {TABLE} {{ \
             chain out {{ type filter hook output priority 10; tcp dport {port} drop; }}; \
             chain in {{ type filter hook input priority 10; tcp sport {port} drop; }}; }}"
        );
        nft(machine, number, &[&rules])?;
        Ok(Self { machine, number })
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        // It fails only if the node is gone.
        let _ = nft(self.machine, self.number, &["delete", "table", "inet", TABLE]);
    }
}

fn nft(machine: &Machine, number: usize, words: &[&str]) -> anyhow::Result<()> {
    let mut command: Command = machine.on(number, "nft");
    let output = command.args(words).output().context("nft")?;
    if !output.status.success() {
        bail!("nft on node {number}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
