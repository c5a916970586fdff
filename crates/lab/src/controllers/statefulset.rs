//! StatefulSets: pods with fixed names, one after the other.

use std::time::Duration;

use serde_json::{Value, json};

use super::Cluster;
use super::events::hash;
use super::namespace::is_deleting;
use super::owner;
use super::replicaset::is_ready;
use super::runner::{Controller, Seen};
use crate::api::json::{self, Json as _};
use crate::api::registry::DeleteOptions;
use crate::api::status::ApiError;
use crate::store::{Key, Object};

pub(super) const COLLECTION: &str = "statefulsets.apps";
const COMPONENT: &str = "statefulset-controller";
/// Tells pods of different templates apart.
const REVISION_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// Makes and deletes pods.
pub(super) struct StatefulSets;

impl Controller for StatefulSets {
    const NAME: &'static str = COMPONENT;

    fn affected(&self, _: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        match seen.key.resource {
            COLLECTION => vec![seen.key.clone()],
            "pods" => {
                let pods = seen.old.into_iter().chain(seen.new);
                pods.filter_map(|pod| owner::controller_key(pod, COLLECTION)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(set) = cluster.get(key) else { return Ok(None) };
        let mut pods: Vec<_> = cluster.within("pods", &key.namespace);
        pods.retain(|pod| owner::is_controlled_by(pod, &set));
        let revision = format!("{}-{:x}", key.name, hash(set["spec"]["template"].to_string().as_bytes()));
        if !is_deleting(&set) {
            for step in plan(&set, &pods, &revision) {
                match step {
                    Step::Create(index) => create_pod(cluster, &set, index, &revision)?,
                    Step::Delete(name) => delete_pod(cluster, &set, &name)?,
                }
            }
        }
        update_status(cluster, key, &pods, &revision)?;
        Ok(None)
    }
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create(i64),
    Delete(String),
}

/// The next steps: with `Parallel` all that are missing or too many at once, else one at a time, each when the ones
/// before it are ready. A template is rolled out from the last pod to the first.
fn plan(set: &Value, pods: &[Object], revision: &str) -> Vec<Step> {
    let (first, wanted) = (set.int("/spec/ordinals/start"), set.int("/spec/replicas"));
    let parallel = set["spec"]["podManagementPolicy"] == "Parallel";
    let called = |index: i64| format!("{}-{index}", set.text("/metadata/name"));
    let mut steps = Vec::new();
    let mut settled = true;
    for index in first..first + wanted {
        let step = match pods.iter().find(|pod| pod.text("/metadata/name") == called(index)) {
            None => Some(Step::Create(index)),
            Some(pod) if has_ended(pod) && !is_deleting(pod) => Some(Step::Delete(called(index))),
            Some(pod) => {
                settled &= is_ready(pod) && !is_deleting(pod);
                None
            }
        };
        settled &= step.is_none();
        steps.extend(step);
        if !settled && !parallel {
            return steps;
        }
    }
    let extra = pods.iter().filter(|pod| !(first..first + wanted).contains(&index_of(pod)));
    let mut extra: Vec<_> = extra.filter(|pod| !is_deleting(pod)).collect();
    extra.sort_by_key(|pod| std::cmp::Reverse(index_of(pod)));
    let at_once = if parallel { extra.len() } else { 1 };
    steps.extend(extra.iter().take(at_once).map(|pod| Step::Delete(pod.text("/metadata/name").to_owned())));
    if steps.is_empty() && settled && set["spec"]["updateStrategy"]["type"] != "OnDelete" {
        let partition = set.int("/spec/updateStrategy/rollingUpdate/partition");
        let old = pods.iter().filter(|pod| pod["metadata"]["labels"][REVISION_LABEL] != revision);
        let old = old.filter(|pod| index_of(pod) >= partition).max_by_key(|pod| index_of(pod));
        steps.extend(old.map(|pod| Step::Delete(pod.text("/metadata/name").to_owned())));
    }
    steps
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod.text("/status/phase"), "Succeeded" | "Failed")
}

/// The number at the end of a pod's name.
fn index_of(pod: &Value) -> i64 {
    pod.text("/metadata/name").rsplit_once('-').and_then(|(_, index)| index.parse().ok()).unwrap_or(i64::MAX)
}

fn create_pod(cluster: &Cluster, set: &Object, index: i64, revision: &str) -> Result<(), ApiError> {
    let name = format!("{}-{index}", set.text("/metadata/name"));
    let template = &set["spec"]["template"];
    let mut metadata = template["metadata"].clone();
    metadata["name"] = name.as_str().into();
    metadata["ownerReferences"] = json!([owner::reference(Cluster::kind(COLLECTION)?, set)]);
    let labels = json::object(&mut metadata, "labels");
    labels[REVISION_LABEL] = revision.into();
    labels[NAME_LABEL] = name.as_str().into();
    labels[INDEX_LABEL] = index.to_string().into();
    let mut spec = template["spec"].clone();
    spec["hostname"] = name.as_str().into();
    if !set.text("/spec/serviceName").is_empty() {
        spec["subdomain"] = set["spec"]["serviceName"].clone();
    }
    let created = if set.list("/spec/volumeClaimTemplates").is_empty() {
        cluster.create("pods", set.text("/metadata/namespace"), json!({ "metadata": metadata, "spec": spec }))
    } else {
        Err(ApiError::bad_request("the lab has no persistent volumes: `volumeClaimTemplates` cannot be honoured"))
    };
    match created {
        Ok(_) => {
            cluster.record(COMPONENT, set, "SuccessfulCreate", &format!("create Pod {name} successful"));
            Ok(())
        }
        Err(error) => {
            cluster.warn(COMPONENT, set, "FailedCreate", &format!("create Pod {name} failed: {error}"));
            Err(error)
        }
    }
}

fn delete_pod(cluster: &Cluster, set: &Object, name: &str) -> Result<(), ApiError> {
    let key = Key::new("pods", set.text("/metadata/namespace"), name);
    cluster.registry.delete(Cluster::target(&key)?, &DeleteOptions::default())?;
    cluster.record(COMPONENT, set, "SuccessfulDelete", &format!("delete Pod {name} successful"));
    Ok(())
}

fn update_status(cluster: &Cluster, key: &Key, pods: &[Object], revision: &str) -> Result<(), ApiError> {
    let live = || pods.iter().filter(|pod| !has_ended(pod));
    let ready = live().filter(|pod| is_ready(pod)).count();
    let updated = live().filter(|pod| pod["metadata"]["labels"][REVISION_LABEL] == revision).count();
    cluster.modify(key, true, |object| {
        let current = match object["status"]["currentRevision"].as_str() {
            Some(current) if updated < live().count() => current.to_owned(),
            _ => revision.to_owned(),
        };
        let of_current = live().filter(|pod| pod["metadata"]["labels"][REVISION_LABEL] == current.as_str()).count();
        object["status"] = json!({
            "observedGeneration": object["metadata"]["generation"], "collisionCount": 0,
            "replicas": live().count(), "readyReplicas": ready, "availableReplicas": ready,
            "currentReplicas": of_current, "updatedReplicas": updated,
            "currentRevision": current, "updateRevision": revision,
        });
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn set(replicas: i64, policy: &str) -> Value {
        json!({
            "metadata": {"name": "db"},
            "spec": {"replicas": replicas, "podManagementPolicy": policy, "updateStrategy": {"type": "RollingUpdate"}},
        })
    }

    fn pod(index: i64, ready: bool, revision: &str) -> Object {
        let ready = if ready { "True" } else { "False" };
        Arc::new(json!({
            "metadata": {"name": format!("db-{index}"), "labels": {REVISION_LABEL: revision}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }))
    }

    fn deletes(name: &str) -> Vec<Step> {
        vec![Step::Delete(name.to_owned())]
    }

    #[test]
    fn pods_come_one_after_the_other() {
        let set = set(3, "OrderedReady");
        assert_eq!(plan(&set, &[], "a"), [Step::Create(0)]);
        assert_eq!(plan(&set, &[pod(0, false, "a")], "a"), []);
        assert_eq!(plan(&set, &[pod(0, true, "a")], "a"), [Step::Create(1)]);
        assert_eq!(plan(&set, &[pod(0, true, "a"), pod(2, true, "a")], "a"), [Step::Create(1)]);
    }

    #[test]
    fn or_all_at_once() {
        assert_eq!(plan(&set(2, "Parallel"), &[], "a"), [Step::Create(0), Step::Create(1)]);
        assert_eq!(plan(&set(2, "Parallel"), &[pod(0, false, "a")], "a"), [Step::Create(1)]);
    }

    #[test]
    fn the_last_goes_first() {
        let pods = [pod(0, true, "a"), pod(1, true, "a"), pod(2, true, "a")];
        assert_eq!(plan(&set(1, "OrderedReady"), &pods, "a"), deletes("db-2"));
    }

    #[test]
    fn a_template_is_rolled_out_backwards_while_all_are_ready() {
        let set = set(2, "OrderedReady");
        assert_eq!(plan(&set, &[pod(0, true, "a"), pod(1, true, "a")], "b"), deletes("db-1"));
        assert_eq!(plan(&set, &[pod(0, true, "a"), pod(1, false, "b")], "b"), []);
        assert_eq!(plan(&set, &[pod(0, true, "a"), pod(1, true, "b")], "b"), deletes("db-0"));
    }
}
