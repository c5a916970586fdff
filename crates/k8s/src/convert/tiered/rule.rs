//! Rules.

use ringfence_model::{Action, Direction, Name, Peer, Peers, PortMatch, Ports, Rule};
use serde_json::Value;

use super::dialect::Dialect;
use super::{HINT, peer};
use crate::convert::reader::Reader;
use crate::convert::selector::{NotUnderstood, list, object};
use crate::diagnostic::{Reason, Severity};
use crate::json::{get, items};
use crate::path::Path;

/// The rules of one direction. `closed` is what is wrong with the policy as a whole, if anything is.
pub(super) fn rules(
    spec: &Value,
    direction: Direction,
    path: &Path<'_>,
    dialect: &Dialect,
    closed: Option<&Name>,
    reader: &mut Reader<'_>,
) -> Vec<Rule> {
    let field = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let path = path.field(field);
    match list(get(spec, field), &path) {
        Ok(listed) => {
            let rule = |(i, value)| rule(value, direction, &path.index(i), dialect, closed, reader);
            listed.iter().enumerate().map(rule).collect()
        }
        Err(error) => {
            let message = format!("{}; everything is denied in this direction", error.cause);
            let rule = deny_all(&error);
            reader.not_understood(error, message, HINT);
            vec![rule]
        }
    }
}

/// Stands for what is not understood at all.
pub(super) fn deny_all(error: &NotUnderstood) -> Rule {
    let action = Action::Unknown(Name::from(error.to_string()));
    Rule { name: None, action, peers: Peers::Any, ports: Ports::Any }
}

fn rule(
    value: &Value,
    direction: Direction,
    path: &Path<'_>,
    dialect: &Dialect,
    closed: Option<&Name>,
    reader: &mut Reader<'_>,
) -> Rule {
    let (peers_field, known) = match direction {
        Direction::Ingress => ("from", &dialect.peers[..2]),
        Direction::Egress => ("to", dialect.peers),
    };
    let action = dialect.action(get(value, "action"));
    let mut draft = Draft { action: &action, unknown: closed.cloned(), reader };
    if let Err(error) = object(value, path, &["name", "action", peers_field, dialect.ports]) {
        draft.not_understood(error);
    } else if let Action::Unknown(what) = &action {
        draft.not_understood(NotUnderstood::new(&path.field("action"), &**what).because(Reason::UnknownAction));
    }
    let name = draft.name(get(value, "name"), &path.field("name"));
    let peers_path = path.field(peers_field);
    let mut peers = draft.peers(get(value, peers_field), &peers_path, known, dialect);
    let ports = draft.ports(get(value, dialect.ports), &path.field(dialect.ports), dialect);
    draft.domains(get(value, peers_field), &peers_path);
    if direction == Direction::Egress {
        draft.names_of_addresses(&peers, &ports, &path.field(dialect.ports));
    }
    peers.extend(draft.unknown.map(Peer::Unknown));
    Rule { name, action, peers: Peers::List(peers), ports }
}

/// A rule while it is read.
struct Draft<'a, 'r> {
    action: &'a Action,
    /// The first thing that is not understood.
    unknown: Option<Name>,
    reader: &'a mut Reader<'r>,
}

impl Draft<'_, '_> {
    /// Something that keeps the rule from meaning what it says.
    fn not_understood(&mut self, error: NotUnderstood) {
        let consequence = match self.action {
            Action::Accept => "the rule matches nothing",
            Action::Deny | Action::Pass | Action::Unknown(_) => "the rule denies everything",
        };
        self.unknown.get_or_insert_with(|| Name::from(error.to_string()));
        let message = format!("{}; {consequence}", error.cause);
        self.reader.not_understood(error, message, HINT);
    }

    fn name(&mut self, value: &Value, path: &Path<'_>) -> Option<Name> {
        if !value.is_string() && !value.is_null() {
            let message = format!("{value} is not a name; the rule has none");
            self.reader.report(Severity::Error, path.to_field_path(), message, "put the name in quotes");
        }
        value.as_str().filter(|name| !name.is_empty()).map(Name::from)
    }

    fn peers(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        known: &'static [&'static str],
        dialect: &Dialect,
    ) -> Vec<Peer> {
        let mut found = Vec::new();
        match list(value, path) {
            Ok([]) => self.not_understood(NotUnderstood::new(path, "the rule names no peers")),
            Ok(listed) => {
                for (i, value) in listed.iter().enumerate() {
                    match peer::peers(value, &path.index(i), known, dialect) {
                        Ok(peers) => found.extend(peers),
                        Err(error) => self.not_understood(error),
                    }
                }
            }
            Err(error) => self.not_understood(error),
        }
        found
    }

    fn ports(&mut self, value: &Value, path: &Path<'_>, dialect: &Dialect) -> Ports {
        if value.is_null() {
            return Ports::Any;
        }
        let mut found = Vec::new();
        match list(value, path) {
            Ok([]) => self.not_understood(NotUnderstood::new(path, "the list is empty")),
            Ok(listed) => {
                for (i, value) in listed.iter().enumerate() {
                    match (dialect.port)(value, &path.index(i)) {
                        Ok(port) => found.push(port),
                        Err(error) => self.not_understood(error),
                    }
                }
            }
            Err(error) => self.not_understood(error),
        }
        // The rule has an unknown peer then, so it does not matter what its ports are.
        if found.is_empty() { Ports::Any } else { Ports::List(found) }
    }

    /// Domain names are permitted in accepting rules only: their addresses are known only after a pod has resolved
    /// them.
    fn domains(&mut self, peers: &Value, path: &Path<'_>) {
        if *self.action == Action::Accept {
            return;
        }
        for (i, _) in items(peers).iter().enumerate().filter(|(_, peer)| !get(peer, "domainNames").is_null()) {
            let peer = path.index(i);
            let cause = "domain names are only for rules that accept";
            let error = NotUnderstood::new(&peer.field("domainNames"), cause);
            self.not_understood(error.because(Reason::DomainNamesNotAccepted));
        }
    }

    /// Addresses have no named ports: a rule that accepts does without, any other cannot do what it says.
    fn names_of_addresses(&mut self, peers: &[Peer], ports: &Ports, path: &Path<'_>) {
        let by_address = |peer: &Peer| matches!(peer, Peer::Block(_) | Peer::Nodes(_) | Peer::Domain(_));
        let Ports::List(listed) = ports else { return };
        let named = listed.iter().any(|port| matches!(port, PortMatch::Named { .. }));
        if !named || !peers.iter().any(by_address) {
            return;
        }
        let cause = "named ports are those of pods: they never match networks, nodes or domain names";
        if *self.action == Action::Accept {
            let hint = "give the port's number";
            let said = self.reader.report(Severity::Warning, path.to_field_path(), cause.to_owned(), hint);
            said.reason = Reason::NamedPortOfAddresses;
        } else {
            self.not_understood(NotUnderstood::new(path, cause).because(Reason::NamedPortOfAddresses));
        }
    }
}
