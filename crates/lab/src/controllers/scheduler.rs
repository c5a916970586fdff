//! Scheduling: a node for each pod, the one with the fewest.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::Cluster;
use super::namespace::is_deleting;
use super::runner::{Controller, Seen};
use crate::api::json::Json as _;
use crate::api::registry::set_condition;
use crate::api::status::ApiError;
use crate::store::{Key, Object, Scope};

const COMPONENT: &str = "default-scheduler";

/// Gives pods their nodes.
pub(super) struct Scheduler;

impl Controller for Scheduler {
    const NAME: &'static str = COMPONENT;

    fn affected(&self, cluster: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        match (seen.key.resource, seen.new) {
            ("pods", Some(pod)) if waits(pod) => vec![seen.key.clone()],
            ("nodes", Some(node)) if seen.old.is_none_or(|old| traits(old) != traits(node)) => waiting(cluster),
            // What a pod leaves may be what another waits for.
            ("pods", after) if after.is_none_or(has_ended) && host_ports(seen.object()).next().is_some() => {
                waiting(cluster)
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(pod) = cluster.get(key).filter(|pod| waits(pod)) else { return Ok(None) };
        let nodes = cluster.list(&Scope::all("nodes"));
        let mut refused: HashMap<String, usize> = HashMap::new();
        let mut fitting = Vec::new();
        let running: Vec<_> = cluster.list(&Scope::all("pods")).into_iter().filter(|pod| !has_ended(pod)).collect();
        for node in &nodes {
            match unfit(&pod, node).or_else(|| crowded(&pod, node, &running)) {
                None => fitting.push(node.text("/metadata/name").to_owned()),
                Some(reason) => *refused.entry(reason).or_default() += 1,
            }
        }
        let counts = pods_by_node(&running);
        let best = fitting.into_iter().min_by_key(|name| (counts.get(name).copied().unwrap_or_default(), name.clone()));
        match best {
            Some(node) => bind(cluster, key, &pod, &node),
            None => report_unschedulable(cluster, key, &pod, nodes.len(), refused),
        }
        .map(|()| None)
    }
}

/// True if a pod waits for this scheduler.
fn waits(pod: &Value) -> bool {
    pod.text("/spec/nodeName").is_empty() && pod["spec"]["schedulerName"] == COMPONENT && !is_deleting(pod)
}

/// Fields of a node that decide which pods may go there.
fn traits(node: &Value) -> (&Value, &Value, bool) {
    (&node["metadata"]["labels"], &node["spec"], is_ready(node))
}

fn is_ready(node: &Value) -> bool {
    node.condition("Ready").is_some_and(|condition| condition["status"] == "True")
}

/// The reason why a pod cannot go to a node.
fn unfit(pod: &Value, node: &Value) -> Option<String> {
    if !is_ready(node) || is_deleting(node) {
        return Some("node(s) were not ready".to_owned());
    }
    if node.flag("/spec/unschedulable") {
        return Some("node(s) were unschedulable".to_owned());
    }
    let labels = &node["metadata"]["labels"];
    if pod.entries("/spec/nodeSelector").any(|(key, value)| labels.get(key) != Some(value)) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let taint = node.list("/spec/taints").iter().find(|taint| !tolerates(pod, taint))?;
    Some(format!("node(s) had untolerated taint {{{}: {}}}", taint.text("/key"), taint.text("/value")))
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    if !matches!(taint.text("/effect"), "NoSchedule" | "NoExecute") {
        return true;
    }
    pod.list("/spec/tolerations").iter().any(|toleration| {
        let (key, effect) = (toleration.text("/key"), toleration.text("/effect"));
        let any_value = toleration["operator"] == "Exists";
        (effect.is_empty() || effect == taint.text("/effect"))
            && (key == taint.text("/key") || (key.is_empty() && any_value))
            && (any_value || toleration.text("/value") == taint.text("/value"))
    })
}

/// The reason why a pod cannot go to a node beside those that run there: they have its ports.
fn crowded(pod: &Value, node: &Value, running: &[Object]) -> Option<String> {
    let wanted: HashSet<_> = host_ports(pod).collect();
    let there = running.iter().filter(|other| other["spec"]["nodeName"] == node["metadata"]["name"]);
    let taken = !wanted.is_empty() && there.flat_map(|other| host_ports(other)).any(|port| wanted.contains(&port));
    taken.then(|| "node(s) didn't have free ports for the requested pod ports".to_owned())
}

/// Ports of the node that a pod takes, with their protocols.
fn host_ports(pod: &Value) -> impl Iterator<Item = (i64, &str)> {
    let ports = pod.list("/spec/containers").iter().flat_map(|container| container.list("/ports"));
    ports.filter(|port| port.int("/hostPort") > 0).map(|port| (port.int("/hostPort"), port.text("/protocol")))
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod.text("/status/phase"), "Succeeded" | "Failed")
}

/// All pods that wait for this scheduler.
fn waiting(cluster: &Cluster) -> Vec<Key> {
    let pods = cluster.registry.store.entries(&Scope::all("pods"));
    pods.into_iter().filter(|(_, pod)| waits(pod)).map(|(key, _)| key).collect()
}

fn pods_by_node(running: &[Object]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for pod in running {
        *counts.entry(pod.text("/spec/nodeName").to_owned()).or_default() += 1;
    }
    counts
}

fn bind(cluster: &Cluster, key: &Key, pod: &Object, node: &str) -> Result<(), ApiError> {
    cluster.registry.bind(Cluster::target(key)?, node)?;
    let message = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
    cluster.record(COMPONENT, pod, "Scheduled", &message);
    Ok(())
}

fn report_unschedulable(
    cluster: &Cluster,
    key: &Key,
    pod: &Object,
    nodes: usize,
    refused: HashMap<String, usize>,
) -> Result<(), ApiError> {
    let mut reasons: Vec<_> = refused.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let message = if nodes == 0 {
        "no nodes available to schedule pods".to_owned()
    } else {
        format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
    };
    let known = pod.condition("PodScheduled").is_some_and(|condition| condition["message"] == message);
    if known {
        return Ok(());
    }
    cluster.modify(key, true, |pod| {
        let condition =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message });
        set_condition(pod, condition);
    })?;
    cluster.warn(COMPONENT, pod, "FailedScheduling", &message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pod(node: &str, port: i64, protocol: &str) -> Object {
        Arc::new(json!({"spec": {
            "nodeName": node,
            "containers": [{"ports": [{"containerPort": 1}, {"hostPort": port, "protocol": protocol}]}],
        }}))
    }

    #[test]
    fn a_port_of_a_node_is_given_away_once() {
        let node = |name: &str| json!({"metadata": {"name": name}});
        let running = [pod("a", 80, "TCP"), pod("", 81, "TCP")];
        assert!(crowded(&pod("", 80, "TCP"), &node("a"), &running).is_some());
        assert_eq!(crowded(&pod("", 80, "UDP"), &node("a"), &running), None);
        assert_eq!(crowded(&pod("", 81, "TCP"), &node("a"), &running), None);
        assert_eq!(crowded(&pod("", 80, "TCP"), &node("b"), &running), None);
    }
}
