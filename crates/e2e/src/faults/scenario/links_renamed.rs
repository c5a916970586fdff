//! The node's ends of pods' links get other names while their pods talk, and the agent is started anew meanwhile.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use ringfence_e2e::machine::Machine;
use ringfence_netns::{Link, Netlink};

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "links-renamed",
    about: "The node's ends of pods' links are renamed, and have their names again",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// Time between two queries of a node.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("a cluster of this machine")?;
    let renamed = Renamed::all(&machine, 1)?;
    guarded(stage, 1).await?;
    stage.kill_agent(1).await?;
    stage.agent_ready(1).await?;
    guarded(stage, 1).await?;
    let changed = stage.change(!stage.visit).await?;
    stage.reach(changed, PATIENCE, |_| true).await?;
    let count = renamed.names.len();
    drop(renamed);
    guarded(stage, 1).await?;
    Ok(format!("{count} links, with a kill of the agent and a change of policy before they had their names again"))
}

/// Links of a node with other names; they have their own again when dropped.
struct Renamed<'a> {
    machine: &'a Machine,
    node: usize,
    names: Vec<(String, String)>,
}

impl<'a> Renamed<'a> {
    fn all(machine: &'a Machine, node: usize) -> anyhow::Result<Self> {
        let mut renamed = Self { machine, node, names: Vec::new() };
        let ends = machine.inside(node, || Netlink::open()?.links())??;
        // Which of them are pods' does not matter: an uplink that is a veth keeps working under any name.
        for link in ends.iter().filter(|link| is_pods(link)) {
            let (name, other) = (link.name.clone(), format!("other{}", link.index));
            machine.inside(node, || Netlink::open()?.rename_link(&name, &other))??;
            renamed.names.push((name, other));
        }
        anyhow::ensure!(!renamed.names.is_empty(), "node {node} has no link of a pod");
        Ok(renamed)
    }
}

/// Uplinks have an end in the machine's namespace too; they are the ones that are called as in every machine.
fn is_pods(link: &Link) -> bool {
    link.kind == "veth" && link.peer_namespace.is_some() && !link.name.starts_with("eth")
}

impl Drop for Renamed<'_> {
    fn drop(&mut self) {
        for (name, other) in &self.names {
            let back = self.machine.inside(self.node, || Netlink::open()?.rename_link(other, name));
            if let Err(error) = back.and_then(|back| Ok(back?)) {
                println!("a link of node {} is still called {other}: {error:#}", self.node);
            }
        }
    }
}

/// Waits until an agent says that the links of all its pods are guarded and none is closed.
async fn guarded(stage: &Stage, number: usize) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        if let Some(status) = stage.told(number).await?.status {
            let exposed = status.endpoints.iter().filter(|endpoint| !endpoint.guarded).count();
            if exposed == 0 && status.enforcement.host_interfaces.closed.is_empty() {
                return Ok(());
            }
        }
        anyhow::ensure!(since.elapsed() < PATIENCE, "not all links of node {number} are guarded");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
