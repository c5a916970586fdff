//! The containers' runtime and the kubelet of each node are restarted.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use ringfence_e2e::component::Component;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "runtime",
    about: "The containers' runtime and the kubelet of each node are restarted",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// Restarts both on every node, and changes policy right after.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let mut slowest = Duration::ZERO;
    for number in 1..=stage.nodes.len() {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            for name in ["containerd", "kubelet"] {
                let component = Component::running(&machine, &format!("{name}-{number}"))?;
                component.stop(signal)?;
                component.start()?;
                let changed = stage.change(!stage.visit).await?;
                slowest = slowest.max(stage.reach(changed, PATIENCE, |_| true).await?);
            }
        }
    }
    stage.agents_ready().await?;
    stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    let slowest = slowest.as_millis();
    Ok(format!(
        "containerd and kubelet of every node ended by SIGTERM and by SIGKILL and started; a change of policy after \
         each was in force after {slowest} ms at most"
    ))
}
