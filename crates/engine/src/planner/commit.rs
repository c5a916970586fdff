//! Commit: turns marks into deltas.

use foldhash::HashSet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::{Name, PodKey};

use super::Planner;
use super::accounting::{Fingerprint, StoredTable};
use super::overflow::covers;
use super::peer_selectors::PeerSelector;
use super::peer_sets::NO_ROOM;
use super::retained::DIRECTIONS;
use super::ruleset_diff::RulesetDiff;
use super::subjects::Invalidation;
use crate::{Delta, Endpoint, PeerSetId, PolicyKey, PortTable, RuleId, RulesetId};

impl Planner {
    /// Computes the changes of the events since the last commit: up to five deltas, to be carried out in order.
    ///
    /// After each write of a delta every endpoint gives the verdicts of the plan before or of the plan after. Rulesets
    /// that lose their room or get it back may be denied in between.
    pub fn commit(&mut self) -> Vec<Delta> {
        let (mut first, mut second) = (Delta::default(), Delta::default());
        self.refresh_namespaces();
        self.refresh_owners();
        let mut moved = std::mem::take(&mut self.dirty.endpoints);
        let mut diff = self.refresh_subjects(&mut first, &mut moved);
        self.recompute(&mut first, &mut diff);
        self.refresh_closed_cidrs(&mut first);
        self.remove_rulesets(diff, &mut first);
        self.recompute(&mut second, &mut RulesetDiff::default());
        let before = self.evict_over_limit(&mut first, &mut second);
        self.limit_endpoints(&mut moved);
        self.refresh_endpoints(&moved, &mut first);
        let after = self.readmit();
        let mut last = Delta::default();
        self.release_retained(&mut last);
        let mut deltas = [before, first, second, after, last];
        self.deny_without_room(&mut deltas);
        self.gc_if_due();
        deltas.into_iter().filter(|delta| !delta.is_empty()).map(Delta::sorted).collect()
    }

    /// Finds the peer selectors that select pods in namespaces whose labels changed.
    fn refresh_namespaces(&mut self) {
        for sym in std::mem::take(&mut self.dirty.namespaces) {
            let Some(namespace) = self.namespaces.get_mut(&sym) else { continue };
            let admits = |peer_selector: &super::peer_selectors::CachedSelector| match &peer_selector.key {
                PeerSelector::Pods(selection) => {
                    !peer_selector.rulesets.is_empty() && selection.admits(sym, namespace.labels.as_deref())
                }
                PeerSelector::Block(_) | PeerSelector::Nodes(_) | PeerSelector::Domain(_) | PeerSelector::Port(_) => {
                    false
                }
            };
            namespace.candidates = self
                .peer_selectors
                .iter()
                .filter(|(_, peer_selector)| admits(peer_selector))
                .map(|(number, _)| number)
                .collect();
            self.dirty.identities.extend(&namespace.identities);
            // The rules about a pod of an unknown namespace are unknown, so addresses it shares with other pods are
            // closed.
            self.dirty.addresses.extend(self.pods.conflicting_in(sym));
            let subjects = namespace.identities.iter().filter(|identity| self.locals.contains(identity));
            self.dirty.subjects.extend(subjects.map(|identity| (*identity, Invalidation::Policies)));
        }
    }

    /// Determines the owners of addresses again that changed pod CIDRs may affect.
    fn refresh_owners(&mut self) {
        let (nodes, ranges) = (std::mem::take(&mut self.dirty.nodes), std::mem::take(&mut self.dirty.ranges));
        let addresses = self.pods.resolve_again(&nodes, &ranges, &self.strings);
        self.dirty.endpoints.extend(&addresses);
        self.dirty.addresses.extend(addresses);
    }

    /// Recomputes the closed CIDRs: pod CIDRs of the nodes in scope, and closed addresses.
    fn refresh_closed_cidrs(&mut self, delta: &mut Delta) {
        if !std::mem::take(&mut self.dirty.closed_cidrs) {
            return;
        }
        let ranges = || self.nodes.values().flatten();
        let outside = |address: &IpAddr| !ranges().any(|range| range.contains(address));
        let closed_addresses: BTreeSet<IpAddr> = self.closed_addresses.iter().copied().filter(outside).collect();
        let mut closed_cidrs: Vec<IpNet> =
            ranges().map(IpNet::trunc).chain(closed_addresses.iter().copied().map(IpNet::from)).collect();
        self.closed_addresses_widened = closed_cidrs.len() > self.limits.closed_cidrs;
        if self.closed_addresses_widened {
            // All of these have to be closed, so wider ranges are.
            let capacity = self.limits.closed_cidrs.saturating_sub(ranges().count());
            closed_cidrs = ranges().map(IpNet::trunc).chain(covers(&closed_addresses, |_| None, capacity)).collect();
        }
        closed_cidrs.sort_unstable();
        closed_cidrs.dedup();
        if closed_cidrs != self.published.closed_cidrs {
            self.published.closed_cidrs.clone_from(&closed_cidrs);
            delta.closed_cidrs = Some(closed_cidrs);
        }
    }

    /// Sets the rulesets of addresses.
    pub(super) fn refresh_endpoints(&mut self, moved: &HashSet<IpAddr>, delta: &mut Delta) {
        for address in moved {
            let endpoint = self.endpoint(*address);
            let published = &mut self.published.endpoints;
            match endpoint {
                Some(endpoint) if published.get(address) != Some(&endpoint) => {
                    published.insert(*address, endpoint.clone());
                    delta.put_endpoints.push((*address, endpoint));
                }
                Some(_) => {}
                None => {
                    if published.remove(address).is_some() {
                        delta.delete_endpoints.push(*address);
                    }
                }
            }
        }
    }

    fn endpoint(&self, address: IpAddr) -> Option<Endpoint> {
        let owners = self.pods.owners(address);
        let pod = owners.first().map(|index| &self.pods[*index]).filter(|pod| pod.local);
        let pod = pod.filter(|_| !self.excess_endpoints.contains(&address))?;
        let rules = self.pods.identities[pod.identity].rules.as_ref();
        // The rulesets of an address with conflicting owners are unknown.
        let [ingress, egress] = match rules {
            _ if !self.pods.are_alike(&owners) => [RulesetId::COLLISION; 2],
            Some(rules) => std::array::from_fn(|way| match self.in_force(rules.applied[way]) {
                RulesetId::NO_ROOM => self.retained_at(address, pod, DIRECTIONS[way]).unwrap_or(RulesetId::NO_ROOM),
                id => id,
            }),
            None => [RulesetId::NONE; 2],
        };
        let name = |sym| Name::clone(self.strings.name(sym));
        Some(Endpoint {
            pod: PodKey { namespace: name(pod.namespace), name: Name::clone(&pod.name) },
            uid: Name::clone(&pod.uid),
            node: pod.node.map(name),
            ingress,
            egress,
        })
    }

    /// Moves marked peers to their peer sets, and adds and removes the policy entries that this takes.
    pub(super) fn recompute(&mut self, delta: &mut Delta, diff: &mut RulesetDiff) {
        let (born, dead) = self.move_ipcache(delta, !diff.is_empty());
        for peer_set in dead {
            let content = Arc::clone(&self.peer_sets[peer_set].content);
            for peer_selector in &content.peer_selectors {
                self.peer_selectors[*peer_selector].peer_sets.remove(&peer_set);
            }
            for number in self.concerned(peer_set, &content.peer_selectors) {
                let ruleset = &mut self.rulesets.slab[number];
                let Some(stored) = ruleset.entries.remove(&peer_set) else { continue };
                self.accounting.remove(&stored);
                if ruleset.published {
                    let peer_set = self.peer_sets[peer_set].id;
                    delta.delete_policy.push(PolicyKey { ruleset: ruleset.id, peer_set });
                }
            }
        }
        let new: HashSet<u32> = diff.fresh.iter().map(|(number, _)| *number).collect();
        for peer_set in born {
            let content = Arc::clone(&self.peer_sets[peer_set].content);
            for peer_selector in &content.peer_selectors {
                self.peer_selectors[*peer_selector].peer_sets.insert(peer_set);
            }
            for number in self.concerned(peer_set, &content.peer_selectors) {
                if !new.contains(&number) {
                    self.put_entry(number, peer_set, delta);
                }
            }
        }
        self.fill_new_rulesets(diff, delta);
    }

    /// The rulesets that may decide about this peer set in a way of its own.
    fn concerned(&self, peer_set: u32, peer_selectors: &[u32]) -> Vec<u32> {
        if peer_set == NO_ROOM {
            return self.rulesets.slab.iter().map(|(number, _)| number).collect();
        }
        self.peer_selectors.rulesets(peer_selectors)
    }

    /// Computes the port table of a ruleset for a peer set.
    pub(super) fn port_table(&self, number: u32, peer_set: u32) -> PortTable {
        if peer_set == NO_ROOM {
            return PortTable::constant(false, RuleId::NO_ROOM);
        }
        self.rulesets.slab[number].port_table(&self.peer_sets[peer_set].content, &self.peer_selectors)
    }

    /// Stores the port table of a ruleset for a peer set, unless it equals that of the fallback.
    pub(super) fn put_entry(&mut self, number: u32, peer_set: u32, delta: &mut Delta) {
        let (ruleset, known) = (&self.rulesets.slab[number], &self.peer_sets[peer_set]);
        if known.id == PeerSetId::COLLISION {
            return;
        }
        let table = self.port_table(number, peer_set);
        let fingerprint = Fingerprint::of(&table);
        if peer_set != NO_ROOM && fingerprint == ruleset.fallback[usize::from(known.content.any_pod)].fingerprint() {
            return;
        }
        let key = PolicyKey { ruleset: ruleset.id, peer_set: known.id };
        let stored = if ruleset.refused.is_some() {
            StoredTable::Fingerprint(fingerprint)
        } else {
            StoredTable::Whole(self.shared(table))
        };
        self.accounting.add(&stored);
        let ruleset = &mut self.rulesets.slab[number];
        if let (true, StoredTable::Whole(table)) = (ruleset.published, &stored) {
            delta.put_policy.push((key, Arc::clone(table)));
        }
        ruleset.entries.insert(peer_set, stored);
        self.bound_memory(delta);
    }

    /// Returns the shared copy of a port table.
    pub(super) fn shared(&mut self, table: PortTable) -> Arc<PortTable> {
        if let Some(shared) = self.tables.get(&table) {
            return Arc::clone(shared);
        }
        let table = Arc::new(table);
        self.tables.insert(Arc::clone(&table));
        table
    }
}
