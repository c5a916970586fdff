//! Rulesets: the ordered rules that apply to a pod in one direction, and what they decide about a class.

use foldhash::HashMap;
use std::borrow::Cow;
use std::sync::Arc;

use ringfence_model::{Direction, PolicyId, PortRange, Reason, Tier};

use super::atoms::{AtomKey, Atoms, Wanted};
use super::classes::Satisfied;
use super::digest::Content;
use super::flatten::{Keys, LAST, Step, flatten};
use super::policy::{Peer, Peers, Policy, Ports, Rule, keys};
use super::strings::{NamedPort, Strings};
use crate::{Block, Cause, CauseId, RulesetId};

const ALL: &[(u32, u32)] = &[(0, LAST)];

/// What makes a ruleset: the policies in the order of evaluation, and the subject's ports that their ingress rules
/// name.
#[derive(Clone, Debug)]
pub(super) struct Recipe<'a> {
    pub(super) direction: Direction,
    /// All policies that select the subject.
    pub(super) policies: &'a [Arc<Policy>],
    /// All ports the subject declares.
    pub(super) declared: &'a [NamedPort],
}

impl<'a> Recipe<'a> {
    /// The policies that govern the direction.
    fn governing(&self) -> impl Iterator<Item = (&'a Arc<Policy>, &'a [Rule])> {
        let direction = self.direction;
        self.policies.iter().filter_map(move |policy| Some((policy, policy.rules(direction)?)))
    }

    /// Whether no policy governs the direction.
    pub(super) fn is_empty(&self) -> bool {
        self.governing().next().is_none()
    }

    /// The declared ports that ingress rules name.
    fn ports(&self) -> Box<[NamedPort]> {
        let named = |port: &NamedPort| {
            let names = self.governing().flat_map(|(_, rules)| rules).flat_map(|rule| rule.ports.names());
            names.into_iter().any(|wanted| is_meant(*wanted, *port))
        };
        match self.direction {
            Direction::Ingress => self.declared.iter().filter(|port| named(port)).copied().collect(),
            Direction::Egress => Box::default(),
        }
    }

    /// The id of the ruleset.
    pub(super) fn id(&self, strings: &Strings) -> RulesetId {
        let mut content = Content::new("ruleset");
        content.number(self.direction as u8);
        for (policy, _) in self.governing() {
            content.bytes(&policy.digest);
        }
        // By name, not by number: that of a string depends on the order of events.
        let ports = self.ports();
        let mut ports: Vec<_> = ports.iter().map(|port| (strings.name(port.name), port.protocol, port.port)).collect();
        ports.sort_unstable();
        for (name, protocol, port) in ports {
            content.text(name);
            content.number(protocol.0);
            content.number(port);
        }
        RulesetId(content.id())
    }

    /// Whether this is what `ruleset` was made of.
    pub(super) fn made(&self, ruleset: &Ruleset) -> bool {
        self.direction == ruleset.direction
            && self.governing().map(|(policy, _)| policy.digest).eq(ruleset.policies.iter().map(|policy| policy.digest))
            && self.ports() == ruleset.ports
    }
}

fn is_meant((name, protocol): Wanted, port: NamedPort) -> bool {
    name == port.name && protocol.is_none_or(|protocol| protocol == port.protocol)
}

/// A ruleset in use.
#[derive(Debug)]
pub(super) struct Ruleset {
    pub(super) id: RulesetId,
    pub(super) direction: Direction,
    policies: Box<[Arc<Policy>]>,
    ports: Box<[NamedPort]>,
    /// All rules in the order of evaluation: number of the policy, number of the rule.
    rules: Box<[(u32, u32)]>,
    /// Which rules each atom satisfies, and whether as a pod; sorted.
    uses: Box<[Use]>,
    /// Rules that match an unknown address, and any pod; less those that never win.
    any: [Box<[u32]>; 2],
    /// Port names of egress rules.
    pub(super) wanted: Box<[Wanted]>,
    /// Whether some rule speaks of every pod.
    pub(super) universal: bool,
    isolated: Option<CauseId>,
    /// How many subjects have it.
    pub(super) subjects: u32,
    /// What it decides about [`crate::ClassId::UNKNOWN`] and [`crate::ClassId::ANY_POD`].
    pub(super) fallback: [Arc<Block>; 2],
    /// What else it decides, by number of class.
    pub(super) entries: HashMap<u32, Arc<Block>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    atom: u32,
    rule: u32,
    /// Not as a pod: then named ports of egress rules do not match.
    by_address: bool,
}

impl Ruleset {
    /// Makes a ruleset. `atoms` interns the atoms of its rules; they are not yet counted as used.
    pub(super) fn new(recipe: &Recipe<'_>, id: RulesetId, atoms: &mut Atoms, strings: &Strings) -> Self {
        let policies: Box<[_]> = recipe.governing().map(|(policy, _)| Arc::clone(policy)).collect();
        let mut ruleset = Self {
            id,
            direction: recipe.direction,
            ports: recipe.ports(),
            rules: Box::default(),
            uses: Box::default(),
            any: [Box::default(), Box::default()],
            wanted: Box::default(),
            universal: false,
            isolated: isolated(recipe.direction, &policies),
            subjects: 0,
            fallback: [(); 2].map(|()| Arc::new(Block::constant(false, CauseId::DEFAULT))),
            entries: HashMap::default(),
            policies,
        };
        ruleset.index(atoms, strings);
        for universal in [false, true] {
            ruleset.any[usize::from(universal)] = ruleset.winners(universal);
            let peer = Satisfied { universal, atoms: Vec::new() };
            ruleset.fallback[usize::from(universal)] = Arc::new(ruleset.decide(&peer, atoms));
        }
        ruleset
    }

    /// Numbers the rules and finds out what they look at.
    fn index(&mut self, atoms: &mut Atoms, strings: &Strings) {
        let (mut rules, mut uses, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (number, policy) in (0..).zip(&self.policies) {
            for (position, rule) in (0..).zip(policy.rules(self.direction).unwrap_or_default()) {
                let ordinal = u32::try_from(rules.len()).unwrap_or(u32::MAX);
                rules.push((number, position));
                if self.direction == Direction::Egress {
                    wanted.extend_from_slice(rule.ports.names());
                }
                let Peers::List(peers) = &rule.peers else { continue };
                for peer in peers {
                    let (key, by_address) = match peer {
                        Peer::AnyPod => {
                            self.universal = true;
                            continue;
                        }
                        Peer::Pods(selection) => (AtomKey::Pods(Arc::clone(selection)), false),
                        Peer::Block(block) => (AtomKey::Block(Arc::clone(block)), true),
                    };
                    uses.push(Use { atom: atoms.intern(key, strings), rule: ordinal, by_address });
                }
            }
        }
        uses.sort_unstable();
        uses.dedup();
        wanted.sort_unstable();
        wanted.dedup();
        self.rules = rules.into();
        self.uses = uses.into();
        self.wanted = wanted.into();
    }

    /// The atoms its rules look at.
    pub(super) fn atoms(&self) -> impl Iterator<Item = u32> {
        self.uses.chunk_by(|a, b| a.atom == b.atom).map(|uses| uses[0].atom)
    }

    fn rule(&self, ordinal: u32) -> (&Policy, &Rule) {
        let (policy, position) = self.rules[ordinal as usize];
        let policy = &self.policies[policy as usize];
        (policy, &policy.rules(self.direction).unwrap_or_default()[position as usize])
    }

    /// Rules without conditions on the peer, except those that earlier ones of their tier leave nothing to: whatever
    /// else matches, they get nothing. Rules with named ports stay, for what they match depends on the peer.
    fn winners(&self, universal: bool) -> Box<[u32]> {
        let mut open: HashMap<Tier, Keys> = HashMap::default();
        let wins = |ordinal: &u32| {
            let (policy, rule) = self.rule(*ordinal);
            let matches = match &rule.peers {
                Peers::Any => true,
                Peers::List(peers) => universal && peers.iter().any(|peer| matches!(peer, Peer::AnyPod)),
            };
            let mut wins = matches && self.direction == Direction::Egress && !rule.ports.names().is_empty();
            if matches {
                let open = open.entry(policy.tier).or_insert_with(Keys::all);
                for range in self.ranges(rule, &[]).iter() {
                    open.take(*range, |_| wins = true);
                }
            }
            wins
        };
        (0..u32::try_from(self.rules.len()).unwrap_or(u32::MAX)).filter(wins).collect()
    }

    /// The keys a rule matches at a destination that declares these ports.
    fn ranges<'a>(&'a self, rule: &'a Rule, declared: &[NamedPort]) -> Cow<'a, [(u32, u32)]> {
        let Ports::List { ranges, names } = &rule.ports else { return Cow::Borrowed(ALL) };
        let declared = match self.direction {
            Direction::Ingress => &self.ports,
            Direction::Egress => declared,
        };
        if names.is_empty() || declared.is_empty() {
            return Cow::Borrowed(ranges);
        }
        let resolved = names.iter().flat_map(|wanted| {
            let meant = declared.iter().filter(|port| is_meant(*wanted, **port));
            meant.filter_map(|port| keys(PortRange::single(port.protocol, port.port)))
        });
        Cow::Owned(ranges.iter().copied().chain(resolved).collect())
    }

    /// What it decides about a peer.
    pub(super) fn decide(&self, peer: &Satisfied, atoms: &Atoms) -> Block {
        let mut matching: Vec<(u32, bool)> =
            self.any[usize::from(peer.universal)].iter().map(|rule| (*rule, false)).collect();
        for atom in &peer.atoms {
            let start = self.uses.partition_point(|used| used.atom < *atom);
            let uses = self.uses[start..].iter().take_while(|used| used.atom == *atom);
            matching.extend(uses.map(|used| (used.rule, used.by_address)));
        }
        matching.sort_unstable();
        matching.dedup_by_key(|(rule, _)| *rule);
        let declared: Vec<_> = if self.wanted.is_empty() {
            Vec::new()
        } else {
            let ports = peer.atoms.iter().filter_map(|atom| match &atoms[*atom].key {
                AtomKey::Port(port) => Some(*port),
                AtomKey::Pods(_) | AtomKey::Block(_) => None,
            });
            ports.collect()
        };
        let steps = matching.iter().map(|(ordinal, by_address)| {
            let (policy, rule) = self.rule(*ordinal);
            let ranges = self.ranges(rule, if *by_address { &[] } else { &declared });
            Step { tier: policy.tier, action: rule.action, cause: rule.cause, ranges }
        });
        flatten(steps, self.isolated)
    }

    /// Everybody its decisions can name.
    pub(super) fn causes(&self) -> impl Iterator<Item = (CauseId, Cause)> {
        let rules = (0..).zip(&self.rules).map(|(ordinal, _)| {
            let (policy, rule) = self.rule(ordinal);
            (rule.cause, Reason::Rule(policy.reference(self.direction, rule)))
        });
        let isolated = self.isolated.map(|id| {
            let policies = isolating(&self.policies).into_iter().cloned().collect();
            (id, Reason::Isolated { direction: self.direction, policies })
        });
        rules.chain(isolated).chain([(CauseId::DEFAULT, Reason::Default)])
    }

    /// Their ids only.
    pub(super) fn cause_ids(&self) -> impl Iterator<Item = CauseId> {
        let rules = (0..).zip(&self.rules).map(|(ordinal, _)| self.rule(ordinal).1.cause);
        rules.chain(self.isolated).chain([CauseId::DEFAULT])
    }
}

/// The policies that isolate the subject, sorted.
fn isolating(policies: &[Arc<Policy>]) -> Vec<&PolicyId> {
    let isolating = policies.iter().filter(|policy| policy.tier == Tier::NetworkPolicy);
    let mut isolating: Vec<_> = isolating.map(|policy| &policy.id).collect();
    isolating.sort();
    isolating
}

fn isolated(direction: Direction, policies: &[Arc<Policy>]) -> Option<CauseId> {
    let isolating = isolating(policies);
    if isolating.is_empty() {
        return None;
    }
    let mut content = Content::new("isolated");
    content.number(direction as u8);
    for id in isolating {
        content.policy_id(id);
    }
    Some(CauseId(content.id()))
}
