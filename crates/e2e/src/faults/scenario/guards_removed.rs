//! Somebody detaches the programs at pods' links, again and again.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ringfence_e2e::machine::Machine;
use ringfence_install::status;
use ringfence_netns::Netlink;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "guards-removed",
    about: "Somebody detaches the programs at pods' links",
    obstacle: |stage, options| {
        on_this_machine(stage, options).or_else(|| {
            let there = Command::new(TOOL).arg("version").output().is_ok_and(|output| output.status.success());
            (!there).then(|| format!("the program {TOOL} is missing (package bpftool)"))
        })
    },
    run: |stage, _| Box::pin(run(stage)),
};

/// What detaches.
const TOOL: &str = "bpftool";
/// How often they are detached.
const ROUNDS: usize = 3;
/// How often a node is asked.
const PAUSE: Duration = Duration::from_millis(250);

async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("a cluster of this machine")?;
    let (mut links, mut slowest) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        let before = repaired(stage, 1).await?;
        links = detach(&machine, 1)?;
        let since = Instant::now();
        while repaired(stage, 1).await? < before + links as u64 {
            if since.elapsed() > PATIENCE {
                bail!("the agent of node 1 did not put back all of {links} guards");
            }
            tokio::time::sleep(PAUSE).await;
        }
        slowest = slowest.max(since.elapsed());
    }
    Ok(format!(
        "{ROUNDS} times at {links} links; back, and said in the status, after {} ms at most",
        slowest.as_millis()
    ))
}

/// Detaches what is in tcx at each link of a node that has something there; at how many that was.
fn detach(machine: &Machine, node: usize) -> anyhow::Result<usize> {
    let links = machine.inside(node, || Netlink::open()?.links())??;
    let mut detached = 0;
    for link in links {
        let mut some = false;
        for side in ["tcx_ingress", "tcx_egress"] {
            let mut tool = machine.on(node, TOOL);
            // It fails where nothing is attached.
            some |= tool.args(["net", "detach", side, "dev", &link.name]).output()?.status.success();
        }
        detached += usize::from(some);
    }
    anyhow::ensure!(detached > 0, "nothing was attached in tcx on node {node}");
    Ok(detached)
}

/// How many guards an agent has put back.
async fn repaired(stage: &Stage, number: usize) -> anyhow::Result<u64> {
    let agents = status::ask(&stage.cluster.client).await?;
    let node = agents.nodes.iter().find(|node| node.name == stage.nodes[number - 1]);
    let status = node.and_then(|node| node.status.as_ref());
    Ok(status.with_context(|| format!("the agent of node {number} does not answer"))?.enforcement.links.repaired)
}
