//! Policies about who may connect to pods.

use serde_json::{Value, json};

use super::super::case::{Case, Check, Port};
use super::super::policy::{isolate, pods, space};
use super::super::stage::Names;
use super::case;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = by_peer();
    cases.extend(by_port());
    cases.push(Case {
        name: "ingress-cuts-open-connections",
        cluster_wide: false,
        policies: |names| vec![isolate(names, "x", Some("a"), "Ingress", &[])],
        check: Check::Cut,
    });
    cases
}

fn by_peer() -> Vec<Case> {
    vec![
        case(
            "ingress-deny-all",
            |names| vec![isolate(names, "x", None, "Ingress", &[])],
            |attempt| attempt.to.space != "x",
        ),
        case(
            "ingress-deny-one-pod",
            |names| vec![isolate(names, "x", Some("a"), "Ingress", &[])],
            |attempt| !attempt.is_to("x", "a"),
        ),
        case(
            "ingress-from-pods-of-own-namespace",
            |names| one(names, json!([{"podSelector": pods(Some("b"))}]), None),
            |attempt| !attempt.is_to("x", "a") || attempt.is_from("x", "b"),
        ),
        case(
            "ingress-from-namespace",
            |names| one(names, json!([{"namespaceSelector": space(names, "y")}]), None),
            |attempt| !attempt.is_to("x", "a") || attempt.from.space == "y",
        ),
        case(
            "ingress-from-pods-of-namespace",
            |names| one(names, json!([{"namespaceSelector": space(names, "y"), "podSelector": pods(Some("a"))}]), None),
            |attempt| !attempt.is_to("x", "a") || attempt.is_from("y", "a"),
        ),
        case(
            "ingress-from-either-of-two-peers",
            |names| {
                let of_y = json!({"namespaceSelector": space(names, "y"), "podSelector": pods(Some("a"))});
                one(names, json!([of_y, {"podSelector": pods(Some("b"))}]), None)
            },
            |attempt| !attempt.is_to("x", "a") || attempt.is_from("y", "a") || attempt.is_from("x", "b"),
        ),
        case(
            "ingress-by-expression",
            |names| {
                let expression = json!({"key": "pod", "operator": "NotIn", "values": ["a"]});
                one(names, json!([{"namespaceSelector": {}, "podSelector": {"matchExpressions": [expression]}}]), None)
            },
            |attempt| !attempt.is_to("x", "a") || attempt.from.name == "b",
        ),
        case(
            "ingress-from-address",
            |names| {
                let blocks = names.blocks("y", "a").into_iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
                one(names, Value::Array(blocks.collect()), None)
            },
            |attempt| !attempt.is_to("x", "a") || attempt.is_from("y", "a"),
        ),
        case(
            "ingress-from-everywhere-except-address",
            |names| {
                let blocks = names.blocks("y", "a").into_iter().map(|except| {
                    let cidr = if except.contains(':') { "::/0" } else { "0.0.0.0/0" };
                    json!({"ipBlock": {"cidr": cidr, "except": [except]}})
                });
                one(names, Value::Array(blocks.collect()), None)
            },
            |attempt| !attempt.is_to("x", "a") || !attempt.is_from("y", "a"),
        ),
    ]
}

fn by_port() -> Vec<Case> {
    vec![
        case(
            "ingress-port",
            |names| one(names, json!([]), Some(json!([{"port": 8080, "protocol": "TCP"}]))),
            |attempt| !attempt.is_to("x", "a") || attempt.port == Port::Web,
        ),
        case(
            "ingress-named-port",
            |names| one(names, json!([]), Some(json!([{"port": "alt", "protocol": "TCP"}]))),
            |attempt| !attempt.is_to("x", "a") || attempt.port == Port::Alt,
        ),
        case(
            "ingress-port-range",
            |names| one(names, json!([]), Some(json!([{"port": 8081, "endPort": 9000, "protocol": "TCP"}]))),
            |attempt| !attempt.is_to("x", "a") || attempt.port == Port::Alt,
        ),
        case(
            "ingress-udp",
            |names| one(names, json!([]), Some(json!([{"port": 8080, "protocol": "UDP"}]))),
            |attempt| !attempt.is_to("x", "a") || attempt.port == Port::Datagram,
        ),
        case(
            "ingress-peer-and-port",
            |names| {
                let ports = json!([{"port": "web", "protocol": "TCP"}]);
                one(names, json!([{"namespaceSelector": space(names, "y")}]), Some(ports))
            },
            |attempt| !attempt.is_to("x", "a") || (attempt.from.space == "y" && attempt.port == Port::Web),
        ),
        case(
            "ingress-policies-add-up",
            |names| {
                let mut web = one(names, json!([]), Some(json!([{"port": "web", "protocol": "TCP"}])));
                web[0]["metadata"]["name"] = json!("verify-web");
                let from_y = one(names, json!([{"namespaceSelector": space(names, "y")}]), None);
                [web, from_y].concat()
            },
            |attempt| !attempt.is_to("x", "a") || attempt.from.space == "y" || attempt.port == Port::Web,
        ),
    ]
}

/// A policy on x/a with one rule.
fn one(names: &Names<'_>, from: Value, ports: Option<Value>) -> Vec<Value> {
    let mut rule = json!({});
    if from.as_array().is_some_and(|peers| !peers.is_empty()) {
        rule["from"] = from;
    }
    if let Some(ports) = ports {
        rule["ports"] = ports;
    }
    vec![isolate(names, "x", Some("a"), "Ingress", &[rule])]
}
