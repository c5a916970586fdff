//! Layout: the rules of a ruleset side by side, laid out anew or after those of a ruleset with much the same policies.

use std::sync::Arc;

use ringfence_model::{Direction, PortRange, Tier};

use super::atoms::{AtomKey, Atoms, Wanted};
use super::flatten::LAST;
use super::policy::{Action, Peer, Peers, Policy, Ports, Rule, keys};
use super::recipe::is_meant;
use super::strings::{NamedPort, Strings};
use crate::CauseId;

/// All rules of a ruleset. With 10,000 of them, following pointers is what costs.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// In the order of evaluation.
    pub(super) rules: Vec<Flat>,
    /// Keys of the rules, those of one rule side by side.
    keys: Vec<(u32, u32)>,
    /// Which rules each atom satisfies; sorted.
    uses: Vec<Use>,
}

/// A rule, as far as deciding needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flat {
    pub(super) cause: CauseId,
    /// First and end of its keys; of all of them at a destination without named ports.
    keys: (u32, u32),
    pub(super) tier: Tier,
    pub(super) action: Action,
    /// Whether it matches every address, or every pod.
    pub(super) any: [bool; 2],
    /// Whether it is an egress rule that names ports: then its policy and position tell which.
    pub(super) named: bool,
    pub(super) policy: u32,
    pub(super) position: u32,
}

/// A rule that an atom satisfies, and whether not as a pod: then named ports of egress rules do not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    pub(super) atom: u32,
    pub(super) rule: u32,
    pub(super) by_address: bool,
}

/// Bytes that so many rules, ranges of ports and alternatives of the other end take up.
pub(super) const fn bytes(rules: usize, ranges: usize, peers: usize) -> usize {
    rules * size_of::<Flat>() + ranges * size_of::<(u32, u32)>() + peers * size_of::<Use>()
}

/// How the policies of a ruleset differ from those of another.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// For each policy, its position among those of the other, if it is there.
    kept: Vec<Option<u32>>,
    pub(super) added: Vec<Arc<Policy>>,
    pub(super) removed: Vec<Arc<Policy>>,
}

impl Change {
    /// From `old` to `new`, both in the order of evaluation.
    pub(super) fn between(old: &[Arc<Policy>], new: &[Arc<Policy>]) -> Self {
        let mut change = Self { kept: Vec::with_capacity(new.len()), ..Self::default() };
        let mut old = (0..).zip(old).peekable();
        for policy in new {
            let earlier = |other: &Arc<Policy>| !Arc::ptr_eq(other, policy) && other.rank() < policy.rank();
            while let Some((_, gone)) = old.next_if(|(_, other)| earlier(other)) {
                change.removed.push(Arc::clone(gone));
            }
            let kept = old.next_if(|(_, other)| Arc::ptr_eq(other, policy));
            change.kept.push(kept.map(|(position, _)| position));
            if kept.is_none() {
                change.added.push(Arc::clone(policy));
            }
        }
        change.removed.extend(old.map(|(_, gone)| Arc::clone(gone)));
        change
    }

    /// The policies that come or go.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.added.iter().chain(&self.removed)
    }
}

impl Layout {
    /// The rules of these policies. `model`: a layout of other policies with the same ports, and what has changed
    /// since.
    pub(super) fn new(policies: &[Arc<Policy>], maker: &mut Maker<'_>, model: Option<(&Self, &Change)>) -> Self {
        let empty = Self::default();
        let (model, kept) = model.map_or((&empty, &[][..]), |(model, change)| (model, &change.kept));
        let mut layout = Self {
            rules: Vec::with_capacity(model.rules.len().max(policies.len())),
            keys: Vec::with_capacity(model.keys.len()),
            uses: Vec::with_capacity(model.uses.len()),
        };
        // The rules of the model as they are numbered here.
        let mut numbers = Vec::with_capacity(model.rules.len());
        let mut fresh = Vec::new();
        for (number, policy) in (0..).zip(policies) {
            let Some(old) = kept.get(number as usize).copied().flatten() else {
                layout.add(policy, number, maker, &mut fresh);
                continue;
            };
            while let Some(rule) = model.rules.get(numbers.len()).filter(|rule| rule.policy <= old) {
                numbers.push((rule.policy == old).then(|| length(&layout.rules)));
                if rule.policy == old {
                    layout.copy(rule, number, &model.keys);
                }
            }
        }
        let moved = |used: &Use| Some(Use { rule: numbers.get(used.rule as usize).copied().flatten()?, ..*used });
        layout.uses.extend(model.uses.iter().filter_map(moved));
        fresh.sort_unstable();
        fresh.dedup();
        layout.uses.extend(fresh);
        // Two sorted runs: what sorting stably is fast at.
        layout.uses.sort();
        layout
    }

    /// Adds the rules of a policy.
    fn add(&mut self, policy: &Policy, number: u32, maker: &mut Maker<'_>, uses: &mut Vec<Use>) {
        let egress = maker.direction == Direction::Egress;
        for (position, rule) in (0..).zip(policy.rules(maker.direction).unwrap_or_default()) {
            let first = length(&self.keys);
            match &rule.ports {
                Ports::Any => self.keys.push((0, LAST)),
                Ports::List { ranges, .. } => self.keys.extend_from_slice(ranges),
            }
            if !egress {
                self.keys.extend(resolved(rule.ports.names(), maker.ports));
            }
            let ordinal = length(&self.rules);
            uses.extend(maker.atoms(rule).map(|(atom, by_address)| Use { atom, rule: ordinal, by_address }));
            self.rules.push(Flat {
                cause: rule.cause,
                keys: (first, length(&self.keys)),
                tier: policy.tier,
                action: rule.action,
                any: rule.peers.any(),
                named: egress && !rule.ports.names().is_empty(),
                policy: number,
                position,
            });
        }
    }

    fn copy(&mut self, rule: &Flat, policy: u32, keys: &[(u32, u32)]) {
        let first = length(&self.keys);
        self.keys.extend_from_slice(&keys[rule.keys.0 as usize..rule.keys.1 as usize]);
        self.rules.push(Flat { keys: (first, length(&self.keys)), policy, ..*rule });
    }

    /// The keys a rule matches, named ports of egress rules aside.
    pub(super) fn keys(&self, rule: &Flat) -> &[(u32, u32)] {
        &self.keys[rule.keys.0 as usize..rule.keys.1 as usize]
    }

    /// The atoms the rules look at, ascending.
    pub(super) fn atoms(&self) -> impl Iterator<Item = u32> {
        self.uses.chunk_by(|a, b| a.atom == b.atom).map(|uses| uses[0].atom)
    }

    /// The rules an atom satisfies.
    pub(super) fn uses(&self, atom: u32) -> &[Use] {
        let start = self.uses.partition_point(|used| used.atom < atom);
        let length = self.uses[start..].iter().take_while(|used| used.atom == atom).count();
        &self.uses[start..start + length]
    }
}

/// What it takes to lay out rules.
pub(super) struct Maker<'a> {
    pub(super) direction: Direction,
    /// Ports of the subject that ingress rules name.
    pub(super) ports: &'a [NamedPort],
    /// Where the atoms of the rules are interned; they are not counted as used.
    pub(super) atoms: &'a mut Atoms,
    pub(super) strings: &'a Strings,
}

impl Maker<'_> {
    /// The atoms a rule looks at, and whether at the address.
    pub(super) fn atoms(&mut self, rule: &Rule) -> impl Iterator<Item = (u32, bool)> {
        let peers = match &rule.peers {
            Peers::Any => &[][..],
            Peers::List(peers) => peers,
        };
        peers.iter().filter_map(|peer| {
            let (key, by_address) = match peer {
                Peer::AnyPod => return None,
                Peer::Pods(selection) => (AtomKey::Pods(Arc::clone(selection)), false),
                Peer::Block(block) => (AtomKey::Block(Arc::clone(block)), true),
                Peer::Nodes(selector) => (AtomKey::Nodes(Arc::clone(selector)), true),
                Peer::Domain(pattern) => (AtomKey::Domain(pattern.clone()), true),
            };
            Some((self.atoms.intern(key, self.strings), by_address))
        })
    }
}

fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// The keys of the declared ports that are meant.
pub(super) fn resolved(names: &[Wanted], declared: &[NamedPort]) -> impl Iterator<Item = (u32, u32)> {
    names.iter().flat_map(|wanted| {
        let meant = declared.iter().filter(|port| is_meant(*wanted, **port));
        meant.filter_map(|port| keys(PortRange::single(port.protocol, port.port)))
    })
}
