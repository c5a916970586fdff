//! Commit: from what is marked to deltas.

use foldhash::HashSet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::{Name, PodKey};

use super::Planner;
use super::atoms::AtomKey;
use super::classes::NO_ROOM;
use super::crowd::covers;
use super::kept::DIRECTIONS;
use super::ledger::{Held, Print};
use super::subjects::Doubt;
use super::turnover::Turnover;
use crate::{Block, CauseId, ClassId, Delta, Endpoint, EntryKey, RulesetId};

impl Planner {
    /// Computes what the events since the last commit change: no delta or up to five, to be carried out in order.
    ///
    /// After each write of each of them every endpoint gives the verdicts of the plan before or of the plan after. But
    /// those of a ruleset for which there is no room any more, or again, may be denied in between.
    pub fn commit(&mut self) -> Vec<Delta> {
        let (mut first, mut second) = (Delta::default(), Delta::default());
        self.refresh_namespaces();
        self.refresh_claims();
        let mut moved = std::mem::take(&mut self.dirty.endpoints);
        let mut turnover = self.refresh_subjects(&mut first, &mut moved);
        self.settle(&mut first, &mut turnover);
        self.refresh_gates(&mut first);
        self.retire(turnover, &mut first);
        self.settle(&mut second, &mut Turnover::default());
        let before = self.make_room(&mut first, &mut second);
        self.seat(&mut moved);
        self.refresh_endpoints(&moved, &mut first);
        let after = self.readmit();
        let mut last = Delta::default();
        self.let_go(&mut last);
        let mut deltas = [before, first, second, after, last];
        self.deny_without_room(&mut deltas);
        self.sweep_if_due();
        deltas.into_iter().filter(|delta| !delta.is_empty()).map(Delta::sorted).collect()
    }

    /// Finds the atoms that select pods in namespaces whose labels changed.
    fn refresh_namespaces(&mut self) {
        for sym in std::mem::take(&mut self.dirty.namespaces) {
            let Some(namespace) = self.namespaces.get_mut(&sym) else { continue };
            let admits = |atom: &super::atoms::Atom| match &atom.key {
                AtomKey::Pods(selection) => {
                    !atom.rulesets.is_empty() && selection.admits(sym, namespace.labels.as_deref())
                }
                AtomKey::Block(_) | AtomKey::Nodes(_) | AtomKey::Domain(_) | AtomKey::Port(_) => false,
            };
            namespace.candidates =
                self.atoms.iter().filter(|(_, atom)| admits(atom)).map(|(number, _)| number).collect();
            self.dirty.identities.extend(&namespace.identities);
            // What a pod of an unknown namespace may is not known, so what it has in dispute is closed.
            self.dirty.addresses.extend(self.pods.disputed_in(sym));
            let subjects = namespace.identities.iter().filter(|identity| self.locals.contains(identity));
            self.dirty.subjects.extend(subjects.map(|identity| (*identity, Doubt::Policies)));
        }
    }

    /// Finds out anew who has the addresses about which the ranges of nodes say something else than before.
    fn refresh_claims(&mut self) {
        let (nodes, ranges) = (std::mem::take(&mut self.dirty.nodes), std::mem::take(&mut self.dirty.ranges));
        let addresses = self.pods.settle_again(&nodes, &ranges, &self.strings);
        self.dirty.endpoints.extend(&addresses);
        self.dirty.addresses.extend(addresses);
    }

    /// The ranges of the pods in scope, and what else is guarded.
    fn refresh_gates(&mut self, delta: &mut Delta) {
        if !std::mem::take(&mut self.dirty.gates) {
            return;
        }
        let ranges = || self.nodes.values().flatten();
        let outside = |address: &IpAddr| !ranges().any(|range| range.contains(address));
        let guards: BTreeSet<IpAddr> = self.guards.iter().copied().filter(outside).collect();
        let mut gates: Vec<IpNet> = ranges().map(IpNet::trunc).chain(guards.iter().copied().map(IpNet::from)).collect();
        self.widened = gates.len() > self.limits.gates;
        if self.widened {
            // None may be open: ranges around them are closed.
            let room = self.limits.gates.saturating_sub(ranges().count());
            gates = ranges().map(IpNet::trunc).chain(covers(&guards, |_| None, room)).collect();
        }
        gates.sort_unstable();
        gates.dedup();
        if gates != self.published.gates {
            self.published.gates.clone_from(&gates);
            delta.gates = Some(gates);
        }
    }

    /// Points addresses to their rulesets.
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
        let pod = pod.filter(|_| !self.unseated.contains(&address))?;
        let rules = self.pods.identities[pod.identity].rules.as_ref();
        // In dispute: which policies select it?
        let [ingress, egress] = match rules {
            _ if !self.pods.are_alike(&owners) => [RulesetId::CONFLICT; 2],
            Some(rules) => std::array::from_fn(|way| match self.in_force(rules.applied[way]) {
                RulesetId::NO_ROOM => self.kept_at(address, pod, DIRECTIONS[way]).unwrap_or(RulesetId::NO_ROOM),
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

    /// Moves marked peers to their classes and computes the entries that makes necessary or superfluous.
    pub(super) fn settle(&mut self, delta: &mut Delta, turnover: &mut Turnover) {
        let (born, dead) = self.move_peers(delta, !turnover.is_empty());
        for class in dead {
            let content = Arc::clone(&self.classes[class].content);
            for atom in &content.atoms {
                self.atoms[*atom].classes.remove(&class);
            }
            for number in self.concerned(class, &content.atoms) {
                let ruleset = &mut self.rulesets.slab[number];
                let Some(held) = ruleset.entries.remove(&class) else { continue };
                self.ledger.leave(&held);
                if ruleset.published {
                    let class = self.classes[class].id;
                    delta.delete_entries.push(EntryKey { ruleset: ruleset.id, class });
                }
            }
        }
        let new: HashSet<u32> = turnover.fresh.iter().map(|(number, _)| *number).collect();
        for class in born {
            let content = Arc::clone(&self.classes[class].content);
            for atom in &content.atoms {
                self.atoms[*atom].classes.insert(class);
            }
            for number in self.concerned(class, &content.atoms) {
                if !new.contains(&number) {
                    self.put_entry(number, class, delta);
                }
            }
        }
        self.fill(turnover, delta);
    }

    /// The rulesets that may decide about a class with these atoms as they do about no other.
    fn concerned(&self, class: u32, atoms: &[u32]) -> Vec<u32> {
        if class == NO_ROOM {
            return self.rulesets.slab.iter().map(|(number, _)| number).collect();
        }
        self.atoms.rulesets(atoms)
    }

    /// What a ruleset decides about a class.
    pub(super) fn decide(&self, number: u32, class: u32) -> Block {
        if class == NO_ROOM {
            return Block::constant(false, CauseId::NO_ROOM);
        }
        self.rulesets.slab[number].decide(&self.classes[class].content, &self.atoms)
    }

    /// Stores what a ruleset decides about a class, if that is not what it decides about the fallback.
    pub(super) fn put_entry(&mut self, number: u32, class: u32, delta: &mut Delta) {
        let (ruleset, known) = (&self.rulesets.slab[number], &self.classes[class]);
        if known.id == ClassId::CONFLICT {
            return;
        }
        let block = self.decide(number, class);
        let print = Print::of(&block);
        if class != NO_ROOM && print == ruleset.fallback[usize::from(known.content.universal)].print() {
            return;
        }
        let key = EntryKey { ruleset: ruleset.id, class: known.id };
        let held = if ruleset.refused.is_some() { Held::Print(print) } else { Held::Whole(self.shared(block)) };
        self.ledger.enter(&held);
        let ruleset = &mut self.rulesets.slab[number];
        if let (true, Held::Whole(block)) = (ruleset.published, &held) {
            delta.put_entries.push((key, Arc::clone(block)));
        }
        ruleset.entries.insert(class, held);
        self.relieve(delta);
    }

    /// The one copy of equal decisions.
    pub(super) fn shared(&mut self, block: Block) -> Arc<Block> {
        if let Some(shared) = self.blocks.get(&block) {
            return Arc::clone(shared);
        }
        let block = Arc::new(block);
        self.blocks.insert(Arc::clone(&block));
        block
    }
}
