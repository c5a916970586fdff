//! Policies as the cases write them.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::stage::SPACE;

/// Isolates the pods of a selection against ingress, but for these rules.
pub(super) fn ingress(selected: &Value, rules: &[Value]) -> Value {
    policy("ingress", selected, &json!({"policyTypes": ["Ingress"], "ingress": rules}))
}

/// Isolates the pods of a selection against egress, but for these rules.
pub(super) fn egress(selected: &Value, rules: &[Value]) -> Value {
    policy("egress", selected, &json!({"policyTypes": ["Egress"], "egress": rules}))
}

/// A policy of a name.
pub(super) fn policy(name: &str, selected: &Value, rest: &Value) -> Value {
    let mut spec = rest.clone();
    spec["podSelector"] = selected.clone();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": SPACE}, "spec": spec,
    })
}

/// Selects pods by what they are for.
pub(super) fn role(role: &str) -> Value {
    json!({"matchLabels": {"role": role}})
}

/// The peers that this selects in the own namespace.
pub(super) fn pods(selected: &Value) -> Value {
    json!([{"podSelector": selected}])
}

/// These addresses as peers, each a block of its own.
pub(super) fn blocks(addresses: &[IpAddr]) -> Value {
    let block = |address: &IpAddr| json!({"ipBlock": {"cidr": cidr(*address)}});
    addresses.iter().map(block).collect()
}

/// The block of one address.
pub(super) fn cidr(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// A port by TCP; a number or a name.
pub(super) fn tcp(port: impl Into<Value>) -> Value {
    json!([{"protocol": "TCP", "port": port.into()}])
}
