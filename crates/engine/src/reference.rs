//! The reference evaluator: what verdicts mean, written to be read.
//!
//! Nothing is compiled, indexed or remembered: every question walks every policy. It shares only the model with the
//! planner, so that the two can be held against each other. The order of evaluation is that of the upstream APIs:
//! Admin tier, then NetworkPolicy, then Baseline tier, then accept; egress at the source and ingress at the
//! destination are judged apart and both have to say yes.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::{
    Action, Connection, Decision, Direction, DomainPattern, Name, NamespaceSelection, Origin, Peer, Peers, Pod,
    PodSelection, Policy, PolicyId, PortMatch, Ports, Reason, Rule, RuleRef, Selector, Tier, Verdict, World,
};

/// What both ends say of a connection.
pub fn decide(world: &World, connection: &Connection) -> Decision {
    decide_at(world, None, connection)
}

/// The same as a node knows it: an end that is no pod of this node has no say ([`Reason::NotAPod`]).
pub fn decide_at(world: &World, node: Option<&Name>, connection: &Connection) -> Decision {
    Decision {
        egress: judge_at(world, node, connection, Direction::Egress),
        ingress: judge_at(world, node, connection, Direction::Ingress),
    }
}

/// What the end that `direction` looks from says.
pub fn judge(world: &World, connection: &Connection, direction: Direction) -> Verdict {
    judge_at(world, None, connection, direction)
}

/// The same as a node knows it, if one is named.
///
/// An address in dispute may what each of the pods may that have it: the first of them, oldest first, for which the
/// verdict is to deny decides. Where that cannot be known everything is denied ([`Reason::Undecided`]): for the subject
/// if policy tells its pods apart, for the peer if it does and the namespace of one is not known.
pub fn judge_at(world: &World, node: Option<&Name>, connection: &Connection, direction: Direction) -> Verdict {
    let (own, other) = match direction {
        Direction::Egress => (connection.source, connection.destination),
        Direction::Ingress => (connection.destination, connection.source),
    };
    let mut subjects = world.owners(own, node);
    subjects.retain(|pod| node.is_none() || pod.node.as_ref() == node);
    let Some(subject) = subjects.first().copied() else { return Verdict::allow(Reason::NotAPod) };
    if let Some(reason) = bypass(connection, subject, direction) {
        return Verdict::allow(reason);
    }
    if is_disputed(&subjects) {
        return Verdict::deny(Reason::Undecided);
    }
    let peers = world.owners(other, node);
    let question = Question { world, connection, direction, subject, address: other, peer: peers.first().copied() };
    let known = |pod: &&Pod| world.namespaces.contains_key(&pod.key.namespace);
    if is_disputed(&peers) && !peers.iter().all(known) && question.is_governed() {
        return Verdict::deny(Reason::Undecided);
    }
    let verdict = question.verdict();
    let others = peers.into_iter().skip(1).map(|peer| Question { peer: Some(peer), ..question }.verdict());
    std::iter::once(verdict.clone()).chain(others).find(|verdict| !verdict.allow).unwrap_or(verdict)
}

/// Whether it matters which of these pods has an address.
fn is_disputed(pods: &[&Pod]) -> bool {
    pods.iter().any(|pod| !pod.is_like(pods[0]))
}

/// Why policy is not asked, if it is not.
fn bypass(connection: &Connection, subject: &Pod, direction: Direction) -> Option<Reason> {
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

/// One end of one connection.
#[derive(Clone, Copy)]
struct Question<'a> {
    world: &'a World,
    connection: &'a Connection,
    direction: Direction,
    subject: &'a Pod,
    /// The address at the other end, and the pod that is taken to have it.
    address: IpAddr,
    peer: Option<&'a Pod>,
}

impl Question<'_> {
    fn verdict(&self) -> Verdict {
        self.tier(Tier::Admin)
            .or_else(|| self.network_policy())
            .or_else(|| self.tier(Tier::Baseline))
            .unwrap_or_else(|| Verdict::allow(Reason::Default))
    }

    /// Whether any policy may have an opinion: a NetworkPolicy isolates, others have rules that can match.
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
    /// A named port needs a destination pod that the rule knows as a pod: on egress it never goes together with a
    /// block (semantics: an `ipBlock` speaks of addresses, which declare no ports).
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

    /// The port matches, where the peer is meant by its address.
    fn address_and_port(&self, rule: &Rule) -> bool {
        self.port_matches(&rule.ports, self.direction == Direction::Ingress)
    }

    /// The other end is an address of a node with such labels.
    fn is_node(&self, selector: &Selector) -> bool {
        let address = self.address.to_canonical();
        self.world.nodes.values().any(|node| node.addresses.contains(&address) && selector.matches(&node.labels))
    }

    /// The other end is an address learnt for such a name, or was when the connection was opened.
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
