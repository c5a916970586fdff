//! Admission: the choice of rulesets in the plan if not all port tables fit.
//!
//! Rulesets that are not admitted are kept up to date like all others, but only the sizes of their port tables are
//! stored. So the choice is a function of the world alone, whatever was admitted before, and peer sets are the same as
//! without limits. Their endpoints have [`RulesetId::NO_ROOM`] instead.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashSet;
use ringfence_model::{Direction, Name, PodKey, Reason};

use super::Planner;
use super::accounting::{Fingerprint, StoredTable};
use super::fair_share::{Demand, left_out, over_capacity, refused};
use super::peer_sets::{NO_ROOM, PeerSetContent};
use super::pods::Applied;
use super::ruleset_spec::RulesetSpec;
use super::rulesets::{Payer, Ruleset, payer};
use crate::{Delta, PeerSetId, PolicyKey, PortTable, Refusal, Resource, RuleId, RulesetId};

type Demands = Vec<Demand<(RulesetId, u32), Payer>>;

/// Space for the entries of [`RulesetId::NO_ROOM`].
pub(super) const RESERVED_PORT_RANGES: usize = 1;
pub(super) const RESERVED_POLICY_ENTRIES: usize = 3;

/// The demand of a ruleset for a resource.
fn demand(resource: Resource, number: u32, ruleset: &Ruleset) -> Demand<(RulesetId, u32), Payer> {
    let parts = if resource == Resource::Policy {
        vec![(ruleset.id.0, ruleset.stored_tables().count())]
    } else {
        let mut fingerprints: Vec<_> = ruleset.stored_tables().map(StoredTable::fingerprint).collect();
        fingerprints.sort_unstable();
        fingerprints.dedup();
        fingerprints.into_iter().map(|Fingerprint { table, ranges }| (table, ranges as usize)).collect()
    };
    Demand { key: (ruleset.id, number), payer: payer(&ruleset.policies), parts }
}

/// The entries of [`RulesetId::NO_ROOM`].
pub(super) fn no_room() -> [(PolicyKey, Arc<PortTable>); 3] {
    let table = Arc::new(PortTable::constant(false, RuleId::NO_ROOM));
    let entry = |peer_set| (PolicyKey { ruleset: RulesetId::NO_ROOM, peer_set }, Arc::clone(&table));
    [PeerSetId::UNKNOWN, PeerSetId::ANY_POD, PeerSetId::NO_ROOM].map(entry)
}

impl Planner {
    /// Pods whose policies of a direction do not fit.
    pub fn refusals(&self) -> Vec<Refusal> {
        if self.over_quota.is_empty() && !self.published.no_room && self.retained.is_empty() {
            return Vec::new();
        }
        let mut refusals: std::collections::BTreeMap<RulesetId, Refusal> = std::collections::BTreeMap::new();
        for identity in &self.locals {
            let known = &self.pods.identities[*identity];
            let Some(rules) = &known.rules else { continue };
            for (direction, applied) in [Direction::Ingress, Direction::Egress].into_iter().zip(rules.applied) {
                let (Some(id), Some(resource)) = (applied.wanted(), self.lacking(applied)) else { continue };
                let refusal = refusals.entry(id).or_insert_with(|| {
                    let spec = self.spec(*identity, direction);
                    let policies = spec.iter().flat_map(RulesetSpec::governing);
                    let policies = policies.map(|(policy, _)| policy.id.clone()).collect();
                    Refusal { pods: Vec::new(), retaining: Vec::new(), direction, policies, resource }
                });
                for pod in known.pods.iter().map(|number| &self.pods[*number]).filter(|pod| pod.local) {
                    let keeps =
                        pod.addresses.iter().any(|address| self.retained_at(*address, pod, direction).is_some());
                    let namespace = Name::clone(self.strings.name(pod.namespace));
                    let key = PodKey { namespace, name: Name::clone(&pod.name) };
                    if keeps { refusal.retaining.push(key) } else { refusal.pods.push(key) }
                }
            }
        }
        let mut refusals: Vec<_> = refusals.into_values().collect();
        for refusal in &mut refusals {
            refusal.pods.sort_unstable();
            refusal.retaining.sort_unstable();
        }
        refusals.sort_unstable();
        refusals
    }

    /// Local addresses beyond the limit of endpoints.
    pub fn excess_endpoints(&self) -> impl Iterator<Item = IpAddr> {
        self.excess_endpoints.iter().copied()
    }

    /// The resource that a ruleset lacks, if it is not in force.
    pub(super) fn lacking(&self, applied: Applied) -> Option<Resource> {
        match applied {
            Applied::Nothing | Applied::Collision => None,
            Applied::NoRoom(id) => self.over_quota.get(&id).copied(),
            Applied::Ruleset(number, _) => self.rulesets.slab[number].refused,
        }
    }

    /// The ruleset that is in force for an endpoint.
    pub(super) fn in_force(&self, applied: Applied) -> RulesetId {
        match applied {
            Applied::Nothing => RulesetId::NONE,
            Applied::Collision => RulesetId::COLLISION,
            _ if self.lacking(applied).is_some() => RulesetId::NO_ROOM,
            Applied::NoRoom(_) => RulesetId::NO_ROOM,
            Applied::Ruleset(_, id) => id,
        }
    }

    /// Bounds the memory of port tables while they are computed: there may be twice as many port ranges as the plan can
    /// hold.
    pub(super) fn bound_memory(&mut self, delta: &mut Delta) {
        if self.accounting.whole > self.limits.port_ranges.saturating_mul(2) {
            self.evict();
            self.omit_refused(delta);
            self.tables.retain(|table| Arc::strong_count(table) > 1);
        }
    }

    /// Evicts the port tables of rulesets without room. Returns all rulesets without room, including those evicted
    /// before.
    fn evict(&mut self) -> BTreeSet<RulesetId> {
        let mut gone = BTreeSet::new();
        for resource in [Resource::PortRanges, Resource::Policy] {
            for (id, number) in self.over_share(resource) {
                gone.insert(id);
                let ruleset = &mut self.rulesets.slab[number];
                if ruleset.refused.is_none() {
                    ruleset.evict_tables(resource, &mut self.accounting);
                    if ruleset.published {
                        self.evicted.push(id);
                    }
                }
            }
        }
        gone
    }

    /// The rulesets beyond their payers' shares.
    fn over_share(&self, resource: Resource) -> BTreeSet<(RulesetId, u32)> {
        let (used, limit, left) = match resource {
            Resource::PortRanges => (self.accounting.ranges, self.limits.port_ranges, self.capacity(resource)),
            Resource::Policy => (self.accounting.entries, self.limits.policy, self.capacity(resource)),
            Resource::Ipcache
            | Resource::IpcacheCidrs
            | Resource::RuleCounters
            | Resource::Layout
            | Resource::Memory => return BTreeSet::new(),
        };
        let enough = if self.over_quota.is_empty() { limit } else { left };
        if used <= enough {
            return BTreeSet::new();
        }
        let only_retained = self.is_only_retained();
        let own = self.rulesets.slab.iter().filter(|(number, ruleset)| !only_retained(*number, ruleset));
        let demands: Demands = own.map(|(number, ruleset)| demand(resource, number, ruleset)).collect();
        if self.retained.is_empty() || !refused(enough, &demands).is_empty() {
            refused(left, &demands)
        } else {
            BTreeSet::new()
        }
    }

    /// Evicts the port tables of retained rulesets that do not fit beside all others. Returns these rulesets.
    fn evict_retained(&mut self, gone: &mut BTreeSet<RulesetId>) {
        if self.retained.is_empty() {
            return;
        }
        let only_retained = self.is_only_retained();
        for resource in [Resource::PortRanges, Resource::Policy] {
            let in_force = self.rulesets.slab.iter().filter(|(_, ruleset)| !gone.contains(&ruleset.id));
            let (kept, own): (Vec<_>, Vec<_>) = in_force.partition(|(number, ruleset)| only_retained(*number, ruleset));
            let demands = |list: Vec<(u32, &Ruleset)>| -> Demands {
                list.into_iter().map(|(number, ruleset)| demand(resource, number, ruleset)).collect()
            };
            for (id, number) in over_capacity(self.capacity(resource), &demands(own), &demands(kept)) {
                gone.insert(id);
                self.rulesets.slab[number].evict_tables(resource, &mut self.accounting);
                self.evicted.push(id);
            }
        }
    }

    /// Removes the entries of refused rulesets from a delta.
    fn omit_refused(&self, delta: &mut Delta) {
        let refused = |id: RulesetId| {
            let number = self.rulesets.by_id.get(&id).copied();
            let ruleset = number.and_then(|number| self.rulesets.slab.get(number));
            ruleset.is_some_and(|ruleset| ruleset.id == id && ruleset.refused.is_some())
        };
        delta.put_policy.retain(|(key, _)| !refused(key.ruleset));
    }

    /// Chooses the rulesets without room after all demands are known. New entries of these are removed from the deltas.
    /// Entries in the plan are removed before: first their endpoints are denied, then the entries go.
    pub(super) fn evict_over_limit(&mut self, first: &mut Delta, second: &mut Delta) -> Delta {
        let mut before = Delta::default();
        if !self.accounting.take_changed() {
            return before;
        }
        let mut gone = self.evict();
        self.evict_retained(&mut gone);
        let readmitted = |ruleset: &Ruleset| ruleset.refused.is_some() && !gone.contains(&ruleset.id);
        self.readmitted = self.rulesets.slab.iter().filter(|(_, r)| readmitted(r)).map(|(number, _)| number).collect();
        // Eviction itself changes the sums.
        self.accounting.take_changed();
        let evicted: BTreeSet<RulesetId> = std::mem::take(&mut self.evicted).into_iter().collect();
        if gone.is_empty() && evicted.is_empty() {
            return before;
        }
        let put = first.put_policy.iter().chain(&second.put_policy);
        let new: HashSet<PolicyKey> = put.filter(|_| !evicted.is_empty()).map(|(key, _)| *key).collect();
        for (address, endpoint) in &mut self.published.endpoints {
            let denied = |id| if evicted.contains(&id) { RulesetId::NO_ROOM } else { id };
            let [ingress, egress] = [endpoint.ingress, endpoint.egress].map(denied);
            if [ingress, egress] != [endpoint.ingress, endpoint.egress] {
                (endpoint.ingress, endpoint.egress) = (ingress, egress);
                before.put_endpoints.push((*address, endpoint.clone()));
            }
        }
        for id in evicted {
            let number = self.rulesets.by_id.get(&id).copied();
            let number =
                number.filter(|number| self.rulesets.slab.get(*number).is_some_and(|ruleset| ruleset.id == id));
            if let Some(number) = number {
                self.rulesets.slab[number].published = false;
                before
                    .delete_policy
                    .extend(self.entry_keys(&self.rulesets.slab[number]).filter(|key| !new.contains(key)));
            }
        }
        self.omit_refused(first);
        self.omit_refused(second);
        self.tables.retain(|table| Arc::strong_count(table) > 1);
        before
    }

    /// Adds the rulesets to the plan that have room again.
    pub(super) fn readmit(&mut self) -> Delta {
        let mut delta = Delta::default();
        let back = std::mem::take(&mut self.readmitted);
        if back.is_empty() {
            return delta;
        }
        for number in &back {
            self.restore(*number);
            self.publish(*number, &mut delta);
        }
        let mut moved = HashSet::default();
        for identity in &self.locals {
            let Some(rules) = &self.pods.identities[*identity].rules else { continue };
            let is_back = |applied: &Applied| matches!(applied, Applied::Ruleset(number, _) if back.contains(number));
            if rules.applied.iter().any(is_back) {
                moved.extend(self.pods.addresses(*identity));
            }
        }
        self.refresh_endpoints(&moved, &mut delta);
        // The readmitted tables take up the same space as before.
        self.accounting.take_changed();
        delta
    }

    /// Computes the port tables of a ruleset again of which only the sizes were stored.
    fn restore(&mut self, number: u32) {
        let peer_sets: Vec<u32> = self.rulesets.slab[number].entries.keys().copied().collect();
        let mut entries = Vec::with_capacity(peer_sets.len());
        for peer_set in peer_sets {
            let table = self.port_table(number, peer_set);
            entries.push((peer_set, StoredTable::Whole(self.shared(table))));
        }
        let fallback = [false, true].map(|any_pod| {
            let peer = PeerSetContent::new(any_pod, Vec::new());
            let table = self.rulesets.slab[number].port_table(&peer, &self.peer_selectors);
            StoredTable::Whole(self.shared(table))
        });
        let ruleset = &mut self.rulesets.slab[number];
        for stored in ruleset.stored_tables() {
            self.accounting.remove(stored);
        }
        ruleset.fallback = fallback;
        ruleset.entries.extend(entries);
        ruleset.refused = None;
        for stored in ruleset.stored_tables() {
            self.accounting.add(stored);
        }
    }

    /// Adds the entries of [`RulesetId::NO_ROOM`] and their rule id before the first endpoint or peer needs them, and
    /// removes them after the last.
    pub(super) fn deny_without_room(&mut self, deltas: &mut [Delta; 5]) {
        let without = |id: RulesetId| id == RulesetId::NO_ROOM;
        let denies = |endpoint: &crate::Endpoint| without(endpoint.ingress) || without(endpoint.egress);
        let needs = |delta: &&mut Delta| {
            delta.put_endpoints.iter().any(|(_, endpoint)| denies(endpoint))
                || delta.put_ipcache.iter().any(|(_, peer)| peer.peer_set == PeerSetId::NO_ROOM)
                || delta.put_policy.iter().any(|(key, _)| key.peer_set == PeerSetId::NO_ROOM)
        };
        let first = deltas.iter_mut().find(needs);
        match first {
            Some(delta) if !self.published.no_room => {
                self.published.no_room = true;
                delta.put_rules.push((RuleId::NO_ROOM, Reason::NoRoom));
                delta.put_policy.extend(no_room());
            }
            _ => {}
        }
        let needed = self.peer_sets[NO_ROOM].peers > 0 || self.published.endpoints.values().any(denies);
        if self.published.no_room && !needed {
            self.published.no_room = false;
            let [.., last] = deltas;
            last.delete_rules.push(RuleId::NO_ROOM);
            last.delete_policy.extend(no_room().map(|(key, _)| key));
        }
    }

    /// Finds the local addresses beyond the limit of endpoints. Adds those that changed to `moved`.
    pub(super) fn limit_endpoints(&mut self, moved: &mut HashSet<IpAddr>) {
        if self.excess_endpoints.is_empty() && self.published.endpoints.len() + moved.len() <= self.limits.endpoints {
            return;
        }
        let owned = self.pods.owners_of_all().filter(|(_, pod)| pod.local);
        let demands = owned.map(|(address, pod)| (pod.namespace, (pod.created, address)));
        let excess_endpoints =
            left_out(self.limits.endpoints, demands).into_iter().map(|(_, address)| address).collect();
        let before = std::mem::replace(&mut self.excess_endpoints, excess_endpoints);
        moved.extend(before.symmetric_difference(&self.excess_endpoints).copied());
    }
}
