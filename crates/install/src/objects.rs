//! Objects of any kind, as JSON, written to and removed from the API.

use anyhow::Context as _;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

/// Field manager of our writes.
const MANAGER: &str = "ringfence-install";

/// Kind, namespace and name, for people.
pub fn title(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind").unwrap_or_default(), text("/metadata/name").unwrap_or_default());
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// The API's resource of an object. Regular plurals only, and those of policies.
pub fn resource(object: &Value) -> anyhow::Result<ApiResource> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let version = text("apiVersion").context("an object without apiVersion")?;
    let kind = text("kind").context("an object without kind")?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let gvk = GroupVersionKind::gvk(group, version, kind);
    Ok(match kind.strip_suffix("Policy") {
        Some(stem) => ApiResource::from_gvk_with_plural(&gvk, &format!("{}policies", stem.to_lowercase())),
        None => ApiResource::from_gvk(&gvk),
    })
}

/// The collection an object belongs to.
pub fn api(client: &Client, object: &Value) -> anyhow::Result<Api<DynamicObject>> {
    let resource = resource(object)?;
    Ok(match object.pointer("/metadata/namespace").and_then(Value::as_str) {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

fn name(object: &Value) -> anyhow::Result<&str> {
    object.pointer("/metadata/name").and_then(Value::as_str).context("an object without a name")
}

/// Writes an object as it shall be, whoever wrote it before.
pub async fn apply(client: &Client, object: &Value) -> anyhow::Result<DynamicObject> {
    let parameters = PatchParams::apply(MANAGER).force();
    let applied = api(client, object)?.patch(name(object)?, &parameters, &Patch::Apply(object)).await;
    applied.with_context(|| format!("cannot write {}", title(object)))
}

/// Removes an object; true if it was there.
pub async fn delete(client: &Client, object: &Value) -> anyhow::Result<bool> {
    match api(client, object)?.delete(name(object)?, &DeleteParams::background()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", title(object))),
    }
}

/// The object; none where it, or its kind, is not there.
pub(crate) fn found<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        other => other.map(Some),
    }
}

/// Takes an object that is gone for removed.
pub(crate) fn ignore_absence<T>(result: kube::Result<T>) -> kube::Result<()> {
    found(result).map(drop)
}

/// The collection of ClusterNetworkPolicies, which a cluster need not have.
pub fn cluster_policies(client: &Client) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy");
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, "clusternetworkpolicies"))
}

/// Removes the ClusterNetworkPolicies with a label; there are none where there is no such kind.
pub async fn remove_cluster_policies(client: &Client, label: &str) -> anyhow::Result<()> {
    let policies = cluster_policies(client);
    let listed = found(policies.list(&ListParams::default().labels(label)).await);
    for policy in listed.context("cannot list ClusterNetworkPolicies")?.into_iter().flatten() {
        let name = policy.name_any();
        let removed = ignore_absence(policies.delete(&name, &DeleteParams::default()).await);
        removed.with_context(|| format!("cannot remove ClusterNetworkPolicy {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_found_where_the_api_has_them() {
        let plural =
            |version: &str, kind: &str| resource(&json!({"apiVersion": version, "kind": kind})).unwrap().plural;
        assert_eq!(plural("apps/v1", "DaemonSet"), "daemonsets");
        assert_eq!(plural("networking.k8s.io/v1", "NetworkPolicy"), "networkpolicies");
        assert_eq!(plural("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"), "clusternetworkpolicies");
        assert!(resource(&json!({"kind": "Pod"})).is_err());
    }
}
