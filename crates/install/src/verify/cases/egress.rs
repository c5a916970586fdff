//! Whom pods may connect to.

use serde_json::{Value, json};

use super::super::case::{Case, Port};
use super::super::policy::{isolate, network_policy, pods, space};
use super::super::stage::Names;
use super::case;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "egress-deny-all",
            |names| vec![isolate(names, "x", None, "Egress", &[])],
            |attempt| attempt.from.space != "x",
        ),
        case(
            "egress-to-namespace",
            |names| one(names, json!([{"namespaceSelector": space(names, "y")}]), None),
            |attempt| !attempt.is_from("x", "a") || attempt.to.space == "y",
        ),
        case(
            "egress-to-pods-of-namespace",
            |names| one(names, json!([{"namespaceSelector": space(names, "y"), "podSelector": pods(Some("b"))}]), None),
            |attempt| !attempt.is_from("x", "a") || attempt.is_to("y", "b"),
        ),
        case(
            "egress-to-address",
            |names| {
                let blocks = names.blocks("y", "b").into_iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
                one(names, Value::Array(blocks.collect()), None)
            },
            |attempt| !attempt.is_from("x", "a") || attempt.is_to("y", "b"),
        ),
        case(
            "egress-port",
            |names| one(names, json!([]), Some(json!([{"port": 8081, "protocol": "TCP"}]))),
            |attempt| !attempt.is_from("x", "a") || attempt.port == Port::Alt,
        ),
        case(
            "egress-named-port",
            |names| one(names, json!([]), Some(json!([{"port": "web", "protocol": "TCP"}]))),
            |attempt| !attempt.is_from("x", "a") || attempt.port == Port::Web,
        ),
        case(
            "egress-udp",
            |names| one(names, json!([]), Some(json!([{"port": 8080, "protocol": "UDP"}]))),
            |attempt| !attempt.is_from("x", "a") || attempt.port == Port::Datagram,
        ),
        case(
            "both-directions",
            |names| {
                let both = json!({
                    "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"namespaceSelector": space(names, "y"), "podSelector": pods(Some("a"))}]}],
                    "egress": [{"to": [{"podSelector": {}}]}],
                });
                vec![network_policy(names, "x", "verify", &both)]
            },
            // Within x the sender may and the receiver may not.
            |attempt| match (attempt.from.space, attempt.to.space) {
                ("x", _) => false,
                (_, "x") => attempt.from.name == "a",
                _ => true,
            },
        ),
    ]
}

/// A policy on x/a with one rule.
fn one(names: &Names<'_>, to: Value, ports: Option<Value>) -> Vec<Value> {
    let mut rule = json!({});
    if to.as_array().is_some_and(|peers| !peers.is_empty()) {
        rule["to"] = to;
    }
    if let Some(ports) = ports {
        rule["ports"] = ports;
    }
    vec![isolate(names, "x", Some("a"), "Egress", &[rule])]
}
