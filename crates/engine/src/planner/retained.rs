//! Retained rulesets: the previous policy of pods whose new policies do not fit. Off by default.
//!
//! Subjects keep the rulesets they had until the new ones fit. Retained rulesets take no room from others: they use
//! only the rest, and are dropped if that is not enough. This is the only state that depends on the past and not on the
//! world alone. The rulesets that fit are the same in either case.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::HashMap;
use ringfence_model::Direction;

use super::Planner;
use super::pods::{Applied, Pod};
use super::ruleset_diff::RulesetDiff;
use super::rulesets::Ruleset;
use super::subjects::{Subject, Target};
use crate::{Delta, RulesetId};

/// Both directions, in the order of arrays of rulesets.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Retained rulesets, and their subjects.
#[derive(Debug, Default)]
pub(super) struct Retained {
    on: bool,
    /// By the identity that had it, and the direction.
    by_subject: BTreeMap<(u32, Direction), u32>,
}

impl Retained {
    pub(super) fn is_empty(&self) -> bool {
        self.by_subject.is_empty()
    }

    pub(super) fn numbers(&self) -> BTreeSet<u32> {
        self.by_subject.values().copied().collect()
    }
}

impl Planner {
    /// Sets whether pods keep their previous policies while the new ones do not fit, and only new pods are denied.
    /// Otherwise all of these pods are denied.
    pub fn retain_previous(&mut self, retain: bool) {
        self.retained.on = retain;
    }

    /// Retains the current rulesets of subjects with other targets.
    pub(super) fn retain_rulesets(&mut self, subjects: &[Subject], diff: &mut RulesetDiff) {
        if !self.retained.on && self.retained.is_empty() {
            return;
        }
        for subject in subjects {
            for (direction, (before, target)) in
                DIRECTIONS.into_iter().zip(subject.before.into_iter().zip(subject.targets))
            {
                let slot = (subject.identity, direction);
                if target == Target::Known(Applied::Nothing) {
                    if let Some(number) = self.retained.by_subject.remove(&slot) {
                        self.release(number, diff);
                    }
                    continue;
                }
                let Applied::Ruleset(number, id) = before else { continue };
                let ruleset = &mut self.rulesets.slab[number];
                if self.retained.on
                    && target.wanted() != Some(id)
                    && ruleset.published
                    && !self.retained.by_subject.contains_key(&slot)
                {
                    ruleset.subjects += 1;
                    self.retained.by_subject.insert(slot, number);
                }
            }
        }
        if !self.retained.is_empty() {
            let out = self.retained_over_quota(subjects);
            self.drop_retained(|_, number| out.contains(&number), diff);
        }
    }

    /// Drops the selected retained rulesets.
    fn drop_retained(&mut self, which: impl Fn((u32, Direction), u32) -> bool, diff: &mut RulesetDiff) {
        let kept = std::mem::take(&mut self.retained.by_subject);
        let (gone, kept): (BTreeMap<_, _>, _) = kept.into_iter().partition(|(slot, number)| which(*slot, *number));
        self.retained.by_subject = kept;
        for number in gone.into_values() {
            self.release(number, diff);
        }
    }

    /// True for rulesets that exist only because they are retained.
    pub(super) fn is_only_retained(&self) -> impl Fn(u32, &Ruleset) -> bool + use<> {
        let mut holds: HashMap<u32, u32> = HashMap::default();
        for number in self.retained.by_subject.values() {
            *holds.entry(*number).or_default() += 1;
        }
        move |number, ruleset| holds.get(&number) == Some(&ruleset.subjects)
    }

    /// The retained ruleset of an address in a direction: the one that its pod had before the one that does not fit.
    pub(super) fn retained_at(&self, address: IpAddr, pod: &Pod, direction: Direction) -> Option<RulesetId> {
        let number = self.retained.by_subject.get(&(pod.identity, direction))?;
        let kept = &self.rulesets.slab[*number];
        let has = self.published.endpoints.get(&address)?;
        let keeps = has.uid == pod.uid && has.ruleset(direction) == kept.id && kept.refused.is_none();
        keeps.then_some(kept.id)
    }

    /// Releases retained rulesets that are not needed any more: their successors fit, or no pod has them.
    pub(super) fn release_retained(&mut self, delta: &mut Delta) {
        if self.retained.is_empty() {
            return;
        }
        let mut diff = RulesetDiff::default();
        let idle: BTreeSet<_> =
            self.retained.by_subject.keys().copied().filter(|slot| !self.is_needed(*slot)).collect();
        self.drop_retained(|slot, _| idle.contains(&slot), &mut diff);
        if !diff.unused.is_empty() {
            self.remove_rulesets(diff, delta);
            self.recompute(delta, &mut RulesetDiff::default());
        }
    }

    fn is_needed(&self, (identity, direction): (u32, Direction)) -> bool {
        let Some(rules) = self.pods.identities.get(identity).and_then(|known| known.rules.as_ref()) else {
            return false;
        };
        let applied = rules.applied[usize::from(direction == Direction::Egress)];
        let keeps = |number: &u32| {
            let pod = &self.pods[*number];
            pod.addresses.iter().any(|address| self.retained_at(*address, pod, direction).is_some())
        };
        self.lacking(applied).is_some() && self.pods.identities[identity].pods.iter().any(keeps)
    }
}
