//! Somebody unmounts the BPF file system that the agent's pins are in, and mounts another one later.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ringfence_e2e::machine::Machine;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "bpffs-unmounted",
    about: "/sys/fs/bpf is unmounted on each node, mounted anew later, and the agent is started anew",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// Its path on nodes.
const PLACE: &str = "/sys/fs/bpf";
/// By when the node has to say that it is not ready: agents look every two seconds.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);
/// Time between two queries of a node.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Unmounts on every node; policy goes on changing. What only an agent that starts can mend is mended by one.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let (mut noticed, mut mended) = (Duration::ZERO, Duration::ZERO);
    for number in 1..=stage.nodes.len() {
        let mut unmounted = Unmounted::at(&machine, number)?;
        let since = Instant::now();
        ready(stage, number, false).await?;
        noticed = noticed.max(since.elapsed());
        for _ in 0..2 {
            let changed = stage.change(!stage.visit).await?;
            stage.reach(changed, PATIENCE, |_| true).await?;
        }
        unmounted.mount()?;
        // An agent that ends with nothing pinned closes what it guards, until another one is there.
        stage.exempt_open();
        let since = Instant::now();
        stage.restart_agent(number).await?;
        stage.agent_ready(number).await?;
        ready(stage, number, true).await?;
        stage.reach(since, PATIENCE, |_| true).await?;
        mended = mended.max(since.elapsed());
        // Now the pins are where a death needs them.
        stage.kill_agent(number).await?;
        stage.agent_ready(number).await?;
        stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    }
    let [noticed_told, mended] = [noticed, mended].map(|took| took.as_millis());
    ensure!(noticed <= NOTICE_LIMIT, "that it was unmounted was said after {noticed_told} ms only");
    Ok(format!(
        "on every node; not ready after {noticed_told} ms at most, two changes of policy meanwhile; mounted anew, all \
         pairs right {mended} ms at most after the agent was told to end, and the next one killed"
    ))
}

/// Waits until a node says that it is ready or not.
async fn ready(stage: &Stage, number: usize, wanted: bool) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let told = stage.told(number).await?;
        if told.status.is_some_and(|status| status.ready == wanted) {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            bail!("node {number} does not say that ready is {wanted}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A node without the file system; it has another one when dropped.
struct Unmounted<'a> {
    machine: &'a Machine,
    number: usize,
    mounted: bool,
}

impl<'a> Unmounted<'a> {
    fn at(machine: &'a Machine, number: usize) -> anyhow::Result<Self> {
        machine.inside(number, || umount2(PLACE, MntFlags::MNT_DETACH))?.with_context(|| format!("unmount {PLACE}"))?;
        Ok(Self { machine, number, mounted: false })
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let mounted = self
            .machine
            .inside(self.number, || mount(Some("bpf"), PLACE, Some("bpf"), MsFlags::empty(), None::<&str>))?;
        mounted.with_context(|| format!("mount {PLACE} on node {}", self.number))?;
        self.mounted = true;
        Ok(())
    }
}

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        if !self.mounted
            && let Err(error) = self.mount()
        {
            println!("{PLACE} is missing: {error:#}");
        }
    }
}
