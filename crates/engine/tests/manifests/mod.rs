//! The manifests of the pages as a world.
//!
//! Only as much of Kubernetes as the pages use, and strict: a field that is not here is an error of the page. Reading
//! manifests for use is the matter of the `k8s` crate, which the engine does not know.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_model::{
    Action, ContainerPort, IpBlock, Labels, Name, Namespace, NamespaceSelection, Node, Object, Peer, Peers, Pod,
    PodKey, PodPhase, PodSelection, Policy, PolicyId, PolicyKind, PortMatch, PortRange, Ports, Protocol, Requirement,
    Rule, Selector, Tier, World,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(rename = "deletionTimestamp")]
    _deletion_timestamp: Option<String>,
    #[serde(rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    pod_selector: Option<LabelSelector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    _pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodIp {
    ip: IpAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeAddress {
    #[serde(rename = "type")]
    _kind: String,
    address: IpAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Container {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "image")]
    _image: String,
    ports: Option<Vec<DeclaredPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeclaredPort {
    name: String,
    protocol: Option<String>,
    container_port: u16,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LabelSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Expression>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyRule {
    #[serde(alias = "to")]
    from: Option<Vec<PolicyPeer>>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyPeer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<Block>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    cidr: IpNet,
    #[serde(default)]
    except: Vec<IpNet>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyPort {
    protocol: Option<String>,
    port: Option<NumberOrName>,
    end_port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(u16),
    Name(String),
}

/// The world of some documents; later ones replace earlier ones of the same name.
pub(super) fn world(text: &str) -> Result<World, String> {
    let documents = text.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents
        .map(|document| object(serde_saphyr::from_str(document).map_err(|e| format!("{e}\n{document}"))?))
        .collect()
}

fn object(document: Document) -> Result<Object, String> {
    let Document { kind, metadata, spec, status, .. } = document;
    let labels: Labels = metadata.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    let (name, namespace): (Name, Name) = (metadata.name.into(), metadata.namespace.into());
    match &*kind {
        "Namespace" => Ok(Object::Namespace(Namespace { name, labels })),
        "Node" => Ok(Object::Node(Node {
            name,
            labels,
            addresses: status.addresses.unwrap_or_default().iter().map(|address| address.address).collect(),
            pod_cidrs: Vec::new(),
        })),
        "Pod" => Ok(Object::Pod(Pod {
            key: PodKey { namespace, name },
            uid: metadata.uid.into(),
            labels,
            node: spec.node_name.map(Name::from),
            addresses: status.pod_ips.unwrap_or_default().iter().map(|pod| pod.ip).collect(),
            host_network: spec.host_network == Some(true),
            phase: match status.phase.as_deref() {
                Some("Running") => PodPhase::Running,
                Some("Succeeded") => PodPhase::Succeeded,
                other => return Err(format!("phase {other:?}")),
            },
            created: 0,
            ports: container_ports(spec.containers.unwrap_or_default())?,
        })),
        "NetworkPolicy" => network_policy(namespace, name, spec).map(Object::Policy),
        other => Err(format!("kind {other}")),
    }
}

fn container_ports(containers: Vec<Container>) -> Result<Vec<ContainerPort>, String> {
    let ports = containers.into_iter().flat_map(|container| container.ports.unwrap_or_default());
    let port = |port: DeclaredPort| {
        let protocol = protocol(port.protocol.as_deref())?;
        Ok(ContainerPort { name: port.name.into(), protocol, port: port.container_port })
    };
    ports.map(port).collect()
}

fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => Err(format!("protocol {other}")),
    }
}

/// With the defaults of the API server: without `policyTypes`, ingress, and egress if there is a rule for it.
fn network_policy(namespace: Name, name: Name, spec: Spec) -> Result<Policy, String> {
    let types = spec.policy_types.unwrap_or_default();
    let (ingress, egress) = (spec.ingress.unwrap_or_default(), spec.egress.unwrap_or_default());
    let governs =
        |direction: &str, default| if types.is_empty() { default } else { types.iter().any(|t| t == direction) };
    let (in_, out) = (governs("Ingress", true), governs("Egress", !egress.is_empty()));
    let rules =
        |list: Vec<PolicyRule>| list.into_iter().map(|one| rule(one, &namespace)).collect::<Result<Vec<_>, _>>();
    let (ingress, egress) = (rules(ingress)?, rules(egress)?);
    Ok(Policy {
        uid: format!("{namespace}-{name}").into(),
        generation: 1,
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelection {
            namespaces: NamespaceSelection::Named(Name::clone(&namespace)),
            pods: selector(spec.pod_selector.unwrap_or_default())?,
        },
        ingress: in_.then_some(ingress),
        egress: out.then_some(egress),
        id: PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some(namespace), name },
    })
}

fn rule(rule: PolicyRule, namespace: &Name) -> Result<Rule, String> {
    let peers =
        rule.from.unwrap_or_default().into_iter().map(|one| peer(one, namespace)).collect::<Result<Vec<_>, _>>()?;
    let ports = rule.ports.unwrap_or_default().into_iter().map(port).collect::<Result<Vec<_>, _>>()?;
    Ok(Rule {
        name: None,
        action: Action::Accept,
        peers: if peers.is_empty() { Peers::Any } else { Peers::List(peers) },
        ports: if ports.is_empty() { Ports::Any } else { Ports::List(ports) },
    })
}

fn peer(peer: PolicyPeer, own: &Name) -> Result<Peer, String> {
    let pods = selector(peer.pod_selector.unwrap_or_default())?;
    match (peer.namespace_selector, peer.ip_block) {
        (None, Some(block)) => Ok(Peer::Block(IpBlock::new(block.cidr, block.except))),
        (None, None) => Ok(Peer::Pods(PodSelection { namespaces: NamespaceSelection::Named(Name::clone(own)), pods })),
        (Some(namespaces), None) => {
            Ok(Peer::Pods(PodSelection { namespaces: NamespaceSelection::Matching(selector(namespaces)?), pods }))
        }
        (Some(_), Some(_)) => Err("a peer with selector and ipBlock".to_owned()),
    }
}

fn port(port: PolicyPort) -> Result<PortMatch, String> {
    let protocol = protocol(port.protocol.as_deref())?;
    Ok(match port.port {
        None => PortMatch::Range(PortRange::all(protocol)),
        Some(NumberOrName::Number(first)) => {
            PortMatch::Range(PortRange { protocol, first, last: port.end_port.unwrap_or(first) })
        }
        Some(NumberOrName::Name(name)) => PortMatch::Named { protocol: Some(protocol), name: name.into() },
    })
}

fn selector(selector: LabelSelector) -> Result<Selector, String> {
    let labels = selector.match_labels.unwrap_or_default().into_iter();
    let labels = labels.map(|(key, value)| Ok(Requirement::In { key: key.into(), values: [Name::from(value)].into() }));
    let expressions = selector.match_expressions.unwrap_or_default().into_iter().map(|expression| {
        let key = Name::from(expression.key);
        let values = expression.values.into_iter().map(Name::from).collect();
        match &*expression.operator {
            "In" => Ok(Requirement::In { key, values }),
            "NotIn" => Ok(Requirement::NotIn { key, values }),
            "Exists" => Ok(Requirement::Exists { key }),
            "DoesNotExist" => Ok(Requirement::DoesNotExist { key }),
            other => Err(format!("operator {other}")),
        }
    });
    labels.chain(expressions).collect()
}
