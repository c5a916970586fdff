//! Rulesets: the ordered rules that apply to a pod in one direction, and their decisions about peer sets.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::HashMap;
use ringfence_model::{Direction, Tier};

use super::accounting::{StoredTable, TableAccounting};
use super::flatten::{Keys, Step, flatten};
use super::isolation::Isolation;
use super::layout::{Change, Flat, Layout, LayoutBuilder, resolved};
use super::peer_selectors::{PeerSelector, PeerSelectors, Wanted};
use super::peer_sets::{OwnerContent, PeerSetContent};
use super::policy::Policy;
use super::ruleset_spec::RulesetSpec;
use super::strings::{NamedPort, Namespaces, Strings, Sym};
use crate::{PeerSetId, PortTable, Resource, RuleId, RulesetId};

/// The peer selectors and port names of rules, and true if some rule is about every pod.
pub(super) type PeerReferences = (Vec<u32>, Vec<Wanted>, bool);

/// The payer of a ruleset: the namespace of its NetworkPolicies. None: cluster-wide policies together.
pub(super) type Payer = Option<Sym>;

/// The payer of a ruleset of these policies. A namespace that adds a NetworkPolicy to cluster-wide policies pays for
/// the whole ruleset, because the ruleset differs only for that reason. Otherwise a namespace could use up the share of
/// the cluster-wide policies.
pub(super) fn payer<'a>(policies: impl IntoIterator<Item = &'a Arc<Policy>>) -> Payer {
    policies.into_iter().find(|policy| policy.tier == Tier::NetworkPolicy).and_then(|policy| {
        match policy.subject.namespaces {
            Namespaces::Named(namespace) => Some(namespace),
            Namespaces::Matching(_) => None,
        }
    })
}

/// A ruleset in use.
#[derive(Debug)]
pub(super) struct Ruleset {
    pub(super) id: RulesetId,
    pub(super) direction: Direction,
    /// In the order of evaluation; all govern the direction.
    pub(super) policies: Box<[Arc<Policy>]>,
    /// Ports of the subject that ingress rules name.
    pub(super) ports: Box<[NamedPort]>,
    layout: Layout,
    /// Rules that match an unknown address, and those that match any pod, without rules that never win.
    any: [Box<[u32]>; 2],
    /// Port names of egress rules, sorted.
    pub(super) wanted: Box<[Wanted]>,
    /// Some rule is about every pod.
    pub(super) any_pod: bool,
    /// The NetworkPolicies that deny the rest.
    pub(super) isolated: Option<Isolation>,
    /// The number of subjects with this ruleset.
    pub(super) subjects: u32,
    /// Its decisions about [`crate::PeerSetId::UNKNOWN`] and [`crate::PeerSetId::ANY_POD`].
    pub(super) fallback: [StoredTable; 2],
    /// Its other decisions, by number of peer set.
    pub(super) entries: HashMap<u32, StoredTable>,
    /// Its decisions are in the plan.
    pub(super) published: bool,
    /// The exhausted resource, if there is no room for the ruleset: everything is denied, and only the sizes of its
    /// tables are stored.
    pub(super) refused: Option<Resource>,
    /// Bytes of its layout.
    pub(super) bytes: usize,
}

impl Ruleset {
    /// Builds a ruleset without entries, from the policies of a spec that govern its direction. `peer_selectors`
    /// interns the peer selectors of its rules; they are not counted as used yet. `base`: a ruleset of the same
    /// subject, and the difference of its policies.
    pub(super) fn new(
        id: RulesetId,
        spec: &RulesetSpec<'_>,
        policies: Box<[Arc<Policy>]>,
        base: Option<(&Self, &Change)>,
        peer_selectors: &mut PeerSelectors,
        strings: &Strings,
    ) -> Self {
        let direction = spec.direction;
        let mut builder = LayoutBuilder { direction, ports: &spec.ports, peer_selectors, strings };
        let layout = Layout::new(&policies, &mut builder, base.map(|(base, change)| (&base.layout, change)));
        let mut ruleset = Self {
            id,
            direction,
            ports: spec.ports.clone(),
            any: [Box::default(), Box::default()],
            wanted: wanted(direction, &policies, base),
            any_pod: layout.rules.iter().any(|rule| rule.any == [false, true]),
            isolated: Isolation::of(direction, &policies, base),
            subjects: 0,
            fallback: [(); 2].map(|()| StoredTable::Whole(Arc::new(PortTable::constant(false, RuleId::DEFAULT)))),
            entries: HashMap::default(),
            published: false,
            refused: None,
            bytes: policies.iter().map(|policy| policy.size(direction).layout()).sum(),
            layout,
            policies,
        };
        for any_pod in [false, true] {
            ruleset.any[usize::from(any_pod)] = ruleset.winners(any_pod);
            let peer = PeerSetContent::new(any_pod, Vec::new());
            ruleset.fallback[usize::from(any_pod)] =
                StoredTable::Whole(Arc::new(ruleset.port_table(&peer, peer_selectors)));
        }
        ruleset
    }

    /// All stored port tables; those of the fallbacks first.
    pub(super) fn stored_tables(&self) -> impl Iterator<Item = &StoredTable> {
        self.fallback.iter().chain(self.entries.values())
    }

    fn stored_tables_mut(&mut self) -> impl Iterator<Item = &mut StoredTable> {
        self.fallback.iter_mut().chain(self.entries.values_mut())
    }

    /// All whole port tables by peer set. `id`: the id of a peer set.
    pub(super) fn tables(&self, id: impl Fn(u32) -> PeerSetId) -> impl Iterator<Item = (PeerSetId, &Arc<PortTable>)> {
        let fallback = [PeerSetId::UNKNOWN, PeerSetId::ANY_POD].into_iter().zip(&self.fallback);
        let entries = self.entries.iter().map(move |(peer_set, stored)| (id(*peer_set), stored));
        fallback.chain(entries).filter_map(|(peer_set, stored)| Some((peer_set, stored.table()?)))
    }

    /// Reduces the stored tables to their sizes.
    pub(super) fn evict_tables(&mut self, resource: Resource, accounting: &mut TableAccounting) {
        self.refused = Some(resource);
        for stored in self.stored_tables_mut() {
            let fingerprint = StoredTable::Fingerprint(stored.fingerprint());
            accounting.remove(stored);
            accounting.add(&fingerprint);
            *stored = fingerprint;
        }
    }

    /// The peer selectors of its rules, ascending.
    pub(super) fn peer_selectors(&self) -> impl Iterator<Item = u32> {
        self.layout.peer_selectors()
    }

    /// The peers that its rules refer to.
    pub(super) fn references(&self) -> PeerReferences {
        (self.peer_selectors().collect(), self.wanted.to_vec(), self.any_pod)
    }

    /// The peers that its rules refer to and those of another ruleset do not.
    pub(super) fn references_beyond(&self, other: &Self) -> PeerReferences {
        let (mut peer_selectors, mut wanted, any_pod) = self.references();
        let mut others = other.peer_selectors().peekable();
        peer_selectors.retain(|peer_selector| {
            while others.next_if(|other| other < peer_selector).is_some() {}
            others.peek() != Some(peer_selector)
        });
        wanted.retain(|wanted| other.wanted.binary_search(wanted).is_err());
        (peer_selectors, wanted, any_pod && !other.any_pod)
    }

    /// Rules without conditions on the peer. Rules to which earlier ones of their tier leave no port are left out,
    /// because they never decide. Rules with named ports stay, because their ports depend on the peer.
    fn winners(&self, any_pod: bool) -> Box<[u32]> {
        let mut open: HashMap<Tier, Keys> = HashMap::default();
        let mut winners = Vec::new();
        for (ordinal, rule) in (0..).zip(&self.layout.rules) {
            if !rule.any[usize::from(any_pod)] {
                continue;
            }
            let mut wins = rule.named;
            let open = open.entry(rule.tier).or_insert_with(Keys::all);
            for range in self.layout.keys(rule) {
                open.take(*range, |_| wins = true);
            }
            if wins {
                winners.push(ordinal);
            }
        }
        winners.into()
    }

    /// The keys that a rule matches at a destination with these declared ports.
    fn ranges(&self, rule: &Flat, declared: &[NamedPort]) -> Cow<'_, [(u32, u32)]> {
        let ranges = self.layout.keys(rule);
        if !rule.named || declared.is_empty() {
            return Cow::Borrowed(ranges);
        }
        let rules = self.policies[rule.policy as usize].rules(self.direction).unwrap_or_default();
        let names = rules[rule.position as usize].ports.names();
        Cow::Owned(ranges.iter().copied().chain(resolved(names, declared)).collect())
    }

    /// Computes the port table for a peer. For conflicting owners it allows what it allows to each of them.
    pub(super) fn port_table(&self, peer: &PeerSetContent, peer_selectors: &PeerSelectors) -> PortTable {
        if peer.conflicting.is_empty() {
            return self.port_table_for(peer.any_pod, &peer.peer_selectors, peer_selectors);
        }
        let owner = |owner: &OwnerContent| self.port_table_for(owner.any_pod, &owner.peer_selectors, peer_selectors);
        PortTable::meet(&peer.conflicting.iter().map(owner).collect::<Vec<_>>())
    }

    fn port_table_for(&self, any_pod: bool, satisfied: &[u32], peer_selectors: &PeerSelectors) -> PortTable {
        let mut matching: Vec<(u32, bool)> = self.any[usize::from(any_pod)].iter().map(|rule| (*rule, false)).collect();
        for peer_selector in satisfied {
            matching.extend(self.layout.uses(*peer_selector).iter().map(|used| (used.rule, used.by_address)));
        }
        matching.sort_unstable();
        matching.dedup_by_key(|(rule, _)| *rule);
        let declared: Vec<_> = if self.wanted.is_empty() {
            Vec::new()
        } else {
            let ports = satisfied.iter().filter_map(|peer_selector| match &peer_selectors[*peer_selector].key {
                PeerSelector::Port(port) => Some(*port),
                PeerSelector::Pods(_) | PeerSelector::Block(_) | PeerSelector::Nodes(_) | PeerSelector::Domain(_) => {
                    None
                }
            });
            ports.collect()
        };
        let steps = matching.iter().map(|(ordinal, by_address)| {
            let rule = &self.layout.rules[*ordinal as usize];
            let ranges = self.ranges(rule, if *by_address { &[] } else { &declared });
            Step { tier: rule.tier, action: rule.action, rule_id: rule.rule_id, ranges }
        });
        flatten(steps, self.isolated.map(|isolation| isolation.rule_id))
    }
}

/// The port names of egress rules, sorted.
fn wanted(direction: Direction, policies: &[Arc<Policy>], base: Option<(&Ruleset, &Change)>) -> Box<[Wanted]> {
    if direction == Direction::Ingress {
        return Box::default();
    }
    let names = |policy: &Arc<Policy>| {
        let rules = policy.rules(direction).unwrap_or_default();
        rules.iter().flat_map(|rule| rule.ports.names()).copied().collect::<Vec<_>>()
    };
    if let Some((base, change)) = base
        && change.policies().all(|policy| names(policy).is_empty())
    {
        return base.wanted.clone();
    }
    let mut wanted: Vec<_> = policies.iter().flat_map(names).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.into()
}
