//! Layout: the rules of a ruleset in flat arrays, laid out anew or on the base of a ruleset with similar policies.

use std::sync::Arc;

use ringfence_model::{Direction, PortRange, Tier};

use super::flatten::LAST;
use super::peer_selectors::{PeerSelector, PeerSelectors, Wanted};
use super::policy::{Action, Peer, Peers, Policy, Ports, Rule, keys};
use super::ruleset_spec::is_meant;
use super::strings::{NamedPort, Strings};
use crate::RuleId;

/// All rules of a ruleset. Flat arrays avoid pointer chasing, which dominates with 10,000 rules.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// In the order of evaluation.
    pub(super) rules: Vec<Flat>,
    /// Port keys of the rules; those of one rule are adjacent.
    keys: Vec<(u32, u32)>,
    /// The rules that each peer selector satisfies; sorted.
    uses: Vec<Use>,
}

/// A rule with the fields that deciding needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flat {
    pub(super) rule_id: RuleId,
    /// The range of its keys in [`Layout::keys`]. Named ports of egress rules are not among them.
    keys: (u32, u32),
    pub(super) tier: Tier,
    pub(super) action: Action,
    /// The rule matches every address, and every pod.
    pub(super) any: [bool; 2],
    /// An egress rule with named ports; its policy and position lead to the names.
    pub(super) named: bool,
    pub(super) policy: u32,
    pub(super) position: u32,
}

/// A rule that a peer selector satisfies. `by_address`: the selector is about addresses, so named ports of egress rules
/// do not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    pub(super) peer_selector: u32,
    pub(super) rule: u32,
    pub(super) by_address: bool,
}

/// Bytes of memory for a number of rules, port ranges and alternative peers.
pub(super) const fn bytes(rules: usize, ranges: usize, peers: usize) -> usize {
    rules * size_of::<Flat>() + ranges * size_of::<(u32, u32)>() + peers * size_of::<Use>()
}

/// The difference between the policies of two rulesets.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// For each policy, its position among those of the other ruleset, if it is there.
    kept: Vec<Option<u32>>,
    pub(super) added: Vec<Arc<Policy>>,
    pub(super) removed: Vec<Arc<Policy>>,
}

impl Change {
    /// The difference from `old` to `new`, both in the order of evaluation.
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

    /// The policies that were added or removed.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.added.iter().chain(&self.removed)
    }
}

impl Layout {
    /// Lays out the rules of these policies. `base`: a layout of other policies with the same ports, and the
    /// difference.
    pub(super) fn new(
        policies: &[Arc<Policy>],
        builder: &mut LayoutBuilder<'_>,
        base: Option<(&Self, &Change)>,
    ) -> Self {
        let empty = Self::default();
        let (base, kept) = base.map_or((&empty, &[][..]), |(base, change)| (base, &change.kept));
        let mut layout = Self {
            rules: Vec::with_capacity(base.rules.len().max(policies.len())),
            keys: Vec::with_capacity(base.keys.len()),
            uses: Vec::with_capacity(base.uses.len()),
        };
        // The new numbers of the rules of the base.
        let mut numbers = Vec::with_capacity(base.rules.len());
        let mut fresh = Vec::new();
        for (number, policy) in (0..).zip(policies) {
            let Some(old) = kept.get(number as usize).copied().flatten() else {
                layout.add(policy, number, builder, &mut fresh);
                continue;
            };
            while let Some(rule) = base.rules.get(numbers.len()).filter(|rule| rule.policy <= old) {
                numbers.push((rule.policy == old).then(|| length(&layout.rules)));
                if rule.policy == old {
                    layout.copy(rule, number, &base.keys);
                }
            }
        }
        let moved = |used: &Use| Some(Use { rule: numbers.get(used.rule as usize).copied().flatten()?, ..*used });
        layout.uses.extend(base.uses.iter().filter_map(moved));
        fresh.sort_unstable();
        fresh.dedup();
        layout.uses.extend(fresh);
        // Two sorted runs, which a stable sort merges fast.
        layout.uses.sort();
        layout
    }

    /// Adds the rules of a policy.
    fn add(&mut self, policy: &Policy, number: u32, builder: &mut LayoutBuilder<'_>, uses: &mut Vec<Use>) {
        let egress = builder.direction == Direction::Egress;
        for (position, rule) in (0..).zip(policy.rules(builder.direction).unwrap_or_default()) {
            let first = length(&self.keys);
            match &rule.ports {
                Ports::Any => self.keys.push((0, LAST)),
                Ports::List { ranges, .. } => self.keys.extend_from_slice(ranges),
            }
            if !egress {
                self.keys.extend(resolved(rule.ports.names(), builder.ports));
            }
            let ordinal = length(&self.rules);
            uses.extend(builder.peer_selectors(rule).map(|(peer_selector, by_address)| Use {
                peer_selector,
                rule: ordinal,
                by_address,
            }));
            self.rules.push(Flat {
                rule_id: rule.id,
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

    /// The keys that a rule matches, without named ports of egress rules.
    pub(super) fn keys(&self, rule: &Flat) -> &[(u32, u32)] {
        &self.keys[rule.keys.0 as usize..rule.keys.1 as usize]
    }

    /// The peer selectors of the rules, ascending.
    pub(super) fn peer_selectors(&self) -> impl Iterator<Item = u32> {
        self.uses.chunk_by(|a, b| a.peer_selector == b.peer_selector).map(|uses| uses[0].peer_selector)
    }

    /// The rules that a peer selector satisfies.
    pub(super) fn uses(&self, peer_selector: u32) -> &[Use] {
        let start = self.uses.partition_point(|used| used.peer_selector < peer_selector);
        let length = self.uses[start..].iter().take_while(|used| used.peer_selector == peer_selector).count();
        &self.uses[start..start + length]
    }
}

/// The inputs of laying out rules.
pub(super) struct LayoutBuilder<'a> {
    pub(super) direction: Direction,
    /// Ports of the subject that ingress rules name.
    pub(super) ports: &'a [NamedPort],
    /// The table in which peer selectors are interned; they are not counted as used.
    pub(super) peer_selectors: &'a mut PeerSelectors,
    pub(super) strings: &'a Strings,
}

impl LayoutBuilder<'_> {
    /// The peer selectors of a rule, and true for those about addresses.
    pub(super) fn peer_selectors(&mut self, rule: &Rule) -> impl Iterator<Item = (u32, bool)> {
        let peers = match &rule.peers {
            Peers::Any => &[][..],
            Peers::List(peers) => peers,
        };
        peers.iter().filter_map(|peer| {
            let (key, by_address) = match peer {
                Peer::AnyPod => return None,
                Peer::Pods(selection) => (PeerSelector::Pods(Arc::clone(selection)), false),
                Peer::Block(block) => (PeerSelector::Block(Arc::clone(block)), true),
                Peer::Nodes(selector) => (PeerSelector::Nodes(Arc::clone(selector)), true),
                Peer::Domain(pattern) => (PeerSelector::Domain(pattern.clone()), true),
            };
            Some((self.peer_selectors.intern(key, self.strings), by_address))
        })
    }
}

fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// The keys of the declared ports that a rule refers to.
pub(super) fn resolved(names: &[Wanted], declared: &[NamedPort]) -> impl Iterator<Item = (u32, u32)> {
    names.iter().flat_map(|wanted| {
        let meant = declared.iter().filter(|port| is_meant(*wanted, **port));
        meant.filter_map(|port| keys(PortRange::single(port.protocol, port.port)))
    })
}
