//! Another program takes the agent's port for probes and metrics while the agent is away.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "port-taken",
    about: "Another program takes the port of each agent's probes and metrics while the agent is restarted",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// The port of an installation with its defaults.
const ADDRESS: &str = "127.0.0.1:9464";
/// The time that it may take to get it from an agent that was killed.
const TAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Takes the port on every node, until the agent has failed for it, and gives it back.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    for number in 1..=stage.nodes.len() {
        stage.kill_agent(number).await?;
        let end = Instant::now() + TAKE_TIMEOUT;
        let taken = loop {
            if let Ok(listener) = machine.inside(number, || TcpListener::bind(ADDRESS))? {
                break listener;
            }
            if Instant::now() > end {
                bail!("{ADDRESS} of node {number} cannot be had");
            }
        };
        stage.agent_failed(number, k8s_openapi::jiff::Timestamp::now()).await?;
        stage.reach(Instant::now(), PATIENCE, |_| true).await?;
        drop(taken);
        stage.agent_ready(number).await?;
        let changed = stage.change(!stage.visit).await?;
        stage.reach(changed, PATIENCE, |_| true).await?;
    }
    Ok("on every node until an agent had failed for it; then given back".into())
}
