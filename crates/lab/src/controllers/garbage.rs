//! Garbage collection: objects whose owners are gone go too, and owners that wait for theirs are let go.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

use super::Cluster;
use super::namespace::is_deleting;
use super::owner;
use super::runner::{Controller, Seen};
use crate::api::json::{self, Json as _};
use crate::api::registry::{DeleteOptions, FOREGROUND, ORPHAN, Propagation};
use crate::api::status::ApiError;
use crate::store::{Key, Object};

/// Knows which objects name which owner.
#[derive(Default)]
pub(super) struct Collector {
    /// Dependents by the uid of the owner they name.
    dependents: Mutex<HashMap<String, HashSet<Key>>>,
}

impl Controller for Collector {
    const NAME: &'static str = "garbage collection";

    fn affected(&self, _: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        let refs = |object: Option<&Value>| object.map_or(Vec::new(), |o| o.list("/metadata/ownerReferences").to_vec());
        let (old, new) = (refs(seen.old), refs(seen.new));
        if old != new {
            self.index(seen.key, &old, &new);
        }
        let Some(object) = seen.new else {
            // What this owned is orphaned; what owned it may have waited for it.
            let owners = old.iter().filter_map(|reference| owner::key_of(reference, &seen.key.namespace));
            return self.dependents(seen.object()).into_iter().chain(owners).collect();
        };
        let waited_for = is_deleting(object) && [FOREGROUND, ORPHAN].iter().any(|name| has_finalizer(object, name));
        if waited_for || (old != new && !new.is_empty()) { vec![seen.key.clone()] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(object) = cluster.get(key) else { return Ok(None) };
        if is_deleting(&object) && has_finalizer(&object, ORPHAN) {
            self.orphan(cluster, key, &object)?;
        } else if is_deleting(&object) && has_finalizer(&object, FOREGROUND) {
            self.delete_dependents(cluster, key, &object)?;
        } else {
            check_owners(cluster, key, &object)?;
        }
        Ok(None)
    }
}

impl Collector {
    fn index(&self, key: &Key, old: &[Value], new: &[Value]) {
        let mut dependents = self.dependents.lock();
        for reference in old {
            let uid = reference.text("/uid");
            if let Some(keys) = dependents.get_mut(uid) {
                keys.remove(key);
                if keys.is_empty() {
                    dependents.remove(uid);
                }
            }
        }
        for reference in new {
            dependents.entry(reference.text("/uid").to_owned()).or_default().insert(key.clone());
        }
    }

    /// Keys that named an owner when they were seen last.
    fn dependents(&self, owner: &Value) -> Vec<Key> {
        let dependents = self.dependents.lock();
        let keys = dependents.get(owner.text("/metadata/uid"));
        keys.map_or_else(Vec::new, |keys| keys.iter().cloned().collect())
    }

    /// The objects that name an owner now: what was seen may be out of date.
    fn living(&self, cluster: &Cluster, owner: &Value) -> Vec<(Key, Object)> {
        let names = |object: &Object| {
            object
                .list("/metadata/ownerReferences")
                .iter()
                .any(|reference| reference["uid"] == owner["metadata"]["uid"])
        };
        let found = self.dependents(owner).into_iter().filter_map(|key| cluster.get(&key).map(|object| (key, object)));
        found.filter(|(_, object)| names(object)).collect()
    }

    /// Takes an owner's name from its dependents, then lets it go.
    fn orphan(&self, cluster: &Cluster, key: &Key, object: &Object) -> Result<(), ApiError> {
        for (dependent, _) in self.living(cluster, object) {
            drop_references(cluster, &dependent, |reference| reference["uid"] == object["metadata"]["uid"])?;
        }
        drop_finalizer(cluster, key, ORPHAN)
    }

    /// Deletes what an owner owns; lets it go when nothing is left.
    fn delete_dependents(&self, cluster: &Cluster, key: &Key, object: &Object) -> Result<(), ApiError> {
        let dependents = self.living(cluster, object);
        let left = !dependents.is_empty();
        for (dependent, found) in dependents {
            if is_deleting(&found) {
                continue;
            }
            let owns = !self.living(cluster, &found).is_empty();
            let propagation = owns.then_some(Propagation::Foreground);
            let options = DeleteOptions { propagation, ..DeleteOptions::default() };
            cluster.registry.delete(Cluster::target(&dependent)?, &options)?;
        }
        // Those that are gone by now were seen to go, and bring this back.
        if left { Ok(()) } else { drop_finalizer(cluster, key, FOREGROUND) }
    }
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    object.list("/metadata/finalizers").iter().any(|finalizer| finalizer == name)
}

fn drop_finalizer(cluster: &Cluster, key: &Key, name: &str) -> Result<(), ApiError> {
    cluster.modify(key, false, |object| {
        if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
            list.retain(|finalizer| finalizer != name);
        }
    })?;
    Ok(())
}

fn drop_references(cluster: &Cluster, key: &Key, drop: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
    let result = cluster.modify(key, false, |object| {
        if let Some(list) = object["metadata"]["ownerReferences"].as_array_mut() {
            list.retain(|reference| !drop(reference));
            if list.is_empty() {
                json::remove(&mut object["metadata"], "ownerReferences");
            }
        }
    });
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes an object all of whose owners are gone.
fn check_owners(cluster: &Cluster, key: &Key, object: &Object) -> Result<(), ApiError> {
    let references = object.list("/metadata/ownerReferences");
    let gone = |reference: &Value| {
        let Some(owner) = owner::key_of(reference, &key.namespace) else { return false };
        cluster.get(&owner).is_none_or(|owner| owner["metadata"]["uid"] != reference["uid"])
    };
    let missing = references.iter().filter(|reference| gone(reference)).count();
    if missing > 0 && missing < references.len() {
        return drop_references(cluster, key, gone);
    }
    if missing > 0 && !is_deleting(object) {
        let uid = Some(object.text("/metadata/uid").to_owned());
        cluster.registry.delete(Cluster::target(key)?, &DeleteOptions { uid, ..DeleteOptions::background() })?;
    }
    Ok(())
}
