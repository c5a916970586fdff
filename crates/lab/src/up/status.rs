//! Status of a lab.

use std::io::Write;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::serve::client;
use super::state::State;
use crate::place::Place;

/// Tells how the lab is; says whether all is well.
pub fn status(place: &Place, out: &mut dyn Write) -> anyhow::Result<bool> {
    let Some(state) = State::load(place)? else {
        writeln!(out, "no lab is up in {}\nhint: ringfence lab up", place.root().display())?;
        return Ok(false);
    };
    if !state.process.is_alive() {
        writeln!(
            out,
            "the lab's process has died; pods and enforcement stand\nhint: `ringfence lab up` takes it over, \
             `ringfence lab down` removes it"
        )?;
        return Ok(false);
    }
    let ready = place.ready_file().exists();
    writeln!(out, "lab         {}", if ready { "ready" } else { "starting" })?;
    writeln!(out, "API         {}", state.api_url.as_deref().unwrap_or("starting"))?;
    writeln!(out, "KUBECONFIG  {}", place.kubeconfig().display())?;
    writeln!(out, "log         {}\n", place.log_file().display())?;
    if state.api_url.is_none() {
        return Ok(false);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let well = runtime.block_on(async {
        let client = client(&place.kubeconfig()).await?;
        nodes(&client, state.options.agents, out).await
    })?;
    Ok(ready && well)
}

/// A line per node: addresses, pods, agent.
async fn nodes(client: &Client, agents: bool, out: &mut dyn Write) -> anyhow::Result<bool> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?;
    let mut well = !nodes.items.is_empty();
    writeln!(out, "{:<12}{:<28}{:<28}{:<6}AGENT", "NODE", "ADDRESS", "PODS", "COUNT")?;
    for node in &nodes.items {
        let name = node.name_any();
        let spec = node.spec.clone().unwrap_or_default();
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let addresses: Vec<String> =
            addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address.clone()).collect();
        let on_node = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&name);
        let own = pods.items.iter().filter(on_node);
        let count = own.clone().filter(|pod| pod.metadata.name.as_deref() != Some(&agent_pod(&name))).count();
        let agent = match own.clone().find(|pod| pod.metadata.name.as_deref() == Some(&agent_pod(&name))) {
            _ if !agents => "none (started without)",
            Some(pod) if is_ready(pod) => "ready",
            Some(_) | None => {
                well = false;
                "not ready"
            }
        };
        let ranges = spec.pod_cidrs.unwrap_or_default();
        writeln!(out, "{name:<12}{:<28}{:<28}{count:<6}{agent}", addresses.join(","), ranges.join(","))?;
    }
    Ok(well)
}

fn agent_pod(node: &str) -> String {
    format!("ringfence-{node}")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
