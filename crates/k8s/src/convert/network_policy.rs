//! NetworkPolicy.
//!
//! Conversion fails closed, from the inside out. An unknown peer or port makes its rule match nothing. A list of rules
//! that is no list leaves its direction isolated without rules. An unknown policy type, or an unknown field of the
//! specification, isolates both directions. An unknown subject becomes the whole namespace, isolated in both directions
//! without rules.

use ringfence_model::{
    Action, Direction, IpBlock, Name, NamespaceSelection, Peer, Peers, PodSelection, Policy, PolicyId, PolicyKind,
    PortMatch, PortRange, Ports, Protocol, Rule, Selector, Tier,
};
use serde_json::Value;

use super::cluster::{port_number, protocol};
use super::namespace_of;
use super::reader::{Reader, unknown_field};
use super::selector::{self, NotUnderstood, list, object};
use crate::address::parse_cidr;
use crate::diagnostic::{Diagnostic, Severity};
use crate::json::{get, text};
use crate::path::Path;

const HINT: &str = "correct the policy, or use a version of Ringfence that knows it";

/// A NetworkPolicy.
pub fn network_policy(policy: &Value) -> (Policy, Vec<Diagnostic>) {
    let mut reader = Reader::new(policy, "NetworkPolicy", true);
    let namespace = Name::from(namespace_of(policy));
    let metadata = get(policy, "metadata");
    let (subject, ingress, egress) = specification(policy, &namespace, &mut reader);
    let policy = Policy {
        id: PolicyId {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(Name::clone(&namespace)),
            name: text(get(metadata, "name")).into(),
        },
        uid: text(get(metadata, "uid")).into(),
        generation: get(metadata, "generation").as_i64().unwrap_or_default(),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelection { namespaces: NamespaceSelection::Named(namespace), pods: subject },
        ingress,
        egress,
        rules_withheld: false,
    };
    (policy, reader.finish())
}

type Rules = Option<Vec<Rule>>;

fn specification(policy: &Value, namespace: &Name, reader: &mut Reader<'_>) -> (Selector, Rules, Rules) {
    let closed = (Selector::everything(), Some(Vec::new()), Some(Vec::new()));
    let path = Path::ROOT.field("spec");
    let spec = get(policy, "spec");
    if !spec.is_object() && !spec.is_null() {
        let error = NotUnderstood::wrong_type(&path, spec, "an object");
        whole_namespace(reader, error, namespace);
        return closed;
    }
    let subject = match selector::read(get(spec, "podSelector"), &path.field("podSelector")) {
        Ok(subject) => subject,
        Err(error) => {
            whole_namespace(reader, error, namespace);
            return closed;
        }
    };
    let stranger = unknown_specification(policy, spec, &path);
    let types = types(spec, &path, reader);
    let mut rules = |governed: bool, direction: Direction| {
        let mut rules = (governed || stranger.is_some()).then(|| rules(spec, direction, &path, namespace, reader))?;
        if let Some(error) = &stranger {
            for rule in &mut rules {
                add_unknown(&mut rule.peers, error);
            }
        }
        Some(rules)
    };
    let ingress = rules(types.ingress, Direction::Ingress);
    let egress = rules(types.egress, Direction::Egress);
    if let Some(error) = stranger {
        let message =
            format!("{}; the pods it selects are isolated in both directions and its rules match nothing", error.cause);
        reader.not_understood(error, message, HINT);
    }
    (subject, ingress, egress)
}

fn whole_namespace(reader: &mut Reader<'_>, error: NotUnderstood, namespace: &Name) {
    let message = format!("{}; every pod of namespace {namespace} is isolated in both directions instead", error.cause);
    reader.not_understood(error, message, HINT);
}

/// A field beside or in `spec` that could change the meaning of everything.
fn unknown_specification(policy: &Value, spec: &Value, path: &Path<'_>) -> Option<NotUnderstood> {
    let top = unknown_field(policy, &["apiVersion", "kind", "metadata", "spec", "status"]);
    let inside = || unknown_field(spec, &["podSelector", "ingress", "egress", "policyTypes"]);
    match top {
        Some(field) => Some(NotUnderstood::unknown_field(&Path::ROOT, field)),
        None => inside().map(|field| NotUnderstood::unknown_field(path, field)),
    }
}

/// The directions a policy governs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Types {
    ingress: bool,
    egress: bool,
}

/// `policyTypes`, defaulted: ingress always, egress only with egress rules.
fn types(spec: &Value, path: &Path<'_>, reader: &mut Reader<'_>) -> Types {
    const BOTH: Types = Types { ingress: true, egress: true };
    let path = path.field("policyTypes");
    let value = get(spec, "policyTypes");
    let listed = match list(value, &path) {
        Ok([]) => return Types { ingress: true, egress: !is_empty(get(spec, "egress")) },
        Ok(listed) => listed,
        Err(error) => {
            let message = format!("{}; both directions are governed", error.cause);
            reader.not_understood(error, message, HINT);
            return BOTH;
        }
    };
    let mut types = Types { ingress: false, egress: false };
    for (i, value) in listed.iter().enumerate() {
        match text(value) {
            "Ingress" => types.ingress = true,
            "Egress" => types.egress = true,
            _ => {
                types = BOTH;
                let message = format!("unknown policy type {value}; both directions are governed");
                reader.report(Severity::Error, path.index(i).to_field_path(), message, "use Ingress or Egress");
            }
        }
    }
    types
}

/// True if the value is null or an empty list. A value that is no list is not empty.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn rules(spec: &Value, direction: Direction, path: &Path<'_>, namespace: &Name, reader: &mut Reader<'_>) -> Vec<Rule> {
    let field = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let path = path.field(field);
    match list(get(spec, field), &path) {
        Ok(listed) => listed
            .iter()
            .enumerate()
            .map(|(i, value)| rule(value, direction, &path.index(i), namespace, reader))
            .collect(),
        Err(error) => {
            let message = format!("{}; nothing is allowed in this direction", error.cause);
            reader.not_understood(error, message, HINT);
            Vec::new()
        }
    }
}

fn rule(value: &Value, direction: Direction, path: &Path<'_>, namespace: &Name, reader: &mut Reader<'_>) -> Rule {
    let peers_field = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let (peers_path, ports_path) = (path.field(peers_field), path.field("ports"));
    let mut report = |error: NotUnderstood| {
        let what = Name::from(error.to_string());
        let message = format!("{}; the rule matches nothing", error.cause);
        reader.not_understood(error, message, HINT);
        what
    };
    let peers = each(get(value, peers_field), &peers_path, |value, path| {
        peer(value, path, namespace).unwrap_or_else(|error| Peer::Unknown(report(error)))
    });
    let mut peers = match peers {
        Ok(peers) if peers.is_empty() => Peers::Any,
        Ok(peers) => Peers::List(peers),
        Err(error) => Peers::List(vec![Peer::Unknown(report(error))]),
    };
    let ports = each(get(value, "ports"), &ports_path, |value, path| {
        port(value, path).unwrap_or_else(|error| PortMatch::Unknown(report(error)))
    });
    let ports = match ports {
        Ok(ports) if ports.is_empty() => Ports::Any,
        Ok(ports) => Ports::List(ports),
        Err(error) => Ports::List(vec![PortMatch::Unknown(report(error))]),
    };
    if let Err(error) = object(value, path, &[peers_field, "ports"]) {
        add_unknown(&mut peers, &error);
        report(error);
    }
    Rule { name: None, action: Action::Accept, peers, ports }
}

/// Maps each item of a list; null is the empty list.
fn each<T>(
    value: &Value,
    path: &Path<'_>,
    mut map: impl FnMut(&Value, &Path<'_>) -> T,
) -> Result<Vec<T>, NotUnderstood> {
    list(value, path).map(|items| items.iter().enumerate().map(|(i, item)| map(item, &path.index(i))).collect())
}

/// Makes the rule with these peers match nothing.
fn add_unknown(peers: &mut Peers, error: &NotUnderstood) {
    let unknown = Peer::Unknown(error.to_string().into());
    match peers {
        Peers::Any => *peers = Peers::List(vec![unknown]),
        Peers::List(list) => list.push(unknown),
    }
}

fn peer(value: &Value, path: &Path<'_>, namespace: &Name) -> Result<Peer, NotUnderstood> {
    object(value, path, &["podSelector", "namespaceSelector", "ipBlock"])?;
    let (pods, namespaces, block) = (get(value, "podSelector"), get(value, "namespaceSelector"), get(value, "ipBlock"));
    match (pods.is_null() && namespaces.is_null(), block.is_null()) {
        (true, true) => return Err(NotUnderstood::new(path, "the peer names neither pods, namespaces nor addresses")),
        (false, false) => return Err(NotUnderstood::new(path, "the peer has an ipBlock and a selector")),
        (true, false) => return ip_block(block, &path.field("ipBlock")).map(Peer::Block),
        (false, true) => {}
    }
    let namespaces = if namespaces.is_null() {
        NamespaceSelection::Named(Name::clone(namespace))
    } else {
        NamespaceSelection::Matching(selector::read(namespaces, &path.field("namespaceSelector"))?)
    };
    let pods = selector::read(pods, &path.field("podSelector"))?;
    Ok(Peer::Pods(PodSelection { namespaces, pods }))
}

fn ip_block(value: &Value, path: &Path<'_>) -> Result<IpBlock, NotUnderstood> {
    object(value, path, &["cidr", "except"])?;
    let cidr = |value: &Value, path: &Path<'_>| {
        parse_cidr(text(value)).ok_or_else(|| NotUnderstood::new(path, format!("{value} is not a CIDR block")))
    };
    let except_path = path.field("except");
    let block = cidr(get(value, "cidr"), &path.field("cidr"))?;
    let except: Result<Vec<_>, _> = each(get(value, "except"), &except_path, cidr)?.into_iter().collect();
    Ok(IpBlock::new(block, except?))
}

fn port(value: &Value, path: &Path<'_>) -> Result<PortMatch, NotUnderstood> {
    object(value, path, &["protocol", "port", "endPort"])?;
    let (named, end) = (get(value, "port"), get(value, "endPort"));
    let (port_path, end_path) = (path.field("port"), path.field("endPort"));
    let protocol = protocol(get(value, "protocol")).ok_or_else(|| {
        NotUnderstood::new(&path.field("protocol"), format!("unknown protocol {}", get(value, "protocol")))
    })?;
    match (named, end) {
        (Value::Null, Value::Null) => Ok(PortMatch::Range(PortRange::all(protocol))),
        (Value::Null, _) => Err(NotUnderstood::new(&end_path, "endPort needs a port")),
        (Value::String(name), Value::Null) if !name.is_empty() => {
            Ok(PortMatch::Named { protocol: Some(protocol), name: name.as_str().into() })
        }
        (Value::String(name), Value::Null) => {
            Err(NotUnderstood::new(&port_path, format!("{name:?} is not a port name")))
        }
        (Value::String(_), _) => Err(NotUnderstood::new(&end_path, "endPort needs a port that is a number")),
        (first, Value::Null) => Ok(PortMatch::Range(PortRange::single(protocol, port_number(first, &port_path)?))),
        (first, last) => range(protocol, port_number(first, &port_path)?, port_number(last, &end_path)?, &end_path),
    }
}

fn range(protocol: Protocol, first: u16, last: u16, path: &Path<'_>) -> Result<PortMatch, NotUnderstood> {
    if last < first {
        return Err(NotUnderstood::new(path, format!("endPort {last} is less than port {first}")));
    }
    Ok(PortMatch::Range(PortRange { protocol, first, last }))
}
