//! The objects every cluster has.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::first_address;
use crate::api::json::Json as _;
use crate::api::kinds::{self, definition};
use crate::api::registry::{Registry, Target, WriteOptions, now};

/// Makes the namespaces of every cluster, and the Service of the API with its endpoints.
pub(super) fn run(registry: &Registry, endpoint: Option<SocketAddr>) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(registry, "namespaces", "", json!({ "metadata": { "name": name } }));
    }
    definition::definitions().for_each(|definition| define(registry, definition));
    let addresses: Vec<_> = registry.service_ranges.iter().filter_map(first_address).collect();
    let Some(address) = addresses.first() else { return };
    let service = json!({
        "metadata": { "name": "kubernetes", "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [{ "name": "https", "port": 443, "targetPort": endpoint.map_or(6443,
            |endpoint| endpoint.port()) }],
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

/// Makes a definition and says that its kind is served; one of an earlier life becomes what it is now.
fn define(registry: &Registry, wanted: Value) {
    const COLLECTION: &str = "customresourcedefinitions.apiextensions.k8s.io";
    let Some(kind) = kinds::stored_in(COLLECTION) else { return };
    let name = wanted.text("/metadata/name").to_owned();
    let target = Target { kind, namespace: "", name: &name };
    let status = definition::established(&wanted, &now());
    let renewed = registry.modify(target, None, &WriteOptions::default(), |old| {
        let mut new = old.clone();
        new["metadata"]["annotations"] = wanted["metadata"]["annotations"].clone();
        new["spec"] = wanted["spec"].clone();
        Ok(new)
    });
    if renewed.is_err() {
        ensure(registry, COLLECTION, "", wanted);
    }
    let said = registry.modify(target, Some(kinds::Subresource::Status), &WriteOptions::default(), |old| {
        let mut new = old.clone();
        if new.condition("Established").is_none() {
            new["status"] = status;
        }
        Ok(new)
    });
    if let Err(error) = said {
        tracing::error!(%error, name, "a definition could not be established");
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
