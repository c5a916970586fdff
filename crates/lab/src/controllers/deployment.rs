//! Deployments: a ReplicaSet for each template, one of them current.

use std::time::Duration;

use serde_json::{Value, json};

use super::Cluster;
use super::events::hash;
use super::namespace::is_deleting;
use super::owner;
use super::replicaset::{COLLECTION as REPLICA_SETS, adopt};
use super::rollout;
use super::runner::{Controller, Seen};
use crate::api::json::{self, Json as _};
use crate::api::registry::DeleteOptions;
use crate::api::status::ApiError;
use crate::api::validation::selects;
use crate::store::{Key, Object};

pub(super) const COLLECTION: &str = "deployments.apps";
const COMPONENT: &str = "deployment-controller";
/// Tells the pods of a Deployment's ReplicaSets apart.
const HASH_LABEL: &str = "pod-template-hash";
/// Counts the templates a Deployment has had.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Rolls out templates.
pub(super) struct Deployments;

impl Controller for Deployments {
    const NAME: &'static str = COMPONENT;

    fn affected(&self, _: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        let mut objects = seen.old.into_iter().chain(seen.new);
        match seen.key.resource {
            COLLECTION => vec![seen.key.clone()],
            REPLICA_SETS => objects.filter_map(|set| owner::controller_key(set, COLLECTION)).collect(),
            // A pod that is gone may be what a `Recreate` waits for.
            "pods" if seen.new.is_none() => {
                let set = objects.find_map(|pod| owner::controller_key(pod, REPLICA_SETS));
                set.and_then(|key| deployment_of(&key)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(deployment) = cluster.get(key).filter(|deployment| !is_deleting(deployment)) else { return Ok(None) };
        let sets = owned_sets(cluster, &deployment)?;
        let (new, old): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| is_current(&deployment, set));
        let mut new = new.into_iter().min_by_key(|set| set.text("/metadata/creationTimestamp").to_owned());
        let paused = deployment.flag("/spec/paused");
        if new.is_none() && !paused {
            new = create_set(cluster, key, &deployment, &old)?;
        }
        if let Some(new) = &mut new {
            *new = count_revision(cluster, key, &deployment, new, &old)?;
        }
        let mut all = rollout::Sets { new, old };
        for change in rollout::plan(&deployment, &all, has_live_pods(cluster, &all.old)) {
            scale(cluster, &deployment, &mut all, &change)?;
        }
        clean_up(cluster, &deployment, &all.old)?;
        rollout::update_status(cluster, key, &deployment, &all)
    }
}

/// The Deployment a ReplicaSet is named after.
fn deployment_of(set: &Key) -> Option<Key> {
    let (name, _) = set.name.rsplit_once('-')?;
    Some(Key::new(COLLECTION, set.namespace.as_str(), name))
}

/// The sets of a Deployment: those it controls, and those it selects that nobody controls, which it adopts.
fn owned_sets(cluster: &Cluster, deployment: &Object) -> Result<Vec<Object>, ApiError> {
    let mut owned = Vec::new();
    for set in cluster.within(REPLICA_SETS, deployment.text("/metadata/namespace")) {
        if owner::is_controlled_by(&set, deployment) {
            owned.push(set);
        } else if owner::controller(&set).is_none()
            && !is_deleting(&set)
            && selects(&deployment["spec"]["selector"], &set["metadata"]["labels"])
        {
            owned.push(adopt(cluster, COLLECTION, deployment, REPLICA_SETS, &set)?);
        }
    }
    Ok(owned)
}

/// True if a set has the template the Deployment has now.
fn is_current(deployment: &Value, set: &Value) -> bool {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"].get_mut("labels") {
        json::remove(labels, HASH_LABEL);
    }
    template == deployment["spec"]["template"]
}

fn has_live_pods(cluster: &Cluster, sets: &[Object]) -> bool {
    sets.iter().any(|set| {
        let pods = cluster.within("pods", set.text("/metadata/namespace"));
        let live = |pod: &Object| !matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
        pods.iter().any(|pod| live(pod) && owner::is_controlled_by(pod, set))
    })
}

/// Ten letters and digits that tell templates apart.
fn template_hash(deployment: &Value) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let identity = format!("{}{}", deployment["spec"]["template"], deployment.int("/status/collisionCount"));
    let mut rest = hash(identity.as_bytes());
    let mut text = String::with_capacity(10);
    for _ in 0..10 {
        text.push(char::from(ALPHABET[usize::try_from(rest % 27).unwrap_or_default()]));
        rest /= 27;
    }
    text
}

fn create_set(cluster: &Cluster, key: &Key, deployment: &Object, old: &[Object]) -> Result<Option<Object>, ApiError> {
    let hash = template_hash(deployment);
    let name = format!("{}-{hash}", key.name);
    let mut template = deployment["spec"]["template"].clone();
    json::object(json::object(&mut template, "metadata"), "labels")[HASH_LABEL] = hash.as_str().into();
    let mut selector = deployment["spec"]["selector"].clone();
    json::object(&mut selector, "matchLabels")[HASH_LABEL] = hash.as_str().into();
    let set = json!({
        "metadata": {
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": { REVISION: next_revision(old).to_string() },
            "ownerReferences": [owner::reference(Cluster::kind(COLLECTION)?, deployment)],
        },
        "spec": {
            "replicas": 0, "selector": selector, "template": template,
            "minReadySeconds": deployment.int("/spec/minReadySeconds"),
        },
    });
    match cluster.create(REPLICA_SETS, &key.namespace, set) {
        Ok(set) => {
            rollout::report_created(cluster, key, &name)?;
            Ok(Some(set))
        }
        // A set of another template has this name: counting the collision gives another, and comes back here.
        Err(error) if error.reason == "AlreadyExists" => {
            cluster.modify(key, true, |deployment| {
                json::object(deployment, "status")["collisionCount"] =
                    (deployment.int("/status/collisionCount") + 1).into();
            })?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn revision(object: &Value) -> i64 {
    object["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn next_revision(old: &[Object]) -> i64 {
    old.iter().map(|set| revision(set)).max().unwrap_or_default() + 1
}

/// The current set has the highest revision, and the Deployment says which that is.
fn count_revision(
    cluster: &Cluster,
    key: &Key,
    deployment: &Object,
    new: &Object,
    old: &[Object],
) -> Result<Object, ApiError> {
    let wanted = revision(new).max(next_revision(old));
    let mut new = Object::clone(new);
    if revision(&new) != wanted {
        let key = Key::new(REPLICA_SETS, key.namespace.as_str(), new.text("/metadata/name"));
        new = cluster.modify(&key, false, |set| annotate(set, wanted))?;
    }
    if revision(deployment) != wanted {
        cluster.modify(key, false, |deployment| annotate(deployment, wanted))?;
    }
    Ok(new)
}

fn annotate(object: &mut Value, revision: i64) {
    json::object(json::object(object, "metadata"), "annotations")[REVISION] = revision.to_string().into();
}

/// Sets the replicas of one set, and tells of it.
fn scale(
    cluster: &Cluster,
    deployment: &Object,
    sets: &mut rollout::Sets,
    change: &rollout::Change,
) -> Result<(), ApiError> {
    let key = Key::new(REPLICA_SETS, deployment.text("/metadata/namespace"), change.set.as_str());
    let scaled = cluster.modify(&key, false, |set| set["spec"]["replicas"] = change.to.into())?;
    let direction = if change.to > change.from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {} from {} to {}", change.set, change.from, change.to);
    cluster.record(COMPONENT, deployment, "ScalingReplicaSet", &message);
    if let Some(set) = sets.find(&change.set) {
        *set = scaled;
    }
    Ok(())
}

/// Deletes the oldest of the sets that are no longer used.
fn clean_up(cluster: &Cluster, deployment: &Object, old: &[Object]) -> Result<(), ApiError> {
    let limit = usize::try_from(deployment.int("/spec/revisionHistoryLimit")).unwrap_or(usize::MAX);
    let unused =
        |set: &&Object| set.int("/spec/replicas") == 0 && set.int("/status/replicas") == 0 && !is_deleting(set);
    let mut unused: Vec<_> = old.iter().filter(unused).collect();
    unused.sort_by_key(|set| revision(set));
    for set in unused.iter().take(unused.len().saturating_sub(limit)) {
        let key = Key::new(REPLICA_SETS, set.text("/metadata/namespace"), set.text("/metadata/name"));
        cluster.registry.delete(Cluster::target(&key)?, &DeleteOptions::background())?;
    }
    Ok(())
}
