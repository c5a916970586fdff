//! The reference evaluator: the meaning of policies, written to be read.
//!
//! Nothing is compiled, indexed or cached: every query walks every policy. The evaluator shares only the model with the
//! planner, so that the two can be compared. The order of evaluation is that of the upstream APIs: Admin tier, then
//! NetworkPolicy, then Baseline tier, then accept. Egress at the source and ingress at the destination are evaluated
//! apart, and both have to allow.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::{
    Action, Connection, Decision, Direction, DomainPattern, Name, NamespaceSelection, Origin, Peer, Peers, Pod,
    PodSelection, Policy, PolicyId, PortMatch, Ports, Reason, Rule, RuleRef, Selector, Tier, Verdict, World,
};

/// Evaluates both directions of a connection.
pub fn evaluate(world: &World, connection: &Connection) -> Decision {
    evaluate_at(world, None, connection)
}

/// Evaluates both directions at a node: the result is [`Reason::NotAPod`] for an end that is no pod of this node.
pub fn evaluate_at(world: &World, node: Option<&Name>, connection: &Connection) -> Decision {
    Decision {
        egress: evaluate_direction_at(world, node, connection, Direction::Egress),
        ingress: evaluate_direction_at(world, node, connection, Direction::Ingress),
    }
}

/// Evaluates one direction of a connection.
pub fn evaluate_direction(world: &World, connection: &Connection, direction: Direction) -> Verdict {
    evaluate_direction_at(world, None, connection, direction)
}

/// Evaluates one direction, at a node if one is named.
///
/// If several pods may own an address, it may only do what each of them may: the first pod, oldest first, with a
/// verdict to deny decides. Everything is denied ([`Reason::Undecided`]) for a subject whose owners policy
/// distinguishes, and for a peer whose owners it distinguishes and of which one has an unknown namespace.
pub fn evaluate_direction_at(
    world: &World,
    node: Option<&Name>,
    connection: &Connection,
    direction: Direction,
) -> Verdict {
    let (own, other) = match direction {
        Direction::Egress => (connection.source, connection.destination),
        Direction::Ingress => (connection.destination, connection.source),
    };
    let mut subjects = world.owners(own, node);
    subjects.retain(|pod| node.is_none() || pod.node.as_ref() == node);
    let Some(subject) = subjects.first().copied() else { return Verdict::allow(Reason::NotAPod) };
    if let Some(reason) = exemption(connection, subject, direction) {
        return Verdict::allow(reason);
    }
    if is_contested(&subjects) {
        return Verdict::deny(Reason::Undecided);
    }
    let peers = world.owners(other, node);
    let question = Query { world, connection, direction, subject, address: other, peer: peers.first().copied() };
    let known = |pod: &&Pod| world.namespaces.contains_key(&pod.key.namespace);
    if is_contested(&peers) && !peers.iter().all(known) && question.is_governed() {
        return Verdict::deny(Reason::Undecided);
    }
    let verdict = question.verdict();
    let others = peers.into_iter().skip(1).map(|peer| Query { peer: Some(peer), ..question }.verdict());
    std::iter::once(verdict.clone()).chain(others).find(|verdict| !verdict.allow).unwrap_or(verdict)
}

/// True if policy distinguishes these pods.
fn is_contested(pods: &[&Pod]) -> bool {
    pods.iter().any(|pod| !pod.is_like(pods[0]))
}

/// The reason why policy does not apply to a connection, if it does not.
fn exemption(connection: &Connection, subject: &Pod, direction: Direction) -> Option<Reason> {
    if connection.is_neighbour_discovery() {
        return Some(Reason::NeighbourDiscovery);
    }
    let own = connection.source.to_canonical() == connection.destination.to_canonical();
    if own && !connection.translated {
        return Some(Reason::OwnAddress);
    }
    match &connection.origin {
        Origin::Node(node) if direction == Direction::Ingress && subject.node.as_ref() == Some(node) => {
            Some(Reason::LocalNode)
        }
        Origin::Node(_) | Origin::Elsewhere => None,
    }
}

/// One direction of one connection.
#[derive(Clone, Copy)]
struct Query<'a> {
    world: &'a World,
    connection: &'a Connection,
    direction: Direction,
    subject: &'a Pod,
    /// The address at the other end, and the pod that is assumed to own it.
    address: IpAddr,
    peer: Option<&'a Pod>,
}

impl Query<'_> {
    fn verdict(&self) -> Verdict {
        self.tier(Tier::Admin)
            .or_else(|| self.network_policy())
            .or_else(|| self.tier(Tier::Baseline))
            .unwrap_or_else(|| Verdict::allow(Reason::Default))
    }

    /// True if any policy may decide: a NetworkPolicy isolates, and other policies have rules that can match.
    fn is_governed(&self) -> bool {
        let can_match = |rule: &Rule| rule.action != Action::Accept || rule.unknown().is_none();
        let tiers = [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline];
        let mut policies = tiers.into_iter().flat_map(|tier| self.policies(tier));
        policies.any(|policy| {
            let rules = policy.rules(self.direction);
            rules.is_some_and(|rules| policy.tier == Tier::NetworkPolicy || rules.iter().any(can_match))
        })
    }

    /// The policies of a tier that select the subject, in the order of evaluation.
    fn policies(&self, tier: Tier) -> Vec<&Policy> {
        let selects = |policy: &&Policy| policy.tier == tier && self.selected(&policy.subject, self.subject);
        let mut policies: Vec<_> = self.world.policies.values().filter(selects).collect();
        policies.sort_by(|a, b| a.rank().cmp(&b.rank()));
        policies
    }

    /// A cluster-wide tier: the first rule that matches decides; `Pass`, or no such rule, leaves the tier.
    fn tier(&self, tier: Tier) -> Option<Verdict> {
        for policy in self.policies(tier) {
            for (index, rule) in policy.rules(self.direction).unwrap_or_default().iter().enumerate() {
                let by = || Reason::Rule(self.reference(policy, index, rule));
                if rule.unknown().is_some() {
                    match rule.action {
                        Action::Accept => continue,
                        Action::Deny | Action::Pass | Action::Unknown(_) => return Some(Verdict::deny(by())),
                    }
                }
                if self.matches(rule) {
                    return match rule.action {
                        Action::Accept => Some(Verdict::allow(by())),
                        Action::Deny | Action::Unknown(_) => Some(Verdict::deny(by())),
                        Action::Pass => None,
                    };
                }
            }
        }
        None
    }

    /// NetworkPolicy: the policies that govern the direction isolate the subject, and any of their rules can accept.
    fn network_policy(&self) -> Option<Verdict> {
        let mut isolating = self.policies(Tier::NetworkPolicy);
        isolating.retain(|policy| policy.rules(self.direction).is_some());
        if isolating.is_empty() {
            return None;
        }
        for policy in &isolating {
            for (index, rule) in policy.rules(self.direction).unwrap_or_default().iter().enumerate() {
                if rule.action == Action::Accept && rule.unknown().is_none() && self.matches(rule) {
                    return Some(Verdict::allow(Reason::Rule(self.reference(policy, index, rule))));
                }
            }
        }
        let mut policies: Vec<PolicyId> = isolating.iter().map(|policy| policy.id.clone()).collect();
        policies.sort();
        Some(Verdict::deny(Reason::Isolated { direction: self.direction, policies: Arc::from(policies) }))
    }

    fn reference(&self, policy: &Policy, index: usize, rule: &Rule) -> RuleRef {
        RuleRef { policy: policy.id.clone(), direction: self.direction, index, name: rule.name.clone() }
    }

    /// Some peer and some port of the rule match.
    ///
    /// A named port matches only a destination that the rule selects as a pod. On egress it never matches together with
    /// an `ipBlock`, because addresses declare no ports.
    fn matches(&self, rule: &Rule) -> bool {
        match &rule.peers {
            Peers::Any => self.port_matches(&rule.ports, true),
            Peers::List(peers) => peers.iter().any(|peer| match peer {
                Peer::Pods(selection) => {
                    self.peer.is_some_and(|pod| self.selected(selection, pod)) && self.port_matches(&rule.ports, true)
                }
                Peer::Block(block) => block.contains(self.address) && self.address_and_port(rule),
                Peer::Nodes(selector) => self.is_node(selector) && self.address_and_port(rule),
                Peer::Domain(pattern) => self.is_domain(pattern) && self.address_and_port(rule),
                Peer::Unknown(_) => false,
            }),
        }
    }

    /// The port matches a peer that is selected by address.
    fn address_and_port(&self, rule: &Rule) -> bool {
        self.port_matches(&rule.ports, self.direction == Direction::Ingress)
    }

    /// The other end is an address of a node with matching labels.
    fn is_node(&self, selector: &Selector) -> bool {
        let address = self.address.to_canonical();
        self.world.nodes.values().any(|node| node.addresses.contains(&address) && selector.matches(&node.labels))
    }

    /// The other end is an address learnt for a matching domain name, or was one when the connection was opened.
    fn is_domain(&self, pattern: &DomainPattern) -> bool {
        let address = self.address.to_canonical();
        self.world.domains.values().filter(|domain| pattern.matches(&domain.name)).any(|domain| {
            let has = domain.addresses.contains(&address)
                || (self.connection.established && domain.lingering.contains(&address));
            has && !(pattern.is_wildcard() && domain.inside.contains(&address))
        })
    }

    fn port_matches(&self, ports: &Ports, names: bool) -> bool {
        let Connection { protocol, port, .. } = *self.connection;
        match ports {
            Ports::Any => true,
            Ports::List(ports) => {
                protocol.has_ports()
                    && ports.iter().any(|alternative| match alternative {
                        PortMatch::Range(range) => range.contains(protocol, port),
                        PortMatch::Named { protocol: wanted, name } => {
                            names
                                && wanted.is_none_or(|wanted| wanted == protocol)
                                && self.destination().is_some_and(|pod| {
                                    pod.ports
                                        .iter()
                                        .any(|p| p.name == *name && p.protocol == protocol && p.port == port)
                                })
                        }
                        PortMatch::Unknown(_) => false,
                    })
            }
        }
    }

    /// The pod whose ports the rules name.
    fn destination(&self) -> Option<&Pod> {
        match self.direction {
            Direction::Ingress => Some(self.subject),
            Direction::Egress => self.peer,
        }
    }

    fn selected(&self, selection: &PodSelection, pod: &Pod) -> bool {
        let namespace = match &selection.namespaces {
            NamespaceSelection::Named(name) => pod.key.namespace == *name,
            NamespaceSelection::Matching(selector) => {
                self.world.namespaces.get(&pod.key.namespace).is_some_and(|object| selector.matches(&object.labels))
            }
        };
        namespace && selection.pods.matches(&pod.labels)
    }
}
