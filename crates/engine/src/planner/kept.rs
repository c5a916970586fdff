//! Kept: what pods had whose new policies do not fit, for as long as these do not. Not by default.
//!
//! Subjects hold on to the rulesets they had until it is known that there is room for the new ones. What is kept longer
//! is what would go: it takes from nobody, for it has only what all others leave, and goes where that is not enough.
//! This is the one thing that depends on what was before, and not on the world alone: what fits is the same in either
//! case.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::HashMap;
use ringfence_model::Direction;

use super::Planner;
use super::pods::{Applied, Pod};
use super::rulesets::Ruleset;
use super::subjects::{Subject, Target};
use super::turnover::Turnover;
use crate::{Delta, RulesetId};

/// Both directions, as rulesets are told apart.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Rulesets that are held on to, and for whom.
#[derive(Debug, Default)]
pub(super) struct Kept {
    on: bool,
    /// By the identity that had it, and the direction.
    by_subject: BTreeMap<(u32, Direction), u32>,
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.by_subject.is_empty()
    }

    pub(super) fn numbers(&self) -> BTreeSet<u32> {
        self.by_subject.values().copied().collect()
    }
}

impl Planner {
    /// Sets whether pods keep the policies they had while there is no room for their new ones, and new pods of theirs
    /// are denied; else all of them are denied.
    pub fn keep(&mut self, keep: bool) {
        self.kept.on = keep;
    }

    /// Has subjects that are to have other rulesets hold on to those they have.
    pub(super) fn hold(&mut self, subjects: &[Subject], turnover: &mut Turnover) {
        if !self.kept.on && self.kept.is_empty() {
            return;
        }
        for subject in subjects {
            for (direction, (before, target)) in
                DIRECTIONS.into_iter().zip(subject.before.into_iter().zip(subject.targets))
            {
                let slot = (subject.identity, direction);
                if target == Target::Known(Applied::Nothing) {
                    if let Some(number) = self.kept.by_subject.remove(&slot) {
                        self.release(number, turnover);
                    }
                    continue;
                }
                let Applied::Ruleset(number, id) = before else { continue };
                let ruleset = &mut self.rulesets.slab[number];
                if self.kept.on
                    && target.wanted() != Some(id)
                    && ruleset.published
                    && !self.kept.by_subject.contains_key(&slot)
                {
                    ruleset.subjects += 1;
                    self.kept.by_subject.insert(slot, number);
                }
            }
        }
        if !self.kept.is_empty() {
            let out = self.kept_beside_rations(subjects);
            self.drop_kept(|_, number| out.contains(&number), turnover);
        }
    }

    /// Lets go of some of it.
    fn drop_kept(&mut self, which: impl Fn((u32, Direction), u32) -> bool, turnover: &mut Turnover) {
        let kept = std::mem::take(&mut self.kept.by_subject);
        let (gone, kept): (BTreeMap<_, _>, _) = kept.into_iter().partition(|(slot, number)| which(*slot, *number));
        self.kept.by_subject = kept;
        for number in gone.into_values() {
            self.release(number, turnover);
        }
    }

    /// Whether a ruleset is there only because it is kept.
    pub(super) fn is_only_kept(&self) -> impl Fn(u32, &Ruleset) -> bool + use<> {
        let mut holds: HashMap<u32, u32> = HashMap::default();
        for number in self.kept.by_subject.values() {
            *holds.entry(*number).or_default() += 1;
        }
        move |number, ruleset| holds.get(&number) == Some(&ruleset.subjects)
    }

    /// What an address keeps in a direction: what its pod has, if that is what there was before what does not fit.
    pub(super) fn kept_at(&self, address: IpAddr, pod: &Pod, direction: Direction) -> Option<RulesetId> {
        let number = self.kept.by_subject.get(&(pod.identity, direction))?;
        let kept = &self.rulesets.slab[*number];
        let has = self.published.endpoints.get(&address)?;
        let keeps = has.uid == pod.uid && has.ruleset(direction) == kept.id && kept.refused.is_none();
        keeps.then_some(kept.id)
    }

    /// Lets go of what nobody needs any more: there is room for what came for it, or nobody has it.
    pub(super) fn let_go(&mut self, delta: &mut Delta) {
        if self.kept.is_empty() {
            return;
        }
        let mut turnover = Turnover::default();
        let idle: BTreeSet<_> = self.kept.by_subject.keys().copied().filter(|slot| !self.is_needed(*slot)).collect();
        self.drop_kept(|slot, _| idle.contains(&slot), &mut turnover);
        if !turnover.retired.is_empty() {
            self.retire(turnover, delta);
            self.settle(delta, &mut Turnover::default());
        }
    }

    fn is_needed(&self, (identity, direction): (u32, Direction)) -> bool {
        let Some(rules) = self.pods.identities.get(identity).and_then(|known| known.rules.as_ref()) else {
            return false;
        };
        let applied = rules.applied[usize::from(direction == Direction::Egress)];
        let keeps = |number: &u32| {
            let pod = &self.pods[*number];
            pod.addresses.iter().any(|address| self.kept_at(*address, pod, direction).is_some())
        };
        self.lacking(applied).is_some() && self.pods.identities[identity].pods.iter().any(keeps)
    }
}
