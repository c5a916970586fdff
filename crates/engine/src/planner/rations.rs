//! Rations: which rulesets are laid out at all.
//!
//! What rules take up whatever peers there are is known of the policies alone, before anything is made of them: the
//! memory of their layout, their causes, the prefixes of their blocks. Where these do not fit, who has to go without is
//! decided before, so that what is refused costs nothing. What decisions take up is known only once they are made
//! ([`super::admission`]).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::quality::RandomState;
use ipnet::IpNet;
use ringfence_model::Direction;

use super::Planner;
use super::admission::{SPARED_ENTRIES, SPARED_POINTS};
use super::pods::Applied;
use super::policy::{Policy, Size};
use super::prefixes::{is_single, needed};
use super::recipe::Recipe;
use super::rulesets::{Payer, payer};
use super::share::{Want, beyond_all, refused};
use super::subjects::{Subject, Target};
use crate::{Limits, Room, RulesetId};

/// What limits what rules take up whatever peers there are.
const KINDS: [Room; 4] = [Room::Layout, Room::Causes, Room::Prefixes, Room::Peers];

/// A ruleset of fewer ranges of ports than this is laid out however little room there is for its decisions.
const FEW_RANGES: usize = 1024;

/// How much room there is of each kind.
pub(super) type Rooms = [usize; KINDS.len()];

type Wants = Vec<Want<RulesetId, Payer>>;

impl Planner {
    /// Sees to it that no subject is to have a ruleset that there is no room to lay out. Adds subjects that lose or get
    /// theirs because of what others want.
    pub(super) fn ration(&mut self, subjects: &mut Vec<Subject>) {
        let enough = || self.limits == Limits::NONE || self.is_enough(subjects);
        if self.unlaid.is_empty() && self.policies.withheld == 0 && enough() {
            self.rationed = None;
            return;
        }
        // Who is to have what, and how much there is for it, is all that counts.
        let rooms = KINDS.map(|kind| self.room(kind));
        let same = |subject: &Subject| subject.targets == subject.before.map(Target::Known);
        if self.rationed == Some(rooms) && subjects.iter().all(same) {
            return;
        }
        self.rationed = Some(rooms);
        let unlaid = self.unlaid(subjects);
        if unlaid != self.unlaid {
            self.unlaid = unlaid;
            self.ledger.touch();
        }
        let marked: BTreeSet<u32> = subjects.iter().map(|subject| subject.identity).collect();
        for identity in self.locals.iter().filter(|identity| !marked.contains(identity)) {
            let Some(rules) = &self.pods.identities[*identity].rules else { continue };
            let before = rules.applied;
            if before.iter().any(|applied| self.is_outdated(*applied)) {
                let targets = before.map(Target::Known);
                subjects.push(Subject { identity: *identity, before, model: before, targets });
            }
        }
        for subject in subjects.iter_mut() {
            for (direction, target) in [Direction::Ingress, Direction::Egress].into_iter().zip(&mut subject.targets) {
                match *target {
                    Target::Known(Applied::NoRoom(id)) if !self.unlaid.contains_key(&id) => {
                        *target = self.find(subject.identity, direction);
                    }
                    Target::Known(Applied::Ruleset(_, id)) | Target::Missing(id) if self.unlaid.contains_key(&id) => {
                        *target = Target::Known(Applied::NoRoom(id));
                    }
                    Target::Known(_) | Target::Missing(_) => {}
                }
            }
        }
    }

    fn is_outdated(&self, applied: Applied) -> bool {
        match applied {
            Applied::Nothing | Applied::Conflict => false,
            Applied::NoRoom(id) => !self.unlaid.contains_key(&id),
            Applied::Ruleset(_, id) => self.unlaid.contains_key(&id),
        }
    }

    /// Whether there is room for all that is there and all that is to come, if none of it is shared.
    fn is_enough(&self, subjects: &[Subject]) -> bool {
        let (mut seen, mut more) = (BTreeSet::new(), Size::default());
        for subject in subjects {
            for (direction, target) in [Direction::Ingress, Direction::Egress].into_iter().zip(subject.targets) {
                let Target::Missing(id) = target else { continue };
                let Some(recipe) = self.recipe(subject.identity, direction).filter(|_| seen.insert(id)) else {
                    continue;
                };
                let size = size(&recipe);
                if self.is_endless(size) {
                    return false;
                }
                more += size;
                // The cause of isolation.
                more.rules += 1;
            }
        }
        let laid: usize = self.rulesets.slab.iter().map(|(_, ruleset)| ruleset.bytes).sum();
        let (single, wider) = self.prefixes.count();
        laid + more.layout() <= self.limits.layout
            && self.rulesets.causes.len() + more.rules <= self.room(Room::Causes)
            && wider + more.nets <= self.room(Room::Prefixes)
            // To count others takes a while, and a quarter is there whatever they have.
            && (single + more.nets <= self.limits.peers / 4 || single + more.nets <= self.room(Room::Peers))
    }

    /// What there is not enough of for a ruleset, whatever others want.
    fn lacking_alone(&self, recipe: &Recipe<'_>) -> Option<Room> {
        if recipe.governing().any(|(policy, _)| policy.rules_withheld) {
            return Some(Room::Memory);
        }
        let size = size(recipe);
        let many_ranges = size.ranges > self.limits.breakpoints.max(FEW_RANGES);
        self.is_endless(size).then_some(if many_ranges { Room::Breakpoints } else { Room::Prefixes })
    }

    /// Whether rules have so many ranges of ports, or blocks, that a single decision or the blocks of one ruleset might
    /// not fit: to look into them would take too long.
    fn is_endless(&self, size: Size) -> bool {
        size.ranges > self.limits.breakpoints.max(FEW_RANGES)
            || size.nets > self.limits.prefixes.saturating_add(self.limits.peers).max(FEW_RANGES)
    }

    /// Those there is no room for.
    fn unlaid(&self, subjects: &[Subject]) -> BTreeMap<RulesetId, Room> {
        let mut unlaid = BTreeMap::new();
        let mut wanted = self.wanted(subjects);
        wanted.retain(|id, (identity, direction)| {
            let Some(recipe) = self.recipe(*identity, *direction) else { return false };
            let lacking = self.lacking_alone(&recipe);
            unlaid.extend(lacking.map(|room| (*id, room)));
            lacking.is_none()
        });
        let hasher = RandomState::default();
        for kind in KINDS {
            let own = |(id, (identity, direction)): (&RulesetId, &(u32, Direction))| {
                let recipe = self.recipe(*identity, *direction)?;
                Some(want(kind, *id, *direction, &recipe.governing_policies(), &hasher))
            };
            let wants: Wants = wanted.iter().filter_map(own).collect();
            for id in refused(self.room(kind), &wants) {
                unlaid.entry(id).or_insert(kind);
            }
        }
        unlaid
    }

    /// The kept rulesets that do not fit beside all others that are laid out.
    pub(super) fn kept_beside_rations(&self, subjects: &[Subject]) -> BTreeSet<u32> {
        let mut wanted = self.wanted(subjects);
        wanted.retain(|id, _| !self.unlaid.contains_key(id));
        let hasher = RandomState::default();
        let numbers = self.kept.numbers();
        let mut out = BTreeSet::new();
        for kind in KINDS {
            let own = |(id, (identity, direction)): (&RulesetId, &(u32, Direction))| {
                let recipe = self.recipe(*identity, *direction)?;
                Some(want(kind, *id, *direction, &recipe.governing_policies(), &hasher))
            };
            let kept = numbers.iter().map(|number| (*number, &self.rulesets.slab[*number]));
            let kept = kept.filter(|(number, ruleset)| !wanted.contains_key(&ruleset.id) && !out.contains(number));
            let kept: Wants = kept
                .map(|(_, ruleset)| want(kind, ruleset.id, ruleset.direction, &ruleset.policies, &hasher))
                .collect();
            let beyond = beyond_all(self.room(kind), &wanted.iter().filter_map(own).collect::<Wants>(), &kept);
            out.extend(beyond.iter().filter_map(|id| self.rulesets.by_id.get(id)));
        }
        out
    }

    /// All rulesets there ought to be, each with a subject that is to have it.
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

    /// How much of a kind rules may take up.
    pub(super) fn room(&self, kind: Room) -> usize {
        match kind {
            Room::Layout => self.limits.layout,
            // What is kept of policies is for whoever holds them to decide: here it is known of each that it is too much.
            Room::Memory => usize::MAX,
            // One is for the cause that there is no room.
            Room::Causes => self.limits.causes.saturating_sub(1),
            // Some are for ranges that are closed on account of pods without room.
            Room::Prefixes if self.may_be_crowded() => self.limits.prefixes.saturating_sub(self.room_for_covers()),
            Room::Prefixes => self.limits.prefixes,
            Room::Entries => self.limits.entries.saturating_sub(SPARED_ENTRIES),
            Room::Breakpoints => self.limits.breakpoints.saturating_sub(SPARED_POINTS),
            // Pods, nodes and domain names go first, but a quarter is left in any case.
            Room::Peers => {
                let others = self.pods.owned_count() + self.hosts.addresses();
                self.limits.peers.saturating_sub(others).max(self.limits.peers / 4)
            }
        }
    }
}

fn size(recipe: &Recipe<'_>) -> Size {
    let mut size = Size::default();
    recipe.governing().for_each(|(policy, _)| size += policy.size(recipe.direction));
    size
}

/// What a ruleset of these policies takes up of a kind.
fn want(
    kind: Room,
    id: RulesetId,
    direction: Direction,
    policies: &[Arc<Policy>],
    hasher: &RandomState,
) -> Want<RulesetId, Payer> {
    Want { key: id, payer: payer(policies), parts: parts(kind, id, direction, policies, hasher) }
}

fn parts(
    kind: Room,
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
        Room::Layout => {
            let mut size = Size::default();
            for policy in policies {
                size += policy.size(direction);
            }
            vec![(id.0, size.layout())]
        }
        Room::Causes => {
            let of_rules = policies
                .iter()
                .map(|policy| (hasher.hash_one((policy.digest, direction as u8)), policy.size(direction).rules));
            of_rules.chain([(id.0, 1)]).collect()
        }
        Room::Prefixes => nets(false),
        Room::Peers => nets(true),
        // Known only of decisions.
        Room::Entries | Room::Breakpoints | Room::Memory => Vec::new(),
    }
}
