//! Policies in the planner: interned, resolved as far as possible, hashed.

use std::sync::Arc;

use ringfence_model::{
    self as model, Direction, DomainPattern, IpBlock, Name, PolicyId, PortMatch, PortRange, Protocol, RuleRef, Tier,
};

use super::digest::{Content, Digest};
use super::layout;
use super::strings::{Compiled, Condition, Selection, Strings, Sym};
use crate::{RuleId, port_key};

/// A policy.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) id: PolicyId,
    pub(super) tier: Tier,
    priority: u32,
    pub(super) subject: Selection,
    /// The digest of the whole policy.
    pub(super) digest: Digest,
    /// The digest of kind, namespace and name.
    pub(super) id_digest: Digest,
    ingress: Option<Box<[Rule]>>,
    egress: Option<Box<[Rule]>>,
    /// The size of its rules in each direction.
    sizes: [Size; 2],
    /// There is no memory for its rules.
    pub(super) rules_withheld: bool,
}

/// The size of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rules: usize,
    pub(super) ranges: usize,
    /// Alternatives of the other end.
    peers: usize,
    /// Prefixes of `ipBlock`s; equal ones count each.
    pub(super) nets: usize,
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.rules += other.rules;
        self.ranges += other.ranges;
        self.peers += other.peers;
        self.nets += other.nets;
    }
}

impl Size {
    fn of(rules: &[Rule]) -> Self {
        let mut size = Self { rules: rules.len(), ..Self::default() };
        for rule in rules {
            size.ranges += match &rule.ports {
                Ports::Any => 1,
                Ports::List { ranges, names } => ranges.len() + names.len(),
            };
            if let Peers::List(peers) = &rule.peers {
                size.peers += peers.len();
                size.nets +=
                    peers.iter().map(|peer| peer.block().map_or(0, |block| 1 + block.except().len())).sum::<usize>();
            }
        }
        size
    }

    /// Bytes of memory for the layout in each ruleset.
    pub(super) fn layout(self) -> usize {
        layout::bytes(self.rules, self.ranges, self.peers)
    }
}

/// A rule that can match something.
#[derive(Debug)]
pub(super) struct Rule {
    /// Its position in the policy's list.
    index: u32,
    name: Option<Name>,
    pub(super) id: RuleId,
    pub(super) action: Action,
    pub(super) peers: Peers,
    pub(super) ports: Ports,
}

/// The action of a matching rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    Deny,
    Pass,
}

/// The other end.
#[derive(Debug)]
pub(super) enum Peers {
    Any,
    List(Box<[Peer]>),
}

/// One alternative of the other end.
#[derive(Debug)]
pub(super) enum Peer {
    /// Every pod of every known namespace.
    AnyPod,
    Pods(Arc<Selection>),
    Block(Arc<IpBlock>),
    Nodes(Arc<Compiled>),
    Domain(DomainPattern),
}

/// Destination ports.
#[derive(Debug)]
pub(super) enum Ports {
    Any,
    List {
        /// First and last key of [`port_key`].
        ranges: Box<[(u32, u32)]>,
        /// Names, and the protocol that is wanted.
        names: Box<[(Sym, Option<Protocol>)]>,
    },
}

impl Peer {
    pub(super) fn block(&self) -> Option<&IpBlock> {
        match self {
            Self::Block(block) => Some(block),
            Self::AnyPod | Self::Pods(_) | Self::Nodes(_) | Self::Domain(_) => None,
        }
    }
}

impl Policy {
    /// `digest`: the hash of the whole policy.
    pub(super) fn new(strings: &mut Strings, policy: &model::Policy, digest: Digest) -> Self {
        // Every object has its own copy of the namespace's name; keep one.
        let namespace = policy.id.namespace.as_ref().map(|name| {
            let sym = strings.intern(name);
            Name::clone(strings.name(sym))
        });
        let id = PolicyId { kind: policy.id.kind, namespace, name: Name::clone(&policy.id.name) };
        let ingress = rules(strings, policy, Direction::Ingress);
        let egress = rules(strings, policy, Direction::Egress);
        let subject = strings.selection(&policy.subject);
        let mut name = Content::new("policy id");
        name.policy_id(&id);
        let id_digest = name.digest();
        let sizes = [&ingress, &egress].map(|rules| Size::of(rules.as_deref().unwrap_or_default()));
        let model::Policy { tier, priority, rules_withheld, .. } = *policy;
        Self { id, tier, priority, subject, digest, id_digest, ingress, egress, sizes, rules_withheld }
    }

    /// The order of evaluation ([`model::Policy::rank`]).
    pub(super) fn rank(&self) -> (Tier, u32, &Name, &PolicyId) {
        (self.tier, self.priority, &self.id.name, &self.id)
    }

    /// The rules of a direction, if the policy governs it.
    pub(super) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// The size of the rules of a direction.
    pub(super) fn size(&self, direction: Direction) -> Size {
        match direction {
            Direction::Ingress => self.sizes[0],
            Direction::Egress => self.sizes[1],
        }
    }

    /// The `ipBlock`s of the rules of a direction.
    pub(super) fn blocks(&self, direction: Direction) -> impl Iterator<Item = &IpBlock> {
        let rules = self.rules(direction).unwrap_or_default().iter();
        let peers = rules.flat_map(|rule| match &rule.peers {
            Peers::Any => &[][..],
            Peers::List(peers) => peers,
        });
        peers.filter_map(Peer::block)
    }

    /// The reference to a rule in verdicts.
    pub(super) fn reference(&self, direction: Direction, rule: &Rule) -> RuleRef {
        RuleRef { policy: self.id.clone(), direction, index: rule.index as usize, name: rule.name.clone() }
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = Sym> {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        self.subject.symbols().chain(rules.flat_map(Rule::symbols))
    }
}

impl Peers {
    /// True if every address matches, and true if every pod of every known namespace does.
    pub(super) fn any(&self) -> [bool; 2] {
        match self {
            Self::Any => [true, true],
            Self::List(peers) => [false, peers.iter().any(|peer| matches!(peer, Peer::AnyPod))],
        }
    }
}

impl Rule {
    fn new(strings: &mut Strings, policy: &model::Policy, direction: Direction, index: usize) -> Option<Self> {
        let rule = &policy.rules(direction)?[index];
        let (action, known) = effect(policy.tier, rule)?;
        Some(Self {
            index: u32::try_from(index).ok()?,
            name: rule.name.clone(),
            id: rule_id(policy, direction, index, rule),
            action,
            peers: if known { Peers::new(strings, &rule.peers) } else { Peers::Any },
            ports: if known { Ports::new(strings, &rule.ports) } else { Ports::Any },
        })
    }

    fn symbols(&self) -> impl Iterator<Item = Sym> {
        let peers = match &self.peers {
            Peers::Any => &[][..],
            Peers::List(peers) => peers,
        };
        let of_peers = peers.iter().flat_map(|peer| {
            let (selection, selector) = match peer {
                Peer::Pods(selection) => (Some(selection), None),
                Peer::Nodes(selector) => (None, Some(selector)),
                Peer::AnyPod | Peer::Block(_) | Peer::Domain(_) => (None, None),
            };
            let conditions = selector.into_iter().flat_map(|selector| selector.iter());
            selection
                .into_iter()
                .flat_map(|selection| selection.symbols())
                .chain(conditions.flat_map(Condition::symbols))
        });
        of_peers.chain(self.ports.names().iter().map(|(name, _)| *name))
    }
}

fn rules(strings: &mut Strings, policy: &model::Policy, direction: Direction) -> Option<Box<[Rule]>> {
    let count = policy.rules(direction)?.len();
    let rules: Box<[_]> = (0..count).filter_map(|index| Rule::new(strings, policy, direction, index)).collect();
    // Without rules, only a NetworkPolicy decides anything: it isolates.
    (policy.tier == Tier::NetworkPolicy || !rules.is_empty()).then_some(rules)
}

/// The action of a rule, and true if its peers and ports count. None: it never matches.
fn effect(tier: Tier, rule: &model::Rule) -> Option<(Action, bool)> {
    let known = rule.unknown().is_none();
    match &rule.action {
        model::Action::Accept => known.then_some((Action::Accept, true)),
        _ if tier == Tier::NetworkPolicy => None,
        model::Action::Deny | model::Action::Pass | model::Action::Unknown(_) if !known => Some((Action::Deny, false)),
        model::Action::Deny | model::Action::Unknown(_) => Some((Action::Deny, true)),
        model::Action::Pass => Some((Action::Pass, true)),
    }
}

fn rule_id(policy: &model::Policy, direction: Direction, index: usize, rule: &model::Rule) -> RuleId {
    let mut content = Content::new("rule");
    content.policy_id(&policy.id);
    content.text(&policy.uid);
    content.number(policy.generation);
    content.number(direction as u8);
    content.length(index);
    content.optional(rule.name.as_ref());
    RuleId(content.id())
}

impl Peers {
    fn new(strings: &mut Strings, peers: &model::Peers) -> Self {
        let model::Peers::List(peers) = peers else { return Self::Any };
        let peers = peers.iter().filter_map(|peer| match peer {
            model::Peer::Pods(selection) => {
                let selection = strings.selection(selection);
                Some(if selection.selects_any_pod() { Peer::AnyPod } else { Peer::Pods(Arc::new(selection)) })
            }
            model::Peer::Block(block) => Some(Peer::Block(Arc::new(block.clone()))),
            model::Peer::Nodes(selector) => Some(Peer::Nodes(Arc::new(strings.selector(selector)))),
            model::Peer::Domain(pattern) => Some(Peer::Domain(pattern.clone())),
            model::Peer::Unknown(_) => None,
        });
        Self::List(peers.collect())
    }
}

impl Ports {
    fn new(strings: &mut Strings, ports: &model::Ports) -> Self {
        let model::Ports::List(ports) = ports else { return Self::Any };
        let ranges = ports.iter().filter_map(|port| match port {
            PortMatch::Range(range) => keys(*range),
            PortMatch::Named { .. } | PortMatch::Unknown(_) => None,
        });
        let ranges = ranges.collect();
        let names = ports.iter().filter_map(|port| match port {
            PortMatch::Named { protocol, name } => Some((strings.intern(name), *protocol)),
            PortMatch::Range(_) | PortMatch::Unknown(_) => None,
        });
        Self::List { ranges, names: names.collect() }
    }

    pub(super) fn names(&self) -> &[(Sym, Option<Protocol>)] {
        match self {
            Self::Any => &[],
            Self::List { names, .. } => names,
        }
    }
}

/// The keys of a port range; none for protocols without ports.
pub(super) fn keys(range: PortRange) -> Option<(u32, u32)> {
    let PortRange { protocol, first, last } = range;
    (protocol.has_ports() && first <= last).then(|| (port_key(protocol, first), port_key(protocol, last)))
}
