//! Namespaces, nodes and pods.

use std::net::IpAddr;

use ringfence_model::{ContainerPort, Name, Namespace, Node, Pod, PodKey, PodPhase, Protocol};
use serde_json::Value;

use super::reader::Reader;
use super::selector::NotUnderstood;
use super::{NAMESPACE_NAME_LABEL, labels, namespace_of};
use crate::address::{parse_cidr, parse_ip};
use crate::diagnostic::{Diagnostic, Severity};
use crate::json::{at, get, items, text};
use crate::path::Path;

const FROM_STATUS: &str = "the kubelet or the network plugin wrote it: see their logs";

/// A Namespace. It gets the label with its own name, whatever is written.
pub fn namespace(object: &Value) -> (Namespace, Vec<Diagnostic>) {
    let mut reader = Reader::new(object, "Namespace", false);
    let name = Name::from(name_of(object));
    let mut labels = read_labels(object, &mut reader);
    labels.insert(NAMESPACE_NAME_LABEL, Name::clone(&name));
    (Namespace { name, labels, terminating: is_terminating(object) }, reader.finish())
}

/// A Node.
pub fn node(object: &Value) -> (Node, Vec<Diagnostic>) {
    let mut reader = Reader::new(object, "Node", false);
    let labels = read_labels(object, &mut reader);
    // Host names are among the addresses too.
    let listed = items(at(object, &["status", "addresses"])).iter();
    let mut addresses: Vec<_> = listed.filter_map(|entry| parse_ip(text(get(entry, "address")))).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let spec = Path::ROOT.field("spec");
    let (all, first) = (at(object, &["spec", "podCIDRs"]), at(object, &["spec", "podCIDR"]));
    let listed = if items(all).is_empty() { std::slice::from_ref(first) } else { items(all) };
    let path = spec.field("podCIDRs");
    let mut pod_cidrs = Vec::new();
    for (i, cidr) in listed.iter().enumerate().filter(|(_, cidr)| !text(cidr).is_empty()) {
        if let Some(net) = parse_cidr(text(cidr)) {
            pod_cidrs.push(net);
            continue;
        }
        let message = format!("{cidr} is not a CIDR block; the range is left out");
        let hint = "the controller that hands out pod ranges wrote it";
        reader.report(Severity::Error, path.index(i).to_field_path(), message, hint);
    }
    let node = Node { name: name_of(object).into(), labels, addresses, pod_cidrs };
    (node, reader.finish())
}

/// A Pod.
pub fn pod(object: &Value) -> (Pod, Vec<Diagnostic>) {
    let mut reader = Reader::new(object, "Pod", true);
    let metadata = get(object, "metadata");
    let node = text(at(object, &["spec", "nodeName"]));
    let pod = Pod {
        key: PodKey { namespace: namespace_of(object).into(), name: name_of(object).into() },
        uid: text(get(metadata, "uid")).into(),
        labels: read_labels(object, &mut reader),
        node: (!node.is_empty()).then(|| node.into()),
        addresses: pod_addresses(get(object, "status"), &mut reader),
        host_network: at(object, &["spec", "hostNetwork"]).as_bool() == Some(true),
        phase: phase(text(at(object, &["status", "phase"]))),
        terminating: is_terminating(object),
        created: text(get(metadata, "creationTimestamp")).parse().map_or(0, jiff::Timestamp::as_second),
        ports: pod_ports(get(object, "spec"), &mut reader),
    };
    (pod, reader.finish())
}

fn is_terminating(object: &Value) -> bool {
    !text(at(object, &["metadata", "deletionTimestamp"])).is_empty()
}

fn name_of(object: &Value) -> &str {
    text(at(object, &["metadata", "name"]))
}

fn read_labels(object: &Value, reader: &mut Reader<'_>) -> ringfence_model::Labels {
    let value = at(object, &["metadata", "labels"]);
    reader.check_labels(value, &Path::ROOT.field("metadata").field("labels"));
    labels(value)
}

fn phase(text: &str) -> PodPhase {
    match text {
        "" | "Pending" => PodPhase::Pending,
        "Running" => PodPhase::Running,
        "Succeeded" => PodPhase::Succeeded,
        "Failed" => PodPhase::Failed,
        _ => PodPhase::Unknown,
    }
}

/// At most one address a family: the first that is listed.
fn pod_addresses(status: &Value, reader: &mut Reader<'_>) -> Vec<IpAddr> {
    let path = Path::ROOT.field("status");
    let list = path.field("podIPs");
    let listed = items(get(status, "podIPs")).iter().enumerate();
    let listed = listed.map(|(i, entry)| (get(entry, "ip"), list.index(i).to_field_path()));
    let first = (get(status, "podIP"), path.field("podIP").to_field_path());
    let mut addresses = Vec::<IpAddr>::with_capacity(2);
    for (value, path) in listed.chain([first]).filter(|(value, _)| !text(value).is_empty()) {
        match parse_ip(text(value)) {
            Some(address) if addresses.contains(&address) => {}
            Some(address) if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
                let message = format!("{address} is a second address of its family; it is left out");
                reader.report(Severity::Warning, path, message, FROM_STATUS);
            }
            Some(address) => addresses.push(address),
            None => {
                let message = format!("{value} is not an IP address; it is left out");
                reader.report(Severity::Error, path, message, FROM_STATUS);
            }
        }
    }
    addresses
}

/// Named ports of the containers and of sidecars (init containers that are restarted always).
fn pod_ports(spec: &Value, reader: &mut Reader<'_>) -> Vec<ContainerPort> {
    let path = Path::ROOT.field("spec");
    let mut found = Vec::new();
    for (field, all) in [("containers", true), ("initContainers", false)] {
        let path = path.field(field);
        for (i, container) in items(get(spec, field)).iter().enumerate() {
            if !all && text(get(container, "restartPolicy")) != "Always" {
                continue;
            }
            let container_path = path.index(i);
            let path = container_path.field("ports");
            for (i, port) in items(get(container, "ports")).iter().enumerate() {
                if text(get(port, "name")).is_empty() {
                    continue;
                }
                if let Some(port) = container_port(port) {
                    found.push(port);
                    continue;
                }
                let message = format!("{port} is not understood; rules cannot name it");
                let hint = "protocol must be TCP, UDP or SCTP and containerPort between 1 and 65535";
                reader.report(Severity::Error, path.index(i).to_field_path(), message, hint);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn container_port(port: &Value) -> Option<ContainerPort> {
    let number = get(port, "containerPort").as_u64()?;
    Some(ContainerPort {
        name: text(get(port, "name")).into(),
        protocol: protocol(get(port, "protocol"))?,
        port: u16::try_from(number).ok().filter(|number| *number != 0)?,
    })
}

/// A port from 1 to 65535.
pub(super) fn port_number(value: &Value, path: &Path<'_>) -> Result<u16, NotUnderstood> {
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    number.ok_or_else(|| NotUnderstood::new(path, format!("{value} is not a port number")))
}

/// A transport protocol; null is TCP.
pub(super) fn protocol(value: &Value) -> Option<Protocol> {
    match value {
        Value::Null => Some(Protocol::TCP),
        Value::String(name) => match name.as_str() {
            "TCP" => Some(Protocol::TCP),
            "UDP" => Some(Protocol::UDP),
            "SCTP" => Some(Protocol::SCTP),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_carry_their_name() {
        let (namespace, diagnostics) =
            namespace(&json!({"metadata": {"name": "shop", "labels": {NAMESPACE_NAME_LABEL: "other", "a": "b"}}}));
        assert_eq!(namespace.labels, [("a", "b"), (NAMESPACE_NAME_LABEL, "shop")].into_iter().collect());
        assert_eq!(diagnostics, []);
    }

    #[test]
    fn nodes() {
        let (node, diagnostics) = node(&json!({
            "metadata": {"name": "n", "labels": {"zone": "a", "bad": 1}},
            "spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24", "fd00:1::/64", "x"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "Hostname", "address": "n"},
                {"type": "InternalIP", "address": "::ffff:192.0.2.1"},
                {"type": "InternalIP", "address": "2001:db8::1"},
            ]},
        }));
        assert_eq!(node.addresses, ["192.0.2.1", "2001:db8::1"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.1.0/24", "fd00:1::/64"]);
        let paths: Vec<_> = diagnostics.iter().map(|d| d.path.to_string()).collect();
        assert_eq!(paths, ["metadata.labels[bad]", "spec.podCIDRs[2]"]);
    }

    #[test]
    fn pods() {
        let (pod, diagnostics) = pod(&json!({
            "metadata": {
                "name": "p", "namespace": "shop", "uid": "u", "labels": {"app": "web"},
                "creationTimestamp": "2024-01-02T03:04:05Z", "deletionTimestamp": "2024-01-02T03:05:05Z",
            },
            "spec": {
                "nodeName": "n",
                "containers": [
                    {"ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]},
                    {"ports": [{"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53,
                    "protocol": "UDP"}]},
                ],
                "initContainers": [
                    {"ports": [{"name": "init", "containerPort": 1}]},
                    {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 15000}]},
                ],
            },
            "status": {"phase": "Running", "podIP": "10.0.1.2", "podIPs": [{"ip": "10.0.1.2"}, {"ip": "fd00::0002"}]},
        }));
        assert_eq!(diagnostics, []);
        assert_eq!((pod.key.to_string().as_str(), &*pod.uid, pod.created), ("shop/p", "u", 1_704_164_645));
        assert_eq!(pod.addresses, ["10.0.1.2", "fd00::2"].map(|a| a.parse::<IpAddr>().unwrap()));
        let ports: Vec<_> = pod.ports.iter().map(|p| format!("{} {} {}", p.name, p.protocol, p.port)).collect();
        assert_eq!(ports, ["dns UDP 53", "http TCP 80", "http TCP 8080", "side TCP 15000"]);
        assert!(pod.is_endpoint(), "a terminating pod still is one");
    }

    #[test]
    fn pods_without_status_or_with_a_strange_one() {
        let (bare, diagnostics) = pod(&json!({"metadata": {"name": "p"}}));
        assert_eq!((bare.key.to_string().as_str(), bare.phase, diagnostics.len()), ("default/p", PodPhase::Pending, 0));
        let (strange, diagnostics) = pod(&json!({
            "metadata": {"name": "p"},
            "spec": {"hostNetwork": true, "containers": [{"ports": [{"name": "x", "containerPort": 1,
            "protocol": "tcp"}]}]},
            "status": {"phase": "Odd", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}, {"ip": "host"}]},
        }));
        assert_eq!(strange.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!((strange.phase, strange.host_network, strange.ports.len()), (PodPhase::Unknown, true, 0));
        let paths: Vec<_> = diagnostics.iter().map(|d| d.path.to_string()).collect();
        assert_eq!(paths, ["status.podIPs[1]", "status.podIP", "spec.containers[0].ports[0]"]);
    }
}
