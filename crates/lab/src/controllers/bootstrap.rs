//! The objects every cluster has.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::first_address;
use crate::api::kinds;
use crate::api::registry::{Registry, Target, WriteOptions};

/// Makes the namespaces of every cluster, and the Service of the API with its endpoints.
pub(super) fn run(registry: &Registry, endpoint: Option<SocketAddr>) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(registry, "namespaces", "", json!({ "metadata": { "name": name } }));
    }
    let addresses: Vec<_> = registry.service_ranges.iter().filter_map(first_address).collect();
    let Some(address) = addresses.first() else { return };
    let service = json!({
        "metadata": { "name": "kubernetes", "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [{ "name": "https", "port": 443, "targetPort": endpoint.map_or(6443, |endpoint| endpoint.port()) }],
        },
    });
    ensure(registry, "services", "default", service);
    if let Some(endpoint) = endpoint {
        let slice = json!({
            "metadata": { "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": if endpoint.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": [{ "name": "https", "port": endpoint.port() }],
            "endpoints": [{ "addresses": [endpoint.ip().to_string()], "conditions": { "ready": true } }],
        });
        point(registry, slice);
    }
}

/// Makes the endpoints of the API, or moves those of an earlier life.
fn point(registry: &Registry, slice: Value) {
    const COLLECTION: &str = "endpointslices.discovery.k8s.io";
    let Some(kind) = kinds::stored_in(COLLECTION) else { return };
    let target = Target { kind, namespace: "default", name: "kubernetes" };
    let moved = registry.modify(target, None, &WriteOptions::default(), |old| {
        let mut new = old.clone();
        for field in ["addressType", "ports", "endpoints"] {
            new[field] = slice[field].clone();
        }
        Ok(new)
    });
    if moved.is_err() {
        ensure(registry, COLLECTION, "default", slice);
    }
}

/// Creates what is not there yet.
fn ensure(registry: &Registry, collection: &str, namespace: &str, value: Value) {
    let Some(kind) = kinds::stored_in(collection) else { return };
    match registry.create(kind, namespace, value, &WriteOptions::default()) {
        Ok(_) => {}
        Err(error) if error.reason == "AlreadyExists" => {}
        Err(error) => tracing::error!(%error, "an object every cluster has could not be made"),
    }
}
