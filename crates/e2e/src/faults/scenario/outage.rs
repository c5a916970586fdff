//! API server and etcd are gone for a while; policies change as soon as they are back.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use ringfence_e2e::component::Component;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "outage",
    about: "API server and etcd are gone",
    obstacle: on_this_machine,
    run: |stage, options| Box::pin(run(stage, options.outage.into())),
};

/// Takes them away for so long.
async fn run(stage: &mut Stage, outage: Duration) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let server = Component::running(&machine, "apiserver")?;
    let store = Component::running(&machine, "etcd")?;
    server.stop(Signal::SIGKILL)?;
    store.stop(Signal::SIGKILL)?;
    tokio::time::sleep(outage).await;
    store.start()?;
    server.start()?;
    let begun = Instant::now();
    stage.api_answers(PATIENCE).await?;
    let back = begun.elapsed();
    let changed = stage.change(!stage.visit).await?;
    let took = stage.reach(changed, PATIENCE, |_| true).await?;
    stage.agents_ready().await?;
    Ok(format!(
        "both killed, {} s without; policy changed as soon as the API answered again ({:.1} s after their start) was \
         in force everywhere {:.1} s later",
        outage.as_secs(),
        back.as_secs_f64(),
        took.as_secs_f64()
    ))
}
