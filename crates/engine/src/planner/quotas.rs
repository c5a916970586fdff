//! Quotas: the choice of rulesets that are laid out at all.
//!
//! The size of rules follows from the policies alone, before anything is made of them: the memory of their layout,
//! their rule ids, and the prefixes of their `ipBlock`s. If these do not fit, quotas decide first, so that a refused
//! ruleset costs nothing. The size of port tables is known only after they are made ([`super::admission`]).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::quality::RandomState;
use ipnet::IpNet;
use ringfence_model::Direction;

use super::Planner;
use super::admission::{RESERVED_POLICY_ENTRIES, RESERVED_PORT_RANGES};
use super::fair_share::{Demand, over_capacity, refused};
use super::pods::Applied;
use super::policy::{Policy, Size};
use super::prefixes::{is_single, needed};
use super::ruleset_spec::RulesetSpec;
use super::rulesets::{Payer, payer};
use super::subjects::{Subject, Target};
use crate::{Limits, Resource, RulesetId};

/// Resources that rules take up whatever peers there are.
const RESOURCES: [Resource; 4] = [Resource::Layout, Resource::RuleCounters, Resource::IpcacheCidrs, Resource::Ipcache];

/// A ruleset with fewer port ranges is laid out however little room there is for its port tables.
const FEW_RANGES: usize = 1024;

/// The capacity of each resource.
pub(super) type Capacities = [usize; RESOURCES.len()];

type Demands = Vec<Demand<RulesetId, Payer>>;

impl Planner {
    /// Replaces the targets of subjects whose rulesets there is no room to lay out. Adds subjects that lose or get
    /// their rulesets because of other demands.
    pub(super) fn apply_quotas(&mut self, subjects: &mut Vec<Subject>) {
        let enough = || self.limits == Limits::NONE || self.is_enough(subjects);
        if self.over_quota.is_empty() && self.policies.withheld == 0 && enough() {
            self.quota_inputs = None;
            return;
        }
        // The result depends only on the rulesets of each subject and the capacities.
        let capacities = RESOURCES.map(|kind| self.capacity(kind));
        let same = |subject: &Subject| subject.targets == subject.before.map(Target::Known);
        if self.quota_inputs == Some(capacities) && subjects.iter().all(same) {
            return;
        }
        self.quota_inputs = Some(capacities);
        let over_quota = self.over_quota(subjects);
        if over_quota != self.over_quota {
            self.over_quota = over_quota;
            self.accounting.touch();
        }
        let marked: BTreeSet<u32> = subjects.iter().map(|subject| subject.identity).collect();
        for identity in self.locals.iter().filter(|identity| !marked.contains(identity)) {
            let Some(rules) = &self.pods.identities[*identity].rules else { continue };
            let before = rules.applied;
            if before.iter().any(|applied| self.is_outdated(*applied)) {
                let targets = before.map(Target::Known);
                subjects.push(Subject { identity: *identity, before, base: before, targets });
            }
        }
        for subject in subjects.iter_mut() {
            for (direction, target) in [Direction::Ingress, Direction::Egress].into_iter().zip(&mut subject.targets) {
                match *target {
                    Target::Known(Applied::NoRoom(id)) if !self.over_quota.contains_key(&id) => {
                        *target = self.find(subject.identity, direction);
                    }
                    Target::Known(Applied::Ruleset(_, id)) | Target::Missing(id)
                        if self.over_quota.contains_key(&id) =>
                    {
                        *target = Target::Known(Applied::NoRoom(id));
                    }
                    Target::Known(_) | Target::Missing(_) => {}
                }
            }
        }
    }

    fn is_outdated(&self, applied: Applied) -> bool {
        match applied {
            Applied::Nothing | Applied::Collision => false,
            Applied::NoRoom(id) => !self.over_quota.contains_key(&id),
            Applied::Ruleset(_, id) => self.over_quota.contains_key(&id),
        }
    }

    /// True if there is room for all rulesets, old and new, even if they share nothing.
    fn is_enough(&self, subjects: &[Subject]) -> bool {
        let (mut seen, mut more) = (BTreeSet::new(), Size::default());
        for subject in subjects {
            for (direction, target) in [Direction::Ingress, Direction::Egress].into_iter().zip(subject.targets) {
                let Target::Missing(id) = target else { continue };
                let Some(spec) = self.spec(subject.identity, direction).filter(|_| seen.insert(id)) else {
                    continue;
                };
                let size = size(&spec);
                if self.is_oversized(size) {
                    return false;
                }
                more += size;
                // One more for the rule id of isolation.
                more.rules += 1;
            }
        }
        let laid: usize = self.rulesets.slab.iter().map(|(_, ruleset)| ruleset.bytes).sum();
        let (single, wider) = self.prefixes.count();
        laid + more.layout() <= self.limits.layout
            && self.rulesets.rule_ids.len() + more.rules <= self.capacity(Resource::RuleCounters)
            && wider + more.nets <= self.capacity(Resource::IpcacheCidrs)
            // To count the others takes a while, and a quarter is always left.
            && (single + more.nets <= self.limits.ipcache / 4 || single + more.nets <= self.capacity(Resource::Ipcache))
    }

    /// The resource of which a ruleset has too large a demand whatever the others demand.
    fn lacking_alone(&self, spec: &RulesetSpec<'_>) -> Option<Resource> {
        if spec.governing().any(|(policy, _)| policy.rules_withheld) {
            return Some(Resource::Memory);
        }
        let size = size(spec);
        let many_ranges = size.ranges > self.limits.port_ranges.max(FEW_RANGES);
        self.is_oversized(size).then_some(if many_ranges { Resource::PortRanges } else { Resource::IpcacheCidrs })
    }

    /// True if rules have so many port ranges or `ipBlock`s that one ruleset might not fit. To lay it out would take
    /// too long.
    fn is_oversized(&self, size: Size) -> bool {
        size.ranges > self.limits.port_ranges.max(FEW_RANGES)
            || size.nets > self.limits.ipcache_cidrs.saturating_add(self.limits.ipcache).max(FEW_RANGES)
    }

    /// The rulesets without room.
    fn over_quota(&self, subjects: &[Subject]) -> BTreeMap<RulesetId, Resource> {
        let mut over_quota = BTreeMap::new();
        let mut wanted = self.wanted(subjects);
        wanted.retain(|id, (identity, direction)| {
            let Some(spec) = self.spec(*identity, *direction) else { return false };
            let lacking = self.lacking_alone(&spec);
            over_quota.extend(lacking.map(|resource| (*id, resource)));
            lacking.is_none()
        });
        let hasher = RandomState::default();
        for kind in RESOURCES {
            let own = |(id, (identity, direction)): (&RulesetId, &(u32, Direction))| {
                let spec = self.spec(*identity, *direction)?;
                Some(demand(kind, *id, *direction, &spec.governing_policies(), &hasher))
            };
            let demands: Demands = wanted.iter().filter_map(own).collect();
            for id in refused(self.capacity(kind), &demands) {
                over_quota.entry(id).or_insert(kind);
            }
        }
        over_quota
    }

    /// The retained rulesets that do not fit beside all others that are laid out.
    pub(super) fn retained_over_quota(&self, subjects: &[Subject]) -> BTreeSet<u32> {
        let mut wanted = self.wanted(subjects);
        wanted.retain(|id, _| !self.over_quota.contains_key(id));
        let hasher = RandomState::default();
        let numbers = self.retained.numbers();
        let mut out = BTreeSet::new();
        for kind in RESOURCES {
            let own = |(id, (identity, direction)): (&RulesetId, &(u32, Direction))| {
                let spec = self.spec(*identity, *direction)?;
                Some(demand(kind, *id, *direction, &spec.governing_policies(), &hasher))
            };
            let kept = numbers.iter().map(|number| (*number, &self.rulesets.slab[*number]));
            let kept = kept.filter(|(number, ruleset)| !wanted.contains_key(&ruleset.id) && !out.contains(number));
            let kept: Demands = kept
                .map(|(_, ruleset)| demand(kind, ruleset.id, ruleset.direction, &ruleset.policies, &hasher))
                .collect();
            let over_share =
                over_capacity(self.capacity(kind), &wanted.iter().filter_map(own).collect::<Demands>(), &kept);
            out.extend(over_share.iter().filter_map(|id| self.rulesets.by_id.get(id)));
        }
        out
    }

    /// All target rulesets, each with one of its subjects.
    fn wanted(&self, subjects: &[Subject]) -> BTreeMap<RulesetId, (u32, Direction)> {
        let targets: HashMap<u32, [Target; 2]> =
            subjects.iter().map(|subject| (subject.identity, subject.targets)).collect();
        let mut wanted = BTreeMap::new();
        for identity in &self.locals {
            let Some(rules) = &self.pods.identities[*identity].rules else { continue };
            let ids = targets
                .get(identity)
                .map_or_else(|| rules.applied.map(Applied::wanted), |targets| targets.map(Target::wanted));
            for (direction, id) in [Direction::Ingress, Direction::Egress].into_iter().zip(ids) {
                wanted.extend(id.map(|id| (id, (*identity, direction))));
            }
        }
        wanted
    }

    /// The amount of a resource that rules may take up.
    pub(super) fn capacity(&self, kind: Resource) -> usize {
        match kind {
            Resource::Layout => self.limits.layout,
            // The agent has decided which policies are too large for its memory.
            Resource::Memory => usize::MAX,
            // One is for the rule id of [`RulesetId::NO_ROOM`].
            Resource::RuleCounters => self.limits.rule_counters.saturating_sub(1),
            // Some are for ranges that are closed because of overflow.
            Resource::IpcacheCidrs if self.may_overflow() => {
                self.limits.ipcache_cidrs.saturating_sub(self.closed_range_limit())
            }
            Resource::IpcacheCidrs => self.limits.ipcache_cidrs,
            Resource::Policy => self.limits.policy.saturating_sub(RESERVED_POLICY_ENTRIES),
            Resource::PortRanges => self.limits.port_ranges.saturating_sub(RESERVED_PORT_RANGES),
            // Pods, nodes and domain names come first, but a quarter is always left.
            Resource::Ipcache => {
                let others = self.pods.owned_count() + self.hosts.addresses();
                self.limits.ipcache.saturating_sub(others).max(self.limits.ipcache / 4)
            }
        }
    }
}

fn size(spec: &RulesetSpec<'_>) -> Size {
    let mut size = Size::default();
    spec.governing().for_each(|(policy, _)| size += policy.size(spec.direction));
    size
}

/// The demand of a ruleset of these policies for a resource.
fn demand(
    kind: Resource,
    id: RulesetId,
    direction: Direction,
    policies: &[Arc<Policy>],
    hasher: &RandomState,
) -> Demand<RulesetId, Payer> {
    Demand { key: id, payer: payer(policies), parts: parts(kind, id, direction, policies, hasher) }
}

fn parts(
    kind: Resource,
    id: RulesetId,
    direction: Direction,
    policies: &[Arc<Policy>],
    hasher: &RandomState,
) -> Vec<(u64, usize)> {
    let nets = |single: bool| {
        let nets = policies.iter().flat_map(|policy| policy.blocks(direction)).flat_map(needed);
        nets.filter(|net: &IpNet| is_single(*net) == single).map(|net| (hasher.hash_one(net), 1)).collect()
    };
    match kind {
        Resource::Layout => {
            let mut size = Size::default();
            for policy in policies {
                size += policy.size(direction);
            }
            vec![(id.0, size.layout())]
        }
        Resource::RuleCounters => {
            let of_rules = policies
                .iter()
                .map(|policy| (hasher.hash_one((policy.digest, direction as u8)), policy.size(direction).rules));
            of_rules.chain([(id.0, 1)]).collect()
        }
        Resource::IpcacheCidrs => nets(false),
        Resource::Ipcache => nets(true),
        // The size of port tables is known after they are made only.
        Resource::Policy | Resource::PortRanges | Resource::Memory => Vec::new(),
    }
}
