//! Admission: which rulesets the plan holds, where their decisions do not all fit.
//!
//! Rulesets that are not admitted are kept up to date as all others are, but of their decisions only the sizes are
//! kept. So who has to go without is a function of the world alone, whatever was admitted before; and classes are what
//! they would be if there was room. Their endpoints have [`RulesetId::NO_ROOM`] instead.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashSet;
use ringfence_model::{Direction, Name, PodKey, Reason};

use super::Planner;
use super::classes::{NO_ROOM, Satisfied};
use super::ledger::{Held, Print};
use super::pods::Applied;
use super::recipe::Recipe;
use super::rulesets::{Payer, Ruleset, payer};
use super::share::{Want, beyond_all, left_out, refused};
use crate::{Block, CauseId, ClassId, Delta, EntryKey, Refusal, Room, RulesetId};

type Wants = Vec<Want<(RulesetId, u32), Payer>>;

/// What is for the decisions that there is no room.
pub(super) const SPARED_POINTS: usize = 1;
pub(super) const SPARED_ENTRIES: usize = 3;

/// What a ruleset takes up of something.
fn want(room: Room, number: u32, ruleset: &Ruleset) -> Want<(RulesetId, u32), Payer> {
    let parts = if room == Room::Entries {
        vec![(ruleset.id.0, ruleset.held().count())]
    } else {
        let mut prints: Vec<_> = ruleset.held().map(Held::print).collect();
        prints.sort_unstable();
        prints.dedup();
        prints.into_iter().map(|Print { block, points }| (block, points as usize)).collect()
    };
    Want { key: (ruleset.id, number), payer: payer(&ruleset.policies), parts }
}

/// The decisions of [`RulesetId::NO_ROOM`].
pub(super) fn no_room() -> [(EntryKey, Arc<Block>); 3] {
    let block = Arc::new(Block::constant(false, CauseId::NO_ROOM));
    let entry = |class| (EntryKey { ruleset: RulesetId::NO_ROOM, class }, Arc::clone(&block));
    [ClassId::UNKNOWN, ClassId::ANY_POD, ClassId::NO_ROOM].map(entry)
}

impl Planner {
    /// Pods whose policies of a direction do not fit.
    pub fn refusals(&self) -> Vec<Refusal> {
        if self.unlaid.is_empty() && !self.published.no_room && self.kept.is_empty() {
            return Vec::new();
        }
        let mut refusals: std::collections::BTreeMap<RulesetId, Refusal> = std::collections::BTreeMap::new();
        for identity in &self.locals {
            let known = &self.pods.identities[*identity];
            let Some(rules) = &known.rules else { continue };
            for (direction, applied) in [Direction::Ingress, Direction::Egress].into_iter().zip(rules.applied) {
                let (Some(id), Some(room)) = (applied.wanted(), self.lacking(applied)) else { continue };
                let refusal = refusals.entry(id).or_insert_with(|| {
                    let recipe = self.recipe(*identity, direction);
                    let policies = recipe.iter().flat_map(Recipe::governing);
                    let policies = policies.map(|(policy, _)| policy.id.clone()).collect();
                    Refusal { pods: Vec::new(), keeping: Vec::new(), direction, policies, room }
                });
                for pod in known.pods.iter().map(|number| &self.pods[*number]).filter(|pod| pod.local) {
                    let keeps = pod.addresses.iter().any(|address| self.kept_at(*address, pod, direction).is_some());
                    let namespace = Name::clone(self.strings.name(pod.namespace));
                    let key = PodKey { namespace, name: Name::clone(&pod.name) };
                    if keeps { refusal.keeping.push(key) } else { refusal.pods.push(key) }
                }
            }
        }
        let mut refusals: Vec<_> = refusals.into_values().collect();
        for refusal in &mut refusals {
            refusal.pods.sort_unstable();
            refusal.keeping.sort_unstable();
        }
        refusals.sort_unstable();
        refusals
    }

    /// Local addresses that are no endpoints, because there are too many.
    pub fn unseated(&self) -> impl Iterator<Item = IpAddr> {
        self.unseated.iter().copied()
    }

    /// What there is not enough of for a ruleset, if it is not in force.
    pub(super) fn lacking(&self, applied: Applied) -> Option<Room> {
        match applied {
            Applied::Nothing | Applied::Conflict => None,
            Applied::NoRoom(id) => self.unlaid.get(&id).copied(),
            Applied::Ruleset(number, _) => self.rulesets.slab[number].refused,
        }
    }

    /// The ruleset that an endpoint has instead of what applies.
    pub(super) fn in_force(&self, applied: Applied) -> RulesetId {
        match applied {
            Applied::Nothing => RulesetId::NONE,
            Applied::Conflict => RulesetId::CONFLICT,
            _ if self.lacking(applied).is_some() => RulesetId::NO_ROOM,
            Applied::NoRoom(_) => RulesetId::NO_ROOM,
            Applied::Ruleset(_, id) => id,
        }
    }

    /// Keeps what decisions take up in memory within bounds while they are made: there may be twice as much of them as
    /// the plan can hold.
    pub(super) fn relieve(&mut self, delta: &mut Delta) {
        if self.ledger.whole > self.limits.breakpoints.saturating_mul(2) {
            self.oust();
            self.withhold(delta);
            self.blocks.retain(|block| Arc::strong_count(block) > 1);
        }
    }

    /// Takes the decisions of rulesets away for which there is no room. Returns those for which there is none, also if
    /// they had lost theirs before.
    fn oust(&mut self) -> BTreeSet<RulesetId> {
        let mut gone = BTreeSet::new();
        for room in [Room::Breakpoints, Room::Entries] {
            for (id, number) in self.beyond(room) {
                gone.insert(id);
                let ruleset = &mut self.rulesets.slab[number];
                if ruleset.refused.is_none() {
                    ruleset.hollow(room, &mut self.ledger);
                    if ruleset.published {
                        self.ousted.push(id);
                    }
                }
            }
        }
        gone
    }

    /// The rulesets beyond their payers' shares.
    fn beyond(&self, room: Room) -> BTreeSet<(RulesetId, u32)> {
        let (used, limit, left) = match room {
            Room::Breakpoints => (self.ledger.points, self.limits.breakpoints, self.room(room)),
            Room::Entries => (self.ledger.entries, self.limits.entries, self.room(room)),
            Room::Peers | Room::Prefixes | Room::Causes | Room::Layout | Room::Memory => return BTreeSet::new(),
        };
        let enough = if self.unlaid.is_empty() { limit } else { left };
        if used <= enough {
            return BTreeSet::new();
        }
        let only_kept = self.is_only_kept();
        let own = self.rulesets.slab.iter().filter(|(number, ruleset)| !only_kept(*number, ruleset));
        let wants: Wants = own.map(|(number, ruleset)| want(room, number, ruleset)).collect();
        if self.kept.is_empty() || !refused(enough, &wants).is_empty() {
            refused(left, &wants)
        } else {
            BTreeSet::new()
        }
    }

    /// Takes the decisions of kept rulesets away for which there is no room beside all others. Returns these.
    fn oust_kept(&mut self, gone: &mut BTreeSet<RulesetId>) {
        if self.kept.is_empty() {
            return;
        }
        let only_kept = self.is_only_kept();
        for room in [Room::Breakpoints, Room::Entries] {
            let in_force = self.rulesets.slab.iter().filter(|(_, ruleset)| !gone.contains(&ruleset.id));
            let (kept, own): (Vec<_>, Vec<_>) = in_force.partition(|(number, ruleset)| only_kept(*number, ruleset));
            let wants = |list: Vec<(u32, &Ruleset)>| -> Wants {
                list.into_iter().map(|(number, ruleset)| want(room, number, ruleset)).collect()
            };
            for (id, number) in beyond_all(self.room(room), &wants(own), &wants(kept)) {
                gone.insert(id);
                self.rulesets.slab[number].hollow(room, &mut self.ledger);
                self.ousted.push(id);
            }
        }
    }

    /// Leaves decisions out of a delta that the plan is not to hold.
    fn withhold(&self, delta: &mut Delta) {
        let refused = |id: RulesetId| {
            let number = self.rulesets.by_id.get(&id).copied();
            let ruleset = number.and_then(|number| self.rulesets.slab.get(number));
            ruleset.is_some_and(|ruleset| ruleset.id == id && ruleset.refused.is_some())
        };
        delta.put_entries.retain(|(key, _)| !refused(key.ruleset));
    }

    /// Finds who has to go without, now that all is known. What is new is left out of the deltas; what was in the plan
    /// goes before: first its endpoints are denied, then its decisions go.
    pub(super) fn make_room(&mut self, first: &mut Delta, second: &mut Delta) -> Delta {
        let mut before = Delta::default();
        if !self.ledger.take_changed() {
            return before;
        }
        let mut gone = self.oust();
        self.oust_kept(&mut gone);
        let readmitted = |ruleset: &Ruleset| ruleset.refused.is_some() && !gone.contains(&ruleset.id);
        self.readmitted = self.rulesets.slab.iter().filter(|(_, r)| readmitted(r)).map(|(number, _)| number).collect();
        // To count is to change.
        self.ledger.take_changed();
        let ousted: BTreeSet<RulesetId> = std::mem::take(&mut self.ousted).into_iter().collect();
        if gone.is_empty() && ousted.is_empty() {
            return before;
        }
        let put = first.put_entries.iter().chain(&second.put_entries);
        let new: HashSet<EntryKey> = put.filter(|_| !ousted.is_empty()).map(|(key, _)| *key).collect();
        for (address, endpoint) in &mut self.published.endpoints {
            let denied = |id| if ousted.contains(&id) { RulesetId::NO_ROOM } else { id };
            let [ingress, egress] = [endpoint.ingress, endpoint.egress].map(denied);
            if [ingress, egress] != [endpoint.ingress, endpoint.egress] {
                (endpoint.ingress, endpoint.egress) = (ingress, egress);
                before.put_endpoints.push((*address, endpoint.clone()));
            }
        }
        for id in ousted {
            let number = self.rulesets.by_id.get(&id).copied();
            let number =
                number.filter(|number| self.rulesets.slab.get(*number).is_some_and(|ruleset| ruleset.id == id));
            if let Some(number) = number {
                self.rulesets.slab[number].published = false;
                before
                    .delete_entries
                    .extend(self.entry_keys(&self.rulesets.slab[number]).filter(|key| !new.contains(key)));
            }
        }
        self.withhold(first);
        self.withhold(second);
        self.blocks.retain(|block| Arc::strong_count(block) > 1);
        before
    }

    /// Has the plan hold what there is room for again.
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
        // What it takes up is what it took up before.
        self.ledger.take_changed();
        delta
    }

    /// Makes the decisions of a ruleset again of which only the sizes were kept.
    fn restore(&mut self, number: u32) {
        let classes: Vec<u32> = self.rulesets.slab[number].entries.keys().copied().collect();
        let mut entries = Vec::with_capacity(classes.len());
        for class in classes {
            let block = self.decide(number, class);
            entries.push((class, Held::Whole(self.shared(block))));
        }
        let fallback = [false, true].map(|universal| {
            let peer = Satisfied::new(universal, Vec::new());
            let block = self.rulesets.slab[number].decide(&peer, &self.atoms);
            Held::Whole(self.shared(block))
        });
        let ruleset = &mut self.rulesets.slab[number];
        for held in ruleset.held() {
            self.ledger.leave(held);
        }
        ruleset.fallback = fallback;
        ruleset.entries.extend(entries);
        ruleset.refused = None;
        for held in ruleset.held() {
            self.ledger.enter(held);
        }
    }

    /// Has the plan hold the decisions of [`RulesetId::NO_ROOM`], and their cause, from before the first endpoint or
    /// peer needs them until after the last.
    pub(super) fn deny_without_room(&mut self, deltas: &mut [Delta; 5]) {
        let without = |id: RulesetId| id == RulesetId::NO_ROOM;
        let denies = |endpoint: &crate::Endpoint| without(endpoint.ingress) || without(endpoint.egress);
        let needs = |delta: &&mut Delta| {
            delta.put_endpoints.iter().any(|(_, endpoint)| denies(endpoint))
                || delta.put_peers.iter().any(|(_, peer)| peer.class == ClassId::NO_ROOM)
                || delta.put_entries.iter().any(|(key, _)| key.class == ClassId::NO_ROOM)
        };
        let first = deltas.iter_mut().find(needs);
        match first {
            Some(delta) if !self.published.no_room => {
                self.published.no_room = true;
                delta.put_causes.push((CauseId::NO_ROOM, Reason::NoRoom));
                delta.put_entries.extend(no_room());
            }
            _ => {}
        }
        let needed = self.classes[NO_ROOM].peers > 0 || self.published.endpoints.values().any(denies);
        if self.published.no_room && !needed {
            self.published.no_room = false;
            let [.., last] = deltas;
            last.delete_causes.push(CauseId::NO_ROOM);
            last.delete_entries.extend(no_room().map(|(key, _)| key));
        }
    }

    /// Finds the local addresses that are no endpoints, if there are too many. Adds those of which that changed to
    /// `moved`.
    pub(super) fn seat(&mut self, moved: &mut HashSet<IpAddr>) {
        if self.unseated.is_empty() && self.published.endpoints.len() + moved.len() <= self.limits.endpoints {
            return;
        }
        let owned = self.pods.owners_of_all().filter(|(_, pod)| pod.local);
        let wants = owned.map(|(address, pod)| (pod.namespace, (pod.created, address)));
        let unseated = left_out(self.limits.endpoints, wants).into_iter().map(|(_, address)| address).collect();
        let before = std::mem::replace(&mut self.unseated, unseated);
        moved.extend(before.symmetric_difference(&self.unseated).copied());
    }
}
