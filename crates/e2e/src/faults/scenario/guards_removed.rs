//! Somebody detaches the programs at pods' links, again and again, and removes the table that keeps connection tracking
//! active: as who uninstalls with a wrong directory of pins.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "guards-removed",
    about: "Somebody detaches the programs at pods' links",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// Nothing is pinned there.
const NOTHING: &str = "/sys/fs/bpf/nothing-is-pinned-here";
/// Name of the component in repairs.
const GUARDS: &str = "guards";
/// Number of times that they are detached on each node.
const ROUNDS: usize = 3;
/// By when they have to be back: nothing tells of it, so agents look every few seconds.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);
/// Time between two queries of a node.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("a cluster of this machine")?;
    let (mut most, mut slowest) = (0, Duration::ZERO);
    for number in (1..=stage.nodes.len()).cycle().take(ROUNDS * stage.nodes.len()) {
        let (links, before) = guards(stage, number).await?;
        ensure!(links > 0, "no link is guarded on node {number}");
        machine.inside(number, || ringfence_datapath::remove(Path::new(NOTHING)))??;
        let since = Instant::now();
        loop {
            let (guarded, repaired) = guards(stage, number).await?;
            if guarded >= links && repaired >= before + links {
                break;
            }
            if since.elapsed() > PATIENCE {
                bail!("the agent of node {number} did not put back all of {links} guards");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        (most, slowest) = (most.max(links), slowest.max(since.elapsed()));
        let changed = stage.change(!stage.visit).await?;
        stage.reach(changed, PATIENCE, |_| true).await?;
    }
    let slowest_told = slowest.as_millis();
    ensure!(slowest <= REPAIR_LIMIT, "guards were missing for {slowest_told} ms");
    Ok(format!(
        "{ROUNDS} times on each node at up to {most} links; back, and said in the status, after {slowest_told} ms at \
         most"
    ))
}

/// The number of links are guarded on a node, and how many guards its agent has put back.
async fn guards(stage: &Stage, number: usize) -> anyhow::Result<(u64, u64)> {
    let status =
        stage.told(number).await?.status.with_context(|| format!("the agent of node {number} does not answer"))?;
    let repaired = status.repairs.iter().find(|repair| repair.component == GUARDS).map_or(0, |repair| repair.count);
    Ok((status.enforcement.host_interfaces.guarded as u64, repaired))
}
