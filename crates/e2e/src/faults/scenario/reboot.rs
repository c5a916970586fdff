//! A node loses everything but its disk, comes back, and its pods with it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use ringfence_e2e::{pod, reboot};
use serde_json::json;

use super::super::server::{ECHO, KNOCK};
use super::super::stage::{PATIENCE, SPACE, Stage, idle};
use super::super::sweep::{Sweep, hosts};
use super::{Scenario, on_this_machine};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "reboot",
    about: "A node loses everything but its disk",
    obstacle: on_this_machine,
    run: |stage, _| Box::pin(run(stage)),
};

/// The time that a node is down.
pub(super) const LENGTH: Duration = Duration::from_secs(5);
/// The time that its pods may take to be back.
const BACK: Duration = Duration::from_mins(4);

/// Every node in turn.
async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let mut slowest = Duration::ZERO;
    let (mut swept, mut stillborn) = (0, 0);
    for number in 1..=stage.nodes.len() {
        let (took, sent, resets) = one(stage, number).await.with_context(|| format!("reboot of node {number}"))?;
        slowest = slowest.max(took);
        swept += sent;
        stillborn += resets;
    }
    Ok(format!(
        "each node once; {swept} first packets from the other node to every address of the rebooted node's pods, and a \
         pod there that calls whom it must not as its first act; all pairs right again {:.0} s at most after the \
         start. {stillborn} addresses answered with a reset before the node's agent ran, of networks whose set-up was \
         then refused: no process ever was in them",
        slowest.as_secs_f64()
    ))
}

async fn one(stage: &mut Stage, number: usize) -> anyhow::Result<(Duration, u64, u64)> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    let other = stage.nodes.len() + 1 - number;
    let chatter = chatter(stage, number, other).await?;
    let mut strange = stage.strange().await?;
    let mut pods = stage.addresses().await?;
    let before = containers(stage, number).await?;
    stage.leave(number).await;
    let sweep = sweep(stage, number, other).await?;
    let down = reboot::power_off(&machine, number, &stage.nodes[number - 1])?;
    tokio::time::sleep(LENGTH).await;
    let begun = Instant::now();
    down.power_on()?;
    restarted(stage, number, &before).await?;
    stage.agents_ready().await?;
    let mut stillborn = 0;
    pods.extend(stage.addresses().await?);
    strange.extend(stage.strange().await?);
    let answers = sweep.as_ref().map(Sweep::answers).unwrap_or_default();
    for address in answers.into_keys().map(IpAddr::V4).filter(|address| !strange.contains(address)) {
        if pods.contains(&address) {
            let text = format!("leak: a stranger's first packet to {address} of the rebooted node was answered");
            stage.ledger.note(|counts| counts.leaked += 1, &text);
        } else {
            stillborn += 1;
            let text = format!("reset by {address} of the rebooted node, a network that became no pod's");
            stage.ledger.note(|_| {}, &text);
        }
    }
    let swept = sweep.as_ref().map_or(0, Sweep::sent);
    drop(sweep);
    stage.probe().await?;
    stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    let took = begun.elapsed();
    stage.cluster.delete(&chatter).await?;
    Ok((took, swept, stillborn))
}

/// A pod that calls the other node's server from the moment it runs; no policy of the server lets it.
async fn chatter(stage: &Stage, number: usize, other: usize) -> anyhow::Result<serde_json::Value> {
    let server: IpAddr = pod::address(&stage.cluster.ready(SPACE, &format!("server-{other}")).await?)?;
    let act = format!(
        "exec 4<> <(:); while :; do echo x >/dev/udp/{server}/{ECHO}; echo x >/dev/udp/{server}/{KNOCK}; read -t 0.01 \
         -u 4; done"
    );
    let mut pod = idle("chatter", number, &stage.nodes[number - 1]);
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!("docker.io/library/busybox:latest");
    container["args"] = json!(["bash", "-c", act]);
    stage.cluster.run(&pod).await?;
    Ok(pod)
}

/// First packets from a stranger on the other node to every address of this node's pods (IPv4).
async fn sweep(stage: &Stage, number: usize, other: usize) -> anyhow::Result<Option<Sweep>> {
    let stranger = stage.cluster.ready(SPACE, &format!("stranger-{other}")).await?;
    let IpAddr::V4(from) = pod::address(&stranger)? else { return Ok(None) };
    let range = stage.range(number).await?;
    Sweep::start(pod::network(&stranger)?, from, hosts(&range)?, &stage.ledger).map(Some)
}

/// Container of each pod of the stage on a node.
pub(super) async fn containers(stage: &Stage, number: usize) -> anyhow::Result<HashMap<String, String>> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    let here = kube::api::ListParams::default().fields(&format!("spec.nodeName={}", stage.nodes[number - 1]));
    let pods = api.list(&here).await?;
    let id = |pod: &Pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        Some((pod.name_any(), statuses.first()?.container_id.clone()?))
    };
    Ok(pods.iter().filter_map(id).collect())
}

/// Waits until every pod runs in another container than before.
pub(super) async fn restarted(stage: &Stage, number: usize, before: &HashMap<String, String>) -> anyhow::Result<()> {
    let end = Instant::now() + BACK;
    loop {
        let now = containers(stage, number).await.unwrap_or_default();
        let mut waiting = before.iter().filter(|(name, id)| now.get(*name).is_none_or(|now| now == *id));
        let Some((name, _)) = waiting.next() else { return Ok(()) };
        anyhow::ensure!(Instant::now() < end, "pod {name} did not come back within {BACK:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
