//! Memory that a planner needs for policies.
//!
//! The figures are estimates, a little above the measured ones. In a planner a policy of 38,000 single addresses needs
//! 8.5 MB, one of 24,000 selectors 13 MB, one of 32,000 ports 1.1 MB (`cargo bench --bench planner`, `memory`).

use crate::{Action, Direction, Name, Peer, Peers, Policy, PortMatch, Ports, Requirement, Rule, Selector};

/// Bytes of a policy without rules, including its names and its bookkeeping.
const POLICY: usize = 1024;
/// Bytes of a rule with any peer and any port.
const RULE: usize = 320;
/// Bytes of a port or a port range.
const PORT: usize = 48;
/// Bytes of an `ipBlock`, and of each `except` in it.
const BLOCK: usize = 240;
const EXCEPTION: usize = 80;
/// Bytes of a selector in a rule, without its requirements.
const SELECTOR: usize = 240;
/// Bytes of a requirement, and of a value in it.
const REQUIREMENT: usize = 160;
const VALUE: usize = 80;

impl Policy {
    /// Estimated bytes that a planner needs for this policy.
    pub fn memory(&self) -> usize {
        let rules = [Direction::Ingress, Direction::Egress].into_iter().filter_map(|direction| self.rules(direction));
        let rules: usize = rules.flatten().map(rule).sum();
        POLICY + self.subject.pods.memory() + rules
    }
}

impl Selector {
    /// Estimated bytes of the requirements.
    pub fn memory(&self) -> usize {
        self.requirements().map(requirement).sum()
    }
}

fn requirement(requirement: &Requirement) -> usize {
    let (key, values) = match requirement {
        Requirement::In { key, values } | Requirement::NotIn { key, values } => (key, Some(values)),
        Requirement::Exists { key } | Requirement::DoesNotExist { key } => (key, None),
    };
    REQUIREMENT + key.len() + values.into_iter().flatten().map(|value| VALUE + value.len()).sum::<usize>()
}

fn rule(rule: &Rule) -> usize {
    let Rule { name, action, peers, ports } = rule;
    let action = if let Action::Unknown(what) = action { VALUE + what.len() } else { 0 };
    let peers = if let Peers::List(peers) = peers { peers.iter().map(peer).sum() } else { 0 };
    let ports = if let Ports::List(ports) = ports { ports.iter().map(port).sum() } else { 0 };
    RULE + name.as_ref().map_or(0, |name| name.len()) + action + peers + ports
}

fn peer(peer: &Peer) -> usize {
    match peer {
        Peer::Pods(selection) => SELECTOR + selection.namespaces.memory() + selection.pods.memory(),
        Peer::Block(block) => BLOCK + EXCEPTION * block.except().len(),
        Peer::Nodes(selector) => SELECTOR + selector.memory(),
        Peer::Domain(pattern) => BLOCK + pattern.name().as_str().len(),
        Peer::Unknown(what) => VALUE + what.len(),
    }
}

fn port(port: &PortMatch) -> usize {
    let text = |text: &Name| VALUE + text.len();
    match port {
        PortMatch::Range(_) => PORT,
        PortMatch::Named { name, .. } | PortMatch::Unknown(name) => PORT + text(name),
    }
}
