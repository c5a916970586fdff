//! Cluster-wide policy: what comes before and after NetworkPolicies.

use serde_json::{Value, json};

use super::super::case::{Attempt, Case, Check};
use super::super::policy::{cluster_policy, isolate, space, spaces};
use super::super::stage::Names;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "admin-deny-beats-network-policy",
            |names| {
                let deny = rules("Deny", &space(names, "y"), &space(names, "x"));
                let allow = isolate(names, "x", None, "Ingress", &[json!({})]);
                vec![cluster_policy(names, "deny", "Admin", 10, deny), allow]
            },
            |attempt| !(attempt.from.space == "y" && attempt.to.space == "x"),
        ),
        case(
            "admin-accept-beats-network-policy",
            |names| {
                let accept = rules("Accept", &space(names, "y"), &space(names, "x"));
                let deny = isolate(names, "x", None, "Ingress", &[]);
                vec![cluster_policy(names, "accept", "Admin", 10, accept), deny]
            },
            |attempt| attempt.to.space != "x" || attempt.from.space == "y",
        ),
        case(
            "admin-pass-leaves-it-to-network-policy",
            |names| {
                let pass = rules("Pass", &space(names, "y"), &space(names, "x"));
                let deny = rules("Deny", &spaces(names), &space(names, "x"));
                let allow_y = json!({"from": [{"namespaceSelector": space(names, "y")}]});
                vec![
                    cluster_policy(names, "pass", "Admin", 10, pass),
                    cluster_policy(names, "deny", "Admin", 20, deny),
                    isolate(names, "x", Some("a"), "Ingress", &[allow_y]),
                ]
            },
            |attempt| attempt.to.space != "x" || attempt.from.space == "y",
        ),
        case(
            "baseline-deny-yields-to-network-policy",
            |names| {
                let deny = rules("Deny", &spaces(names), &space(names, "x"));
                let allow_y = json!({"from": [{"namespaceSelector": space(names, "y")}]});
                vec![
                    cluster_policy(names, "deny", "Baseline", 10, deny),
                    isolate(names, "x", Some("a"), "Ingress", &[allow_y]),
                ]
            },
            |attempt| attempt.to.space != "x" || (attempt.is_to("x", "a") && attempt.from.space == "y"),
        ),
        case(
            "admin-egress-deny",
            |names| {
                let deny = json!({
                    "subject": {"namespaces": space(names, "x")},
                    "egress": [{"name": "deny", "action": "Deny", "to": [{"namespaces": space(names, "y")}]}],
                });
                vec![cluster_policy(names, "deny", "Admin", 10, deny)]
            },
            |attempt| !(attempt.from.space == "x" && attempt.to.space == "y"),
        ),
    ]
}

/// One rule for connections from one selection of namespaces to another.
fn rules(action: &str, from: &Value, to: &Value) -> Value {
    json!({
        "subject": {"namespaces": to},
        "ingress": [{"name": "verify", "action": action, "from": [{"namespaces": from}]}],
    })
}

fn case(name: &'static str, policies: fn(&Names<'_>) -> Vec<Value>, allows: fn(&Attempt) -> bool) -> Case {
    Case { name, cluster_wide: true, policies, check: Check::Matrix(allows) }
}
