//! Namespaces: what each is given, and how one goes away with all that is in it.

use std::time::Duration;

use serde_json::{Value, json};

use super::Cluster;
use super::runner::{Controller, Seen};
use crate::api::json;
use crate::api::kinds::Subresource;
use crate::api::registry::{DeleteOptions, WriteOptions};
use crate::api::status::ApiError;
use crate::store::{Key, Scope};

/// True if an object is being deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

/// Gives each namespace its default ServiceAccount and the authority's certificate.
pub(super) struct Contents {
    pub(super) authority: String,
}

const ACCOUNT: (&str, &str) = ("serviceaccounts", "default");
const CERTIFICATE: (&str, &str) = ("configmaps", "kube-root-ca.crt");

impl Controller for Contents {
    const NAME: &'static str = "namespace contents";

    fn affected(&self, _: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        let given = [ACCOUNT, CERTIFICATE].contains(&(seen.key.resource, seen.key.name.as_str()));
        match seen.new {
            Some(_) if seen.key.resource == "namespaces" && seen.old.is_none() => vec![seen.key.clone()],
            None if given => vec![Key::new("namespaces", "", seen.key.namespace.as_str())],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        if cluster.get(key).is_none_or(|namespace| is_deleting(&namespace)) {
            return Ok(None);
        }
        let account = json!({ "metadata": { "name": ACCOUNT.1 } });
        let certificate = json!({ "metadata": { "name": CERTIFICATE.1 }, "data": { "ca.crt": self.authority } });
        for ((collection, name), value) in [(ACCOUNT, account), (CERTIFICATE, certificate)] {
            if cluster.get(&Key::new(collection, key.name.as_str(), name)).is_none() {
                cluster.create(collection, &key.name, value)?;
            }
        }
        Ok(None)
    }
}

/// Removes the content of namespaces that are being deleted, then them. Pods go first, so that nothing that holds them
/// is gone before them (KEP-5080).
pub(super) struct Lifecycle;

impl Controller for Lifecycle {
    const NAME: &'static str = "namespace lifecycle";

    fn affected(&self, _: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        match seen.new {
            Some(namespace) if seen.key.resource == "namespaces" && is_deleting(namespace) => vec![seen.key.clone()],
            None if !seen.key.namespace.is_empty() => vec![Key::new("namespaces", "", seen.key.namespace.as_str())],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        if !cluster.get(key).is_some_and(|namespace| is_deleting(&namespace)) {
            return Ok(None);
        }
        let scope = Scope { resource: None, namespace: Some(key.name.clone()) };
        let mut content = cluster.registry.store.entries(&scope);
        if content.iter().any(|(key, _)| key.resource == "pods") {
            content.retain(|(key, _)| key.resource == "pods");
        }
        let mut left = content.first().is_some_and(|(key, _)| key.resource == "pods");
        for (key, object) in content {
            left |= is_deleting(&object)
                || !cluster.registry.delete(Cluster::target(&key)?, &DeleteOptions::background())?.gone;
        }
        if !left {
            let target = Cluster::target(key)?;
            cluster.registry.modify(target, Some(Subresource::Finalize), &WriteOptions::default(), |old| {
                let mut new = old.clone();
                json::remove(&mut new["spec"], "finalizers");
                Ok(new)
            })?;
        }
        // What is left wakes this again when it is gone.
        Ok(None)
    }
}
