//! Measurements of whatever engine enforces policy on the cluster, also of none: they know the API and packets only.
//!
//! Each prints one JSON object; `cargo xtask bench --neutral` makes a table of them.

mod changes;
mod open;
mod rates;
mod starts;

use ringfence_e2e::pod;
use serde_json::{Value, json};

use super::Bench;

/// Namespace of those who connect.
const CLIENT: &str = "bench-client";
/// Namespace of those who are connected to.
const SERVER: &str = "bench-server";

/// What to measure.
#[derive(clap::Subcommand)]
pub(super) enum What {
    /// Time from the API's answer to a change until it decides packets between two nodes.
    Changes(changes::Options),
    /// Traffic between two nodes under many policies, and how long those take to be in force.
    Rates(rates::Options),
    /// Pods that start while nobody may enter them: how many could be reached nevertheless.
    Leak(starts::Options),
    /// Pods that start and may connect: how many lost their first packet.
    First(starts::Options),
    /// What becomes of an open connection when a policy denies it.
    Open,
}

/// Measures, and gives the figures as JSON.
pub(super) fn run(bench: &Bench, what: &What) -> anyhow::Result<String> {
    let figures = match what {
        What::Changes(options) => changes::run(bench, options),
        What::Rates(options) => rates::run(bench, options),
        What::Leak(options) => starts::leak(bench, options),
        What::First(options) => starts::first(bench, options),
        What::Open => open::run(bench),
    };
    Ok(format!("{}\n", figures?))
}

/// A pod with a web server.
fn server_pod(namespace: &str, name: &str, node: &str) -> Value {
    pod::web_server(namespace, name, node, &json!({"app": name}))
}

/// A policy that denies one direction to the pods of a namespace.
fn deny(namespace: &str, direction: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": "deny"},
        "spec": {"podSelector": {}, "policyTypes": [direction]},
    })
}
