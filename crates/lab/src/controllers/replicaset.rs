//! ReplicaSets: as many pods as they say.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Cluster;
use super::namespace::is_deleting;
use super::owner;
use super::runner::{Controller, Seen};
use crate::api::json::{self, Json as _};
use crate::api::registry::DeleteOptions;
use crate::api::status::ApiError;
use crate::api::validation::selects;
use crate::store::{Key, Object};

pub(super) const COLLECTION: &str = "replicasets.apps";
const COMPONENT: &str = "replicaset-controller";
/// At most so many pods at a time, so that one set does not keep all others waiting.
const BATCH: usize = 100;

/// Makes and deletes pods.
pub(super) struct ReplicaSets;

impl Controller for ReplicaSets {
    const NAME: &'static str = COMPONENT;

    fn affected(&self, cluster: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        match seen.key.resource {
            COLLECTION => vec![seen.key.clone()],
            "pods" => {
                let pods = seen.old.into_iter().chain(seen.new);
                let mut keys: Vec<_> = pods.filter_map(|pod| owner::controller_key(pod, COLLECTION)).collect();
                if let Some(pod) = seen.new.filter(|pod| owner::controller(pod).is_none()) {
                    keys.extend(matching(cluster, pod));
                }
                keys
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(set) = cluster.get(key) else { return Ok(None) };
        let mut pods = owned_pods(cluster, &set)?;
        if !is_deleting(&set) {
            let wanted = usize::try_from(set.int("/spec/replicas")).unwrap_or_default();
            if pods.len() < wanted {
                for _ in 0..(wanted - pods.len()).min(BATCH) {
                    pods.push(create_pod(cluster, &set)?);
                }
            } else if pods.len() > wanted {
                pods.sort_by_key(|pod| std::cmp::Reverse(expendability(pod)));
                for pod in pods.drain(..pods.len() - wanted) {
                    delete_pod(cluster, &set, &pod)?;
                }
            }
        }
        update_status(cluster, key, &set, &pods)
    }
}

/// The sets that would adopt a pod nobody controls.
fn matching(cluster: &Cluster, pod: &Value) -> Vec<Key> {
    let namespace = pod.text("/metadata/namespace");
    let sets = cluster.within(COLLECTION, namespace);
    let matching = sets.iter().filter(|set| selects(&set["spec"]["selector"], &pod["metadata"]["labels"]));
    matching.map(|set| Key::new(COLLECTION, namespace, set.text("/metadata/name"))).collect()
}

/// The live pods of a set: those it controls, and those it selects that nobody controls, which it adopts.
fn owned_pods(cluster: &Cluster, set: &Object) -> Result<Vec<Object>, ApiError> {
    let namespace = set.text("/metadata/namespace");
    let mut owned = Vec::new();
    for pod in cluster.within("pods", namespace) {
        let live = !is_deleting(&pod) && !matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
        if !live {
            continue;
        }
        if owner::is_controlled_by(&pod, set) {
            owned.push(pod);
        } else if owner::controller(&pod).is_none()
            && !is_deleting(set)
            && selects(&set["spec"]["selector"], &pod["metadata"]["labels"])
        {
            owned.push(adopt(cluster, COLLECTION, set, "pods", &pod)?);
        }
    }
    Ok(owned)
}

/// Makes an owner the controller of an object that has none.
pub(super) fn adopt(
    cluster: &Cluster,
    collection: &str,
    owner: &Object,
    dependents: &'static str,
    object: &Object,
) -> Result<Object, ApiError> {
    let reference = owner::reference(Cluster::kind(collection)?, owner);
    let key = Key::new(dependents, object.text("/metadata/namespace"), object.text("/metadata/name"));
    cluster.modify(&key, false, |object| {
        json::default(&mut object["metadata"], "ownerReferences", json!([]));
        if let Some(references) = object["metadata"]["ownerReferences"].as_array_mut() {
            references.push(reference);
        }
    })
}

fn create_pod(cluster: &Cluster, set: &Object) -> Result<Object, ApiError> {
    let template = &set["spec"]["template"];
    let mut metadata = json!({
        "generateName": format!("{}-", set.text("/metadata/name")),
        "ownerReferences": [owner::reference(Cluster::kind(COLLECTION)?, set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let pod = json!({ "metadata": metadata, "spec": template["spec"] });
    match cluster.create("pods", set.text("/metadata/namespace"), pod) {
        Ok(pod) => {
            let message = format!("Created pod: {}", pod.text("/metadata/name"));
            cluster.record(COMPONENT, set, "SuccessfulCreate", &message);
            Ok(pod)
        }
        Err(error) => {
            cluster.warn(COMPONENT, set, "FailedCreate", &format!("Error creating: {error}"));
            Err(error)
        }
    }
}

/// Order in which pods go: those without a node, not running, not ready, and among equals the newest.
fn expendability(pod: &Value) -> (bool, bool, bool, String, String) {
    (
        pod.text("/spec/nodeName").is_empty(),
        pod.text("/status/phase") != "Running",
        !is_ready(pod),
        pod.text("/metadata/creationTimestamp").to_owned(),
        pod.text("/metadata/name").to_owned(),
    )
}

fn delete_pod(cluster: &Cluster, set: &Object, pod: &Object) -> Result<(), ApiError> {
    let name = pod.text("/metadata/name");
    let key = Key::new("pods", pod.text("/metadata/namespace"), name);
    cluster.registry.delete(Cluster::target(&key)?, &DeleteOptions::default())?;
    cluster.record(COMPONENT, set, "SuccessfulDelete", &format!("Deleted pod: {name}"));
    Ok(())
}

/// True if a pod is ready to serve.
pub(super) fn is_ready(pod: &Value) -> bool {
    pod.condition("Ready").is_some_and(|condition| condition["status"] == "True")
}

/// For how many seconds a pod has been ready, if it is.
fn ready_for(pod: &Value) -> Option<i64> {
    let ready = pod.condition("Ready").filter(|condition| condition["status"] == "True")?;
    let since: Timestamp = ready.text("/lastTransitionTime").parse().unwrap_or(Timestamp::UNIX_EPOCH);
    Some(Timestamp::now().as_second() - since.as_second())
}

fn update_status(cluster: &Cluster, key: &Key, set: &Object, pods: &[Object]) -> Result<Option<Duration>, ApiError> {
    let patience = set.int("/spec/minReadySeconds");
    let ready: Vec<_> = pods.iter().filter_map(|pod| ready_for(pod)).collect();
    let available = ready.iter().filter(|age| **age >= patience).count();
    let labels = set.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    let labelled = pods
        .iter()
        .filter(|pod| labels.entries("").all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value)));
    let labelled = labelled.count();
    cluster.modify(key, true, |object| {
        let generation = object["metadata"]["generation"].clone();
        object["status"] = json!({
            "replicas": pods.len(), "fullyLabeledReplicas": labelled, "readyReplicas": ready.len(),
            "availableReplicas": available, "observedGeneration": generation,
        });
    })?;
    // A pod that is ready becomes available by time alone.
    let next = ready.iter().filter(|age| **age < patience).map(|age| patience - age).min();
    Ok(next.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs))
}
