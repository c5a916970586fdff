//! Somebody is the first on a node to call `ip netns add`, which mounts the directory of namespaces over itself.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ringfence_e2e::cluster::eventually;
use ringfence_e2e::machine::Machine;
use ringfence_e2e::pod;

use super::super::stage::{PATIENCE, Stage, idle};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "first-netns-add",
    about: "Somebody's first `ip netns add` on each node covers the names of pods' network namespaces",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// Directory of named namespaces.
const DIRECTORY: &str = "/run/netns";
/// The namespace that somebody makes.
const THEIRS: &str = "e2e-other";
const NOTHING: Option<&str> = None;

/// On every node: pods from before go, new ones come and go, policy changes, the agent is started anew.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let mut slowest = Duration::ZERO;
    for number in 1..=stage.nodes.len() {
        let before = idle("before", number, &stage.nodes[number - 1]);
        let address = pod::address(&stage.cluster.run(&before).await?)?;
        let covered = Covered::make(&machine, number)?;
        stage.cluster.delete(&before).await?;
        let begun = Instant::now();
        closed(stage, number, address).await?;
        slowest = slowest.max(begun.elapsed());
        let after = idle("after", number, &stage.nodes[number - 1]);
        let address = pod::address(&stage.cluster.run(&after).await?)?;
        stage.kill_agent(number).await?;
        stage.agent_ready(number).await?;
        let changed = stage.change(!stage.visit).await?;
        stage.reach(changed, PATIENCE, |_| true).await?;
        stage.cluster.delete(&after).await?;
        closed(stage, number, address).await?;
        drop(covered);
        stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    }
    Ok(format!(
        "on every node; a pod from before went (closed after {} ms at most), another came and went, the agent was \
         killed and policy changed",
        slowest.as_millis()
    ))
}

/// Waits until an agent knows nobody at an address any more.
async fn closed(stage: &Stage, number: usize, address: IpAddr) -> anyhow::Result<()> {
    eventually(&format!("{address} of node {number} is nobody's"), || async {
        let told = stage.told(number).await?;
        let status = told.status.filter(|status| status.endpoints.iter().all(|endpoint| endpoint.address != address));
        Ok(status.map(drop))
    })
    .await
}

/// The directory is mounted over itself; no more when dropped.
struct Covered<'a> {
    machine: &'a Machine,
    number: usize,
}

impl<'a> Covered<'a> {
    /// As iproute2 does it where the directory is no mount of its own yet.
    fn make(machine: &'a Machine, number: usize) -> anyhow::Result<Self> {
        let mounted = machine.inside(number, || {
            mount(Some(DIRECTORY), DIRECTORY, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
            mount(NOTHING, DIRECTORY, NOTHING, MsFlags::MS_SHARED | MsFlags::MS_REC, NOTHING)
        })?;
        mounted.with_context(|| format!("mount {DIRECTORY} of node {number}"))?;
        let covered = Self { machine, number };
        covered.netns("add")?;
        Ok(covered)
    }

    fn netns(&self, verb: &str) -> anyhow::Result<()> {
        let done = self.machine.on(self.number, "ip").args(["netns", verb, THEIRS]).output().context("ip")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "ip netns {verb} {THEIRS}: {}", said.trim());
        Ok(())
    }
}

impl Drop for Covered<'_> {
    fn drop(&mut self) {
        let deleted = self.netns("delete");
        let unmounted = self.machine.inside(self.number, || umount2(DIRECTORY, MntFlags::MNT_DETACH));
        if let Err(error) = unmounted.and_then(|unmounted| Ok(unmounted?)).and(deleted) {
            println!("{DIRECTORY} of node {} is not as it was: {error:#}", self.number);
        }
    }
}
