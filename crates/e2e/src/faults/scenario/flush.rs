//! Somebody takes away all tables of nftables of a node, or all rules of iptables, or has it forget all connections.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const TABLES: Scenario = Scenario {
    name: "nft-flush",
    about: "All tables of nftables are taken away on each node",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage, "nft", &["flush", "ruleset"])),
};

pub(super) const CONNECTIONS: Scenario = Scenario {
    name: "conntrack-flush",
    about: "Each node forgets all connections it tracks",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage, "conntrack", &["-F"])),
};

pub(super) const RULES: Scenario = Scenario {
    name: "iptables-flush",
    about: "All rules of iptables that filter are taken away on each node",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage, "iptables", &["-F"])),
};

/// Number of times on each node.
const TIMES: usize = 5;
/// By when everything that is allowed has to be answered again.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);

/// Runs a program on every node again and again. What must not pass is judged all the while; what may, from when it is
/// answered again.
async fn run(stage: &mut Stage, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let mut slowest = Duration::ZERO;
    for number in (1..=stage.nodes.len()).cycle().take(TIMES * stage.nodes.len()) {
        stage.exempt_open();
        let done = machine.on(number, program).args(arguments).output()?;
        let flushed = Instant::now();
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{program} on node {number}: {}", said.trim());
        slowest = slowest.max(stage.reach(flushed, PATIENCE, |_| true).await?);
    }
    ensure!(slowest <= REPAIR_LIMIT, "what is allowed was answered again after {} ms only", slowest.as_millis());
    stage.agents_ready().await?;
    let (what, slowest) = ([&[program], arguments].concat().join(" "), slowest.as_millis());
    Ok(format!("`{what}` {TIMES} times on each node; what is allowed was answered again after {slowest} ms at most"))
}
