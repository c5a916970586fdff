//! Somebody has the kernel show bridged packets to nobody, and later to netfilter again: nodes say that they are not
//! ready.

use std::time::Duration;

use anyhow::Context as _;
use ringfence_e2e::machine::Machine;
use tokio::time::Instant;

use super::super::stage::{PATIENCE, Stage};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "bridge-settings",
    about: "`bridge-nf-call-iptables` is set to 0 and to 1 again",
    obstacle: |stage, options| {
        let off = on_this_machine(stage, options);
        off.or_else(|| {
            stage.machine.as_ref().and_then(|machine| settings(machine, 1, None).err()).map(|error| {
                format!("pods of this cluster are not on a bridge, or its settings are not to be had: {error:#}")
            })
        })
    },
    run: |stage, _| Box::pin(run(stage)),
};

/// The setting, in the network namespace of whoever reads.
const SETTING: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// Time between two queries of a node.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// While it is 0, packets between pods of one bridge pass unseen: their pairs are not judged, all others are.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("a cluster of this machine")?;
    if !is_ready(stage, 1, true).await?.1 {
        return Ok("nothing: pods of this cluster are not on a bridge".into());
    }
    stage.exempt(|pair| pair.from == 1 && pair.to == 1);
    let off = Off { machine: &machine };
    settings(&machine, 1, Some("0"))?;
    let (noticed, _) = is_ready(stage, 1, false).await?;
    drop(off);
    let (mended, _) = is_ready(stage, 1, true).await?;
    stage.reach(std::time::Instant::now(), PATIENCE, |_| true).await?;
    let [noticed, mended] = [noticed, mended].map(|took| took.as_millis());
    Ok(format!("the node was not ready after {noticed} ms, and ready {mended} ms after it was 1 again"))
}

/// The setting, set back when dropped.
struct Off<'a> {
    machine: &'a Machine,
}

impl Drop for Off<'_> {
    fn drop(&mut self) {
        if let Err(error) = settings(self.machine, 1, Some("1")) {
            println!("the bridge of node 1 is left open: {error:#}");
        }
    }
}

fn settings(machine: &Machine, node: usize, set: Option<&str>) -> anyhow::Result<String> {
    machine
        .inside(node, || match set {
            Some(value) => std::fs::write(SETTING, value).map(|()| value.to_owned()),
            None => std::fs::read_to_string(SETTING),
        })?
        .with_context(|| SETTING.to_owned())
}

/// Waits until a node says that it is ready or not; how long that took, and whether its pods are on a bridge.
async fn is_ready(stage: &Stage, number: usize, wanted: bool) -> anyhow::Result<(Duration, bool)> {
    let since = Instant::now();
    loop {
        if let Some(status) = stage.told(number).await?.status
            && status.ready == wanted
        {
            return Ok((since.elapsed(), status.enforcement.bridge_netfilter.is_some()));
        }
        anyhow::ensure!(since.elapsed() < PATIENCE, "node {number} does not say that ready is {wanted}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
