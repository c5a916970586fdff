//! The agents of a cluster, and questions to them: `ringfence` run beside each, so that nothing of an agent has to be
//! open to the network and the API server decides who may ask.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use ringfence_k8s::exec::Output;

use crate::AGENT_LABEL;
use crate::exec::{self, Container};

/// How many agents are asked at a time.
const AT_ONCE: usize = 32;

/// A node, and its agent if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the node.
    pub node: String,
    /// The agent that runs there, or why none does.
    pub agent: Result<Container, String>,
}

/// Every node of the cluster that agents are for, by name.
pub async fn list(client: &Client) -> Result<Vec<Place>, kube::Error> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default().labels(AGENT_LABEL)).await?;
    Ok(places(&nodes.items, &pods.items))
}

fn places(nodes: &[Node], pods: &[Pod]) -> Vec<Place> {
    let mut agents: BTreeMap<&str, Result<Container, String>> = BTreeMap::new();
    for pod in pods {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else { continue };
        let found = agent(pod);
        // During an upgrade a node has the old agent's pod and the new one's.
        let entry = agents.entry(node).or_insert_with(|| found.clone());
        if entry.is_err() && found.is_ok() {
            *entry = found;
        }
    }
    let mut places: Vec<Place> = nodes
        .iter()
        .filter(|node| node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux"))
        .map(|node| Place {
            node: node.name_any(),
            agent: agents.get(&*node.name_any()).cloned().unwrap_or_else(|| Err(without(node))),
        })
        .collect();
    places.sort_by(|a, b| a.node.cmp(&b.node));
    places
}

fn without(node: &Node) -> String {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status != "True" => {
            let message = ready.message.as_deref().unwrap_or("no reason is given");
            format!("no agent runs there, and the node is not ready: {message}")
        }
        _ => "no agent runs there".to_owned(),
    }
}

/// The agent's container, if it runs.
fn agent(pod: &Pod) -> Result<Container, String> {
    let name = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.clone()).next();
    let namespace = pod.namespace().unwrap_or_default();
    let place = Container { namespace, pod: pod.name_any(), name: name.unwrap_or_default() };
    match crate::rollout::trouble(pod) {
        Some(trouble) => Err(trouble),
        None => Ok(place),
    }
}

/// Runs `ringfence` with these arguments beside each agent.
pub async fn ask(
    client: &Client,
    places: &[Place],
    arguments: &[&str],
    limit: Duration,
) -> Vec<(String, Result<Output, String>)> {
    let command: Vec<&str> = std::iter::once("ringfence").chain(arguments.iter().copied()).collect();
    stream::iter(places).map(|place| one(client, place, &command, limit)).buffered(AT_ONCE).collect().await
}

async fn one(client: &Client, place: &Place, command: &[&str], limit: Duration) -> (String, Result<Output, String>) {
    let answer = match &place.agent {
        Ok(container) => exec::run(client, container, command, limit).await.map_err(|error| format!("{error:#}")),
        Err(why) => Err(why.clone()),
    };
    (place.node.clone(), answer)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, running: bool) -> Pod {
        let state = if running {
            json!({"running": {}})
        } else {
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
        };
        let phase = if running { "Running" } else { "Pending" };
        parse(json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"nodeName": node, "containers": [{"name": "agent"}]},
            "status": {"phase": phase, "containerStatuses": [{
                "name": "agent", "image": "", "imageID": "", "ready": running, "restartCount": 0, "state": state,
            }]},
        }))
    }

    fn node(name: &str, os: &str) -> Node {
        parse(json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": os}}}))
    }

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn every_linux_node_has_a_line_and_a_running_agent_wins() {
        let nodes = [node("b", "linux"), node("a", "linux"), node("w", "windows"), node("c", "linux")];
        let pods = [pod("old", "a", false), pod("new", "a", true), pod("broken", "c", false)];
        let found = places(&nodes, &pods);
        let names: Vec<&str> = found.iter().map(|place| place.node.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(found[0].agent.as_ref().unwrap().pod, "new");
        assert_eq!(found[1].agent.as_ref().unwrap_err(), "no agent runs there");
        assert!(found[2].agent.as_ref().unwrap_err().contains("ImagePullBackOff: no such image"), "{found:?}");
    }
}
