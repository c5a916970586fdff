//! Rulesets: the ordered rules that apply to a pod in one direction, and what they decide about a class.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::HashMap;
use ringfence_model::{Direction, PolicyId, PortRange, Reason, Tier};

use super::atoms::{AtomKey, Atoms, Wanted};
use super::classes::Satisfied;
use super::digest::{Content, Digest};
use super::flatten::{Keys, LAST, Step, flatten};
use super::policy::{Action, Peer, Peers, Policy, Ports, keys};
use super::recipe::{Recipe, is_meant};
use super::strings::{NamedPort, Strings};
use crate::{Block, Cause, CauseId, RulesetId};

/// A ruleset in use.
#[derive(Debug)]
pub(super) struct Ruleset {
    pub(super) id: RulesetId,
    pub(super) direction: Direction,
    /// In the order of evaluation; all govern the direction.
    pub(super) policies: Box<[Arc<Policy>]>,
    /// Ports of the subject that ingress rules name.
    pub(super) ports: Box<[NamedPort]>,
    /// All rules in the order of evaluation.
    rules: Box<[Flat]>,
    /// Keys of the rules, those of one rule side by side.
    keys: Box<[(u32, u32)]>,
    /// Which rules each atom satisfies, and whether as a pod; sorted.
    uses: Box<[Use]>,
    /// Rules that match an unknown address, and any pod; less those that never win.
    any: [Box<[u32]>; 2],
    /// Port names of egress rules, sorted.
    pub(super) wanted: Box<[Wanted]>,
    /// Whether some rule speaks of every pod.
    pub(super) universal: bool,
    /// Who denies what no rule of a NetworkPolicy accepts.
    pub(super) isolated: Option<Isolation>,
    /// How many subjects have it.
    pub(super) subjects: u32,
    /// What it decides about [`crate::ClassId::UNKNOWN`] and [`crate::ClassId::ANY_POD`].
    pub(super) fallback: [Arc<Block>; 2],
    /// What else it decides, by number of class.
    pub(super) entries: HashMap<u32, Arc<Block>>,
}

/// A rule, as far as deciding needs it: with 10,000 of them, following pointers is what costs.
#[derive(Clone, Copy, Debug)]
struct Flat {
    cause: CauseId,
    /// First and end of its keys; of all of them at a destination without named ports.
    keys: (u32, u32),
    tier: Tier,
    action: Action,
    /// Whether it matches every address, or every pod.
    any: [bool; 2],
    /// Whether it is an egress rule that names ports: then its policy and position tell which.
    named: bool,
    policy: u32,
    position: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    atom: u32,
    rule: u32,
    /// Not as a pod: then named ports of egress rules do not match.
    by_address: bool,
}

/// The policies that isolate the subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct Isolation {
    pub(super) cause: CauseId,
    /// Of all of them.
    pub(super) digest: Digest,
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
            keys: Box::default(),
            uses: Box::default(),
            any: [Box::default(), Box::default()],
            wanted: Box::default(),
            universal: false,
            isolated: Isolation::of(recipe.direction, &policies),
            subjects: 0,
            fallback: [(); 2].map(|()| Arc::new(Block::constant(false, CauseId::DEFAULT))),
            entries: HashMap::default(),
            policies,
        };
        ruleset.flatten();
        ruleset.index(atoms, strings);
        for universal in [false, true] {
            ruleset.any[usize::from(universal)] = ruleset.winners(universal);
            let peer = Satisfied { universal, atoms: Vec::new() };
            ruleset.fallback[usize::from(universal)] = Arc::new(ruleset.decide(&peer, atoms));
        }
        ruleset
    }

    /// Lays out rules and keys side by side.
    fn flatten(&mut self) {
        let (mut rules, mut keys, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (number, policy) in (0..).zip(&self.policies) {
            for (position, rule) in (0..).zip(policy.rules(self.direction).unwrap_or_default()) {
                let first = length(&keys);
                match &rule.ports {
                    Ports::Any => keys.push((0, LAST)),
                    Ports::List { ranges, .. } => keys.extend_from_slice(ranges),
                }
                if self.direction == Direction::Ingress {
                    keys.extend(resolved(rule.ports.names(), &self.ports));
                } else {
                    wanted.extend_from_slice(rule.ports.names());
                }
                let any = matches!(rule.peers, Peers::Any);
                let any_pod = matches!(&rule.peers, Peers::List(peers) if peers.iter().any(Peer::is_any_pod));
                self.universal |= any_pod;
                rules.push(Flat {
                    cause: rule.cause,
                    keys: (first, length(&keys)),
                    tier: policy.tier,
                    action: rule.action,
                    any: [any, any || any_pod],
                    named: self.direction == Direction::Egress && !rule.ports.names().is_empty(),
                    policy: number,
                    position,
                });
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        self.rules = rules.into();
        self.keys = keys.into();
        self.wanted = wanted.into();
    }

    /// Finds out what its rules look at.
    fn index(&mut self, atoms: &mut Atoms, strings: &Strings) {
        let mut uses = Vec::new();
        let rules = self.policies.iter().flat_map(|policy| policy.rules(self.direction).unwrap_or_default());
        for (rule, known) in (0..).zip(rules) {
            let Peers::List(peers) = &known.peers else { continue };
            for peer in peers {
                let (key, by_address) = match peer {
                    Peer::AnyPod => continue,
                    Peer::Pods(selection) => (AtomKey::Pods(Arc::clone(selection)), false),
                    Peer::Block(block) => (AtomKey::Block(Arc::clone(block)), true),
                    Peer::Nodes(selector) => (AtomKey::Nodes(Arc::clone(selector)), true),
                    Peer::Domain(pattern) => (AtomKey::Domain(pattern.clone()), true),
                };
                uses.push(Use { atom: atoms.intern(key, strings), rule, by_address });
            }
        }
        uses.sort_unstable();
        uses.dedup();
        self.uses = uses.into();
    }

    /// The atoms its rules look at.
    pub(super) fn atoms(&self) -> impl Iterator<Item = u32> {
        self.uses.chunk_by(|a, b| a.atom == b.atom).map(|uses| uses[0].atom)
    }

    /// Rules without conditions on the peer, except those that earlier ones of their tier leave nothing to: whatever
    /// else matches, they get nothing. Rules with named ports stay, for what they match depends on the peer.
    fn winners(&self, universal: bool) -> Box<[u32]> {
        let mut open: HashMap<Tier, Keys> = HashMap::default();
        let mut winners = Vec::new();
        for (ordinal, rule) in (0..).zip(&self.rules) {
            if !rule.any[usize::from(universal)] {
                continue;
            }
            let mut wins = rule.named;
            let open = open.entry(rule.tier).or_insert_with(Keys::all);
            for range in self.ranges(rule, &[]).iter() {
                open.take(*range, |_| wins = true);
            }
            if wins {
                winners.push(ordinal);
            }
        }
        winners.into()
    }

    /// The keys a rule matches at a destination that declares these ports.
    fn ranges(&self, rule: &Flat, declared: &[NamedPort]) -> Cow<'_, [(u32, u32)]> {
        let (first, end) = rule.keys;
        let ranges = &self.keys[first as usize..end as usize];
        if !rule.named || declared.is_empty() {
            return Cow::Borrowed(ranges);
        }
        let rules = self.policies[rule.policy as usize].rules(self.direction).unwrap_or_default();
        let names = rules[rule.position as usize].ports.names();
        Cow::Owned(ranges.iter().copied().chain(resolved(names, declared)).collect())
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
                AtomKey::Pods(_) | AtomKey::Block(_) | AtomKey::Nodes(_) | AtomKey::Domain(_) => None,
            });
            ports.collect()
        };
        let steps = matching.iter().map(|(ordinal, by_address)| {
            let rule = &self.rules[*ordinal as usize];
            let ranges = self.ranges(rule, if *by_address { &[] } else { &declared });
            Step { tier: rule.tier, action: rule.action, cause: rule.cause, ranges }
        });
        flatten(steps, self.isolated.map(|isolation| isolation.cause))
    }
}

fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// The keys of the declared ports that are meant.
fn resolved(names: &[Wanted], declared: &[NamedPort]) -> impl Iterator<Item = (u32, u32)> {
    names.iter().flat_map(|wanted| {
        let meant = declared.iter().filter(|port| is_meant(*wanted, **port));
        meant.filter_map(|port| keys(PortRange::single(port.protocol, port.port)))
    })
}

impl Isolation {
    fn of(direction: Direction, policies: &[Arc<Policy>]) -> Option<Self> {
        let mut content = Content::new("isolated");
        content.number(direction as u8);
        let empty = content.length_so_far();
        for policy in isolating(policies) {
            content.bytes(&policy.id_digest);
        }
        let digest = content.digest();
        (content.length_so_far() > empty).then(|| Self { cause: CauseId(content.id()), digest })
    }

    /// What the cause stands for.
    pub(super) fn reason(ruleset: &Ruleset) -> Cause {
        let mut policies: Vec<PolicyId> = isolating(&ruleset.policies).map(|policy| policy.id.clone()).collect();
        policies.sort_unstable();
        Reason::Isolated { direction: ruleset.direction, policies: policies.into() }
    }
}

fn isolating(policies: &[Arc<Policy>]) -> impl Iterator<Item = &Arc<Policy>> {
    policies.iter().filter(|policy| policy.tier == Tier::NetworkPolicy)
}
