//! Policies as the cases write them.

use serde_json::{Value, json};

use super::stage::Names;

/// A NetworkPolicy of a space.
pub(super) fn network_policy(names: &Names<'_>, space: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": names.namespace(space)}, "spec": spec,
    })
}

/// A ClusterNetworkPolicy of the stage.
pub(super) fn cluster_policy(names: &Names<'_>, name: &str, tier: &str, priority: u32, spec: Value) -> Value {
    let mut spec = spec;
    spec["tier"] = json!(tier);
    spec["priority"] = json!(priority);
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": names.cluster_wide(name)}, "spec": spec,
    })
}

/// Selects pods by the name they have on the stage; all without one.
pub(super) fn pods(name: Option<&str>) -> Value {
    name.map_or_else(|| json!({}), |name| json!({"matchLabels": {"pod": name}}))
}

/// Selects a space.
pub(super) fn space(names: &Names<'_>, space: &str) -> Value {
    json!({"matchLabels": {"ringfence-verify": names.run(), "space": space}})
}

/// Selects both spaces.
pub(super) fn spaces(names: &Names<'_>) -> Value {
    json!({"matchLabels": {"ringfence-verify": names.run()}})
}

/// A policy that isolates pods in one direction and lets nothing through but what the rules say.
pub(super) fn isolate(names: &Names<'_>, space: &str, pod: Option<&str>, direction: &str, rules: &[Value]) -> Value {
    let spec = json!({"podSelector": pods(pod), "policyTypes": [direction], direction.to_lowercase(): rules});
    network_policy(names, space, "verify", &spec)
}
