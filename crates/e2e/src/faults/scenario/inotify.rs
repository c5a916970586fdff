//! A node has no watch of files left to give while agents start.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::super::stage::{PATIENCE, Stage};
use super::plugin_configuration::rewrite;
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "no-inotify",
    about: "No watch of files is left (inotify) while each agent starts, and its network configuration is rewritten",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// The number of users may have. Machines have one of all their nodes' namespaces.
const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Kills every agent, and rewrites its configuration once it is back.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let mut slowest = Duration::ZERO;
    for number in 1..=stage.nodes.len() {
        let none = NoneLeft::make()?;
        stage.kill_agent(number).await?;
        stage.agent_ready(number).await?;
        slowest = slowest.max(rewrite(stage, &machine, number).await?);
        drop(none);
        let changed = stage.change(!stage.visit).await?;
        stage.reach(changed, PATIENCE, |_| true).await?;
    }
    stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    Ok(format!(
        "each agent killed and ready again meanwhile; the plugin was back {} ms at most after others had rewritten the \
         configuration without it",
        slowest.as_millis()
    ))
}

/// No watch is given; as before when dropped.
struct NoneLeft {
    before: String,
}

impl NoneLeft {
    fn make() -> anyhow::Result<Self> {
        let before = fs::read_to_string(LIMIT).context(LIMIT)?;
        fs::write(LIMIT, "0").context(LIMIT)?;
        Ok(Self { before })
    }
}

impl Drop for NoneLeft {
    fn drop(&mut self) {
        if let Err(error) = fs::write(LIMIT, &self.before) {
            println!("{LIMIT} stays at 0: {error}");
        }
    }
}
