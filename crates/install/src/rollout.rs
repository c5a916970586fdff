//! Waiting for pods, and saying why they do not come.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::Instant;

use crate::manifest::Values;
use crate::survey::some;
use crate::{AGENT_LABEL, Progress, unready};

/// Time between two queries.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The time that agents that run may take to be ready before they are asked what the matter is, and how often.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// True if a pod is ready, as its status tells.
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The reason why a pod is not running, as far as its status tells; none if it runs.
pub(crate) fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref();
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("it is ending".into());
    }
    let containers = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    if let Some(trouble) = containers.into_iter().find_map(container_trouble) {
        return Some(trouble);
    }
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if phase == "Running" {
        return None;
    }
    let unscheduled = status.iter().flat_map(|status| status.conditions.iter().flatten());
    let why = unscheduled.into_iter().find(|condition| condition.status != "True").and_then(|c| c.message.clone());
    Some(why.map_or_else(|| phase.to_owned(), |why| format!("{phase}: {why}")))
}

/// The reason why nobody answers for a node, if so: its kubelet has not been heard for a while.
pub(crate) fn down(node: &Node) -> Option<String> {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unknown = conditions.find(|condition| condition.type_ == "Ready" && condition.status == "Unknown")?;
    Some(unknown.message.as_deref().unwrap_or("no reason is given").trim_end_matches('.').to_owned())
}

fn container_trouble(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let terminated = state?.terminated.as_ref()?;
        let said = terminated.message.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let last = said.map(|said| said.lines().last().unwrap_or_default().to_owned());
        Some(last.unwrap_or_else(|| format!("exit code {}", terminated.exit_code)))
    };
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let detail = ended(status.last_state.as_ref()).or_else(|| waiting.message.clone());
        return Some(detail.map_or_else(|| reason.to_owned(), |detail| format!("{reason}: {detail}")));
    }
    ended(Some(state)).map(|said| format!("it ended: {said}"))
}

/// Waits until every pod of the agents' DaemonSet is of its newest revision and ready.
pub(crate) async fn rolled_out(
    client: &Client,
    values: &Values,
    limit: Duration,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let namespace = values.namespace.as_str();
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let end = Instant::now() + limit;
    let mut told = String::new();
    let (mut before, mut asking) = (String::new(), Instant::now() + REPORT_INTERVAL);
    let (mut said, mut hinted) = (BTreeMap::new(), None);
    loop {
        let set = api.get(crate::manifest::NAME).await.context("cannot read the DaemonSet of the agents")?;
        let (line, done) = state(&set);
        if line != before {
            said.clear();
            (before, asking) = (line.clone(), Instant::now() + REPORT_INTERVAL);
        }
        let mut troubles = agent_troubles(client, namespace).await?;
        // One that is ending is ready to its last moment.
        let done = done && troubles.is_empty();
        if !done {
            if Instant::now() > asking {
                let hint;
                (said, hint) = unready::ask(client, values).await?;
                asking = Instant::now() + REPORT_INTERVAL;
                if let (None, Some(hint)) = (&hinted, &hint) {
                    progress.say(hint);
                }
                hinted = hinted.or(hint);
            }
            for (node, why) in &said {
                troubles.entry(node.clone()).or_insert_with(|| why.clone());
            }
        }
        let text = std::iter::once(line).chain(grouped(&troubles)).collect::<Vec<_>>().join("; ");
        if text != told {
            progress.say(&text);
            told = text;
        }
        if done {
            return Ok(());
        }
        if Instant::now() > end {
            let hint = hinted.unwrap_or_else(|| format!("hint: kubectl -n {namespace} describe pods -l {AGENT_LABEL}"));
            bail!("not every agent is ready within {limit:?}: {told}\n{hint}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Each problem once, with its nodes.
fn grouped(troubles: &BTreeMap<String, String>) -> Vec<String> {
    let mut nodes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (node, why) in troubles {
        nodes.entry(why).or_default().push(node.clone());
    }
    nodes.into_iter().map(|(why, nodes)| format!("{}: {why}", some(nodes.into_iter()))).collect()
}

/// A line about a DaemonSet, and whether it is done.
fn state(set: &DaemonSet) -> (String, bool) {
    let status = set.status.clone().unwrap_or_default();
    let seen = status.observed_generation == set.metadata.generation;
    let wanted = status.desired_number_scheduled;
    let (new, ready) = (status.updated_number_scheduled.unwrap_or_default(), status.number_ready);
    let done = seen && wanted > 0 && new >= wanted && ready >= wanted;
    (format!("agents: {ready} of {wanted} ready, {new} of this version"), done)
}

async fn agent_troubles(client: &Client, namespace: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let pods =
        Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default().labels(AGENT_LABEL)).await?;
    let with_node = |pod: &Pod| Some((pod.spec.as_ref()?.node_name.clone()?, trouble(pod)?));
    Ok(pods.items.iter().filter_map(with_node).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_is_done_when_every_pod_is_new_and_ready() {
        let set = |observed: i64, ready: i32, updated: i32| -> DaemonSet {
            serde_json::from_value(json!({
                "metadata": {"generation": 2},
                "status": {
                    "observedGeneration": observed, "desiredNumberScheduled": 3, "currentNumberScheduled": 3,
                    "numberMisscheduled": 0, "numberReady": ready, "updatedNumberScheduled": updated,
                },
            }))
            .unwrap()
        };
        assert!(state(&set(2, 3, 3)).1);
        assert!(!state(&set(1, 3, 3)).1, "of an older generation");
        assert!(!state(&set(2, 2, 3)).1);
        assert!(!state(&set(2, 3, 1)).1);
        assert!(!state(&DaemonSet::default()).1, "nothing is scheduled yet");
    }

    #[test]
    fn a_node_is_down_when_its_kubelet_is_silent_and_not_when_it_complains() {
        let node = |status: &str| -> Node {
            let ready = json!({"type": "Ready", "status": status, "message": "Kubelet stopped posting node status."});
            serde_json::from_value(json!({"status": {"conditions": [ready]}})).unwrap()
        };
        assert_eq!(down(&node("Unknown")).as_deref(), Some("Kubelet stopped posting node status"));
        assert_eq!((down(&node("True")), down(&node("False")), down(&Node::default())), (None, None, None));
    }

    #[test]
    fn what_is_the_matter_with_many_nodes_is_told_once() {
        let troubles = [("a", "x"), ("b", "y"), ("c", "x")].map(|(node, why)| (node.to_owned(), why.to_owned()));
        assert_eq!(grouped(&troubles.into()), ["a, c: x", "b: y"]);
    }

    #[test]
    fn the_last_words_of_a_crashing_agent_are_told() {
        let pod: Pod = serde_json::from_value(json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"exitCode": 2, "message": "starting\nerror: this kernel has no BTF\n"}},
        }]}}))
        .unwrap();
        assert_eq!(trouble(&pod).unwrap(), "CrashLoopBackOff: error: this kernel has no BTF");
    }
}
