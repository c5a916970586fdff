//! A node of many pods loses everything but its disk, where Ringfence is the network plugin: which address is whose
//! begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use ringfence_e2e::cluster::eventually;
use ringfence_e2e::{knock, pod, reboot};
use ringfence_netns::Namespace;
use serde_json::{Value, json};

use super::super::prober::PATIENCE as ANSWER;
use super::super::server::KNOCK;
use super::super::stage::{PATIENCE, SPACE, Stage, idle};
use super::reboot::{LENGTH, containers, restarted};
use super::{Scenario, where_primary};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "reboot-primary",
    about: "A node of 30 more pods loses everything but its disk, and with it the list of addresses that are taken",
    obstacle: where_primary,
    run: |stage, _| Box::pin(run(stage)),
};

/// The number of pods beside those of the stage.
const PODS: usize = 30;
const CROWD: &str = "crowd";
/// Callers: those of even numbers the first, the others the second.
const CALLERS: [&str; 2] = ["stranger", "visitor"];
/// The node that goes, and the one from which its pods are called.
const NODE: usize = 1;
const OTHER: usize = 2;

async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let machine = stage.machine.clone().context("no processes of nodes")?;
    for app in CALLERS {
        stage.cluster.apply(&policy(app)).await?;
    }
    let pods: Vec<_> = (1..=PODS).map(|number| member(number, &stage.nodes[NODE - 1])).collect();
    for pod in &pods {
        stage.cluster.create(pod).await?;
    }
    for number in 1..=PODS {
        stage.cluster.ready(SPACE, &format!("{CROWD}-{number}")).await?;
    }
    let before = addresses(stage).await?;
    judge(stage, &before).await?;
    let running = containers(stage, NODE).await?;
    stage.leave(NODE).await;
    let down = reboot::power_off(&machine, NODE, &stage.nodes[NODE - 1])?;
    tokio::time::sleep(LENGTH).await;
    let begun = Instant::now();
    down.power_on()?;
    restarted(stage, NODE, &running).await?;
    stage.agents_ready().await?;
    stage.probe().await?;
    stage.reach(Instant::now(), PATIENCE, |_| true).await?;
    let after = eventually("every pod has an address of its own", || async {
        let after = addresses(stage).await?;
        let different: BTreeSet<&IpAddr> = after.values().collect();
        Ok((after.len() == PODS && different.len() == PODS).then_some(after))
    })
    .await?;
    judge(stage, &after).await?;
    let took = begun.elapsed().as_secs();
    let moved = after.iter().filter(|(pod, address)| before.get(*pod) != Some(address)).count();
    let taken: BTreeSet<&IpAddr> = before.values().collect();
    let exchanged =
        after.iter().filter(|(pod, address)| before.get(*pod) != Some(address) && taken.contains(address)).count();
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels(&format!("app={CROWD}"))).await?;
    for app in CALLERS {
        stage.cluster.delete(&policy(app)).await?;
    }
    ensure!(exchanged > 0, "no pod has an address that another one had: nothing was tried");
    Ok(format!(
        "{PODS} pods more on it; {moved} of them have other addresses than before, {exchanged} of these one that \
         another pod had; each is open to whom its policy names and closed to others, {took} s after the start at most"
    ))
}

/// Sends a first packet to each from every node's stranger and visitor: one kind may call those of even numbers, the
/// other the rest. Waits until all that may be is answered; what is that may not be has leaked.
async fn judge(stage: &Stage, addresses: &BTreeMap<String, IpAddr>) -> anyhow::Result<()> {
    for from in [NODE, OTHER] {
        for (parity, app) in CALLERS.into_iter().enumerate() {
            let caller = pod::network(&stage.cluster.ready(SPACE, &format!("{app}-{from}")).await?)?;
            let begun = Instant::now();
            loop {
                let answered = call(&caller, addresses.values())?;
                stage.ledger.sent(answered.len() as u64);
                let mut silent = Vec::new();
                for ((name, address), answered) in addresses.iter().zip(answered) {
                    let may = number(name) % CALLERS.len() == parity;
                    match (may, answered) {
                        (false, true) => {
                            let text = format!("leak: {app}-{from} -> {name} ({address}): a first packet was answered");
                            stage.ledger.note(|counts| counts.leaked += 1, &text);
                        }
                        (true, false) => silent.push(name.as_str()),
                        _ => {}
                    }
                }
                if silent.is_empty() {
                    break;
                }
                if begun.elapsed() > PATIENCE {
                    bail!("{app}-{from} may call {} and is not answered within {PATIENCE:?}", silent.join(", "));
                }
            }
        }
    }
    Ok(())
}

/// The addresses that answered in time.
fn call<'a>(caller: &Namespace, to: impl Iterator<Item = &'a IpAddr> + Send) -> anyhow::Result<Vec<bool>> {
    caller.run(|| -> anyhow::Result<Vec<bool>> {
        let knocks: Vec<OwnedFd> = to
            .map(|address| {
                let knock = knock::open(*address)?;
                knock::send(&knock, SocketAddr::new(*address, KNOCK));
                Ok(knock)
            })
            .collect::<std::io::Result<_>>()?;
        std::thread::sleep(ANSWER);
        Ok(knock::answers(knocks.iter())?.into_iter().map(|answer| answer == Some(true)).collect())
    })?
}

async fn addresses(stage: &Stage) -> anyhow::Result<BTreeMap<String, IpAddr>> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    let pods = api.list(&ListParams::default().labels(&format!("app={CROWD}"))).await?;
    pods.iter().map(|pod| Ok((pod.name_any(), pod::address(pod)?))).collect()
}

fn member(number: usize, node: &str) -> Value {
    let mut pod = idle(CROWD, number, node);
    pod["metadata"]["labels"]["callers"] = json!(CALLERS[number % CALLERS.len()]);
    pod
}

fn number(name: &str) -> usize {
    name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Lets one kind of callers call those who are labelled so.
fn policy(app: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("{CROWD}-{app}"), "namespace": SPACE},
        "spec": {
            "podSelector": {"matchLabels": {"callers": app}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}],
        },
    })
}
