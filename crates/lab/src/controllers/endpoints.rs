//! EndpointSlices: where the pods of a Service are, by family and port.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::Cluster;
use super::namespace::is_deleting;
use super::owner;
use super::replicaset::is_ready;
use super::runner::{Controller, Seen};
use crate::api::json::Json as _;
use crate::api::registry::DeleteOptions;
use crate::api::status::ApiError;
use crate::store::{Key, Object};

const COLLECTION: &str = "endpointslices.discovery.k8s.io";
const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// As many endpoints as one slice holds.
const SIZE: usize = 100;

/// Keeps the slices of Services.
pub(super) struct Endpoints;

impl Controller for Endpoints {
    const NAME: &'static str = MANAGER;

    fn affected(&self, cluster: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        let namespace = seen.key.namespace.as_str();
        match seen.key.resource {
            "services" => vec![seen.key.clone()],
            COLLECTION => {
                let labels = &seen.object()["metadata"]["labels"];
                let managed = labels[MANAGED_BY] == MANAGER;
                let service = labels[SERVICE].as_str().filter(|_| managed);
                service.map(|name| Key::new("services", namespace, name)).into_iter().collect()
            }
            "pods" => {
                let services = cluster.within("services", namespace);
                let pods = || seen.old.into_iter().chain(seen.new);
                let selects = |service: &&Object| pods().any(|pod| is_selected(service, pod));
                services
                    .iter()
                    .filter(selects)
                    .map(|service| Key::new("services", namespace, service.text("/metadata/name")))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(service) = cluster.get(key).filter(|service| !is_deleting(service)) else { return Ok(None) };
        let known = known_slices(cluster, key);
        let selects = service.entries("/spec/selector").next().is_some();
        let wanted =
            if selects && service["spec"]["type"] != "ExternalName" { slices(cluster, &service)? } else { Vec::new() };
        apply(cluster, key, known, wanted)?;
        Ok(None)
    }
}

/// True if a Service selects a pod; one without a selector selects none.
fn is_selected(service: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let mut selector = service.entries("/spec/selector").peekable();
    selector.peek().is_some() && selector.all(|(key, value)| labels.get(key) == Some(value))
}

fn known_slices(cluster: &Cluster, key: &Key) -> Vec<Object> {
    let mut slices = cluster.within(COLLECTION, &key.namespace);
    slices.retain(|slice| {
        let labels = &slice["metadata"]["labels"];
        labels[SERVICE] == key.name.as_str() && labels[MANAGED_BY] == MANAGER
    });
    slices
}

/// The slices a Service is to have, without names.
fn slices(cluster: &Cluster, service: &Object) -> Result<Vec<Value>, ApiError> {
    let namespace = service.text("/metadata/namespace");
    let mut pods = cluster.within("pods", namespace);
    pods.retain(|pod| is_selected(service, pod) && !matches!(pod.text("/status/phase"), "Succeeded" | "Failed"));
    let mut slices = Vec::new();
    for family in service.list("/spec/ipFamilies").iter().filter_map(Value::as_str) {
        // Pods that give a named port different numbers are told apart by slices.
        let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
        for pod in &pods {
            let Some(address) = address(pod, family) else { continue };
            let ports = resolved_ports(service, Some(pod));
            let group = groups.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new()));
            group.1.push(endpoint(service, pod, address));
        }
        if groups.is_empty() {
            groups.insert(String::new(), (resolved_ports(service, None), Vec::new()));
        }
        for (ports, endpoints) in groups.into_values() {
            let mut chunks: Vec<_> = endpoints.chunks(SIZE).map(<[Value]>::to_vec).collect();
            if chunks.is_empty() {
                chunks.push(Vec::new());
            }
            for endpoints in chunks {
                slices.push(slice(service, family, &ports, &endpoints)?);
            }
        }
    }
    Ok(slices)
}

fn slice(service: &Object, family: &str, ports: &Value, endpoints: &[Value]) -> Result<Value, ApiError> {
    let name = service.text("/metadata/name");
    let mut labels = json!({ SERVICE: name, MANAGED_BY: MANAGER });
    for (key, value) in service.entries("/metadata/labels") {
        labels[key] = value.clone();
    }
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = "".into();
    }
    Ok(json!({
        "metadata": {
            "generateName": format!("{name}-"),
            "labels": labels,
            "ownerReferences": [owner::reference(Cluster::kind("services")?, service)],
        },
        "addressType": family, "ports": ports, "endpoints": endpoints,
    }))
}

/// A pod's address of a family.
fn address<'a>(pod: &'a Value, family: &str) -> Option<&'a str> {
    let listed = pod.list("/status/podIPs").iter().map(|entry| entry.text("/ip"));
    let single = std::iter::once(pod.text("/status/podIP"));
    listed
        .chain(single)
        .find(|text| text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4() == (family == "IPv4")))
}

/// The ports of a Service as numbers of a pod. Ports by name that the pod does not have are left out.
fn resolved_ports(service: &Value, pod: Option<&Object>) -> Value {
    let ports = service.list("/spec/ports").iter().filter_map(|port| {
        let number = match &port["targetPort"] {
            Value::String(name) => named_port(pod?, name, port.text("/protocol"))?,
            number => number.as_i64()?,
        };
        let mut resolved = json!({ "name": port.text("/name"), "port": number, "protocol": port["protocol"] });
        if let Some(protocol) = port.get("appProtocol") {
            resolved["appProtocol"] = protocol.clone();
        }
        Some(resolved)
    });
    ports.collect()
}

fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    // Of the init containers only those count that keep running beside the others.
    let sidecars = pod.list("/spec/initContainers").iter().filter(|container| container["restartPolicy"] == "Always");
    let mut ports = pod.list("/spec/containers").iter().chain(sidecars).flat_map(|container| container.list("/ports"));
    let port = ports.find(|port| port["name"] == name && port["protocol"] == protocol)?;
    port["containerPort"].as_i64()
}

fn endpoint(service: &Value, pod: &Value, address: &str) -> Value {
    let unready_too = service.flag("/spec/publishNotReadyAddresses");
    let (serving, terminating) = (is_ready(pod) || unready_too, is_deleting(pod));
    let metadata = &pod["metadata"];
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": { "ready": serving && (!terminating || unready_too), "serving": serving,
        "terminating": terminating },
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": { "kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"],
        "uid": metadata["uid"] },
    });
    let hostname = pod.text("/spec/hostname");
    if !hostname.is_empty() && pod["spec"]["subdomain"] == service["metadata"]["name"] {
        endpoint["hostname"] = hostname.into();
    }
    endpoint
}

/// Makes the slices there are those that are wanted, changing as few as possible.
fn apply(cluster: &Cluster, key: &Key, mut known: Vec<Object>, wanted: Vec<Value>) -> Result<(), ApiError> {
    for slice in wanted {
        let alike = |known: &Object| known["addressType"] == slice["addressType"] && known["ports"] == slice["ports"];
        let same_family = |known: &Object| known["addressType"] == slice["addressType"];
        let found = known.iter().position(alike).or_else(|| known.iter().position(same_family));
        let Some(found) = found.map(|index| known.swap_remove(index)) else {
            cluster.create(COLLECTION, &key.namespace, slice)?;
            continue;
        };
        cluster.modify(&slice_key(&found), false, |object| {
            for field in ["ports", "endpoints"] {
                object[field] = slice[field].clone();
            }
            object["metadata"]["labels"] = slice["metadata"]["labels"].clone();
        })?;
    }
    for slice in known {
        cluster.registry.delete(Cluster::target(&slice_key(&slice))?, &DeleteOptions::default())?;
    }
    Ok(())
}

fn slice_key(slice: &Value) -> Key {
    Key::new(COLLECTION, slice.text("/metadata/namespace"), slice.text("/metadata/name"))
}
