//! Subjects: which policies select the local pods, and the rulesets they make.

use foldhash::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::Direction;

use super::Planner;
use super::listing::{Model, position};
use super::pods::Applied;
use super::policy::Policy;
use super::recipe::Recipe;
use super::strings::{Namespaces, Sym, matches};
use super::turnover::Turnover;
use crate::{Delta, RulesetId};

/// Why the rulesets of a subject may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// It may have no pods any more.
    Subject,
    /// Policies came or went that select it.
    Rulesets,
    /// Which policies select it has to be found.
    Policies,
}

impl Planner {
    /// Notes that the rulesets of an identity may differ.
    pub(super) fn doubt(&mut self, identity: u32, doubt: Doubt) {
        let known = self.dirty.subjects.entry(identity).or_insert(doubt);
        *known = doubt.max(*known);
    }

    /// A policy is there from now on: adds it to the subjects it selects.
    pub(super) fn select(&mut self, number: u32) {
        let policy = Arc::clone(&self.policies.slab[number]);
        for identity in self.selected(&policy) {
            let Some(rules) = &mut self.pods.identities[identity].rules else { continue };
            let position = position(&self.policies.slab, &rules.policies, number);
            rules.policies.insert(position, number);
            self.doubt(identity, Doubt::Rulesets);
        }
    }

    /// A policy is gone.
    pub(super) fn deselect(&mut self, number: u32, policy: &Policy) {
        let subjects: Vec<u32> = match &policy.subject.namespaces {
            Namespaces::Named(_) => self.selected(policy),
            // The labels of namespaces may have changed since it selected them.
            Namespaces::Matching(_) => self.locals.iter().copied().collect(),
        };
        for identity in subjects {
            let Some(rules) = &mut self.pods.identities[identity].rules else { continue };
            if let Some(position) = rules.policies.iter().position(|other| *other == number) {
                rules.policies.remove(position);
                self.doubt(identity, Doubt::Rulesets);
            }
        }
    }

    /// The local identities a policy selects.
    fn selected(&self, policy: &Policy) -> Vec<u32> {
        let named = match &policy.subject.namespaces {
            Namespaces::Named(name) => self.namespaces.get(name).map(|namespace| &namespace.identities),
            Namespaces::Matching(_) => None,
        };
        let among = named.filter(|identities| identities.len() < self.locals.len()).unwrap_or(&self.locals);
        let selected =
            among.iter().filter(|identity| self.locals.contains(identity) && self.selects(policy, **identity));
        selected.copied().collect()
    }

    pub(super) fn selects(&self, policy: &Policy, identity: u32) -> bool {
        let visible = &self.pods.identities[identity].visible;
        policy.subject.admits(visible.namespace, self.labels(visible.namespace))
            && matches(&policy.subject.pods, &visible.labels)
    }

    pub(super) fn labels(&self, namespace: Sym) -> Option<&[(Sym, Sym)]> {
        self.namespaces.get(&namespace)?.labels.as_deref()
    }

    /// Finds the rulesets of all marked subjects. Adds the addresses of those that changed to `moved`.
    pub(super) fn refresh_subjects(&mut self, delta: &mut Delta, moved: &mut HashSet<IpAddr>) -> Turnover {
        let mut turnover = Turnover::default();
        let mut marked: Vec<_> = std::mem::take(&mut self.dirty.subjects).into_iter().collect();
        marked.sort_unstable();
        let models = self.relist(&marked);
        let mut subjects: Vec<_> =
            marked.iter().filter_map(|(identity, _)| self.subject(*identity, models.get(identity))).collect();
        self.ration(&mut subjects);
        self.hold(&subjects, &mut turnover);
        // First who stays and who goes: what is new can be made of what goes.
        for subject in &subjects {
            for target in subject.targets {
                if let Target::Known(Applied::Ruleset(number, _)) = target {
                    self.rulesets.slab[number].subjects += 1;
                }
            }
            for applied in subject.before {
                if let Applied::Ruleset(number, _) = applied {
                    self.release(number, &mut turnover);
                }
            }
        }
        for Subject { identity, before, model, targets } in subjects {
            let [ingress, egress] = targets;
            let applied = [(Direction::Ingress, ingress, model[0]), (Direction::Egress, egress, model[1])];
            let applied = applied.map(|(direction, target, model)| match target {
                Target::Known(applied) => applied,
                Target::Missing(id) => self.make(identity, direction, id, model, delta, &mut turnover),
            });
            if let Some(rules) = &mut self.pods.identities[identity].rules {
                rules.applied = applied;
            }
            if before != applied {
                moved.extend(self.pods.addresses(identity));
            }
        }
        turnover
            .retired
            .retain(|number| self.rulesets.slab[*number].subjects == 0 && !turnover.successors.contains_key(number));
        turnover.retired.sort_unstable();
        turnover.retired.dedup();
        turnover
    }

    /// What a marked identity has, and has to have.
    fn subject(&mut self, identity: u32, model: Option<&Model>) -> Option<Subject> {
        let known = self.pods.identities.get(identity)?;
        let before = known.rules.as_ref().map_or_else(Default::default, |rules| rules.applied);
        let targets = if known.local == 0 {
            self.pods.identities[identity].rules = None;
            self.locals.remove(&identity);
            [Target::Known(Applied::Nothing), Target::Known(Applied::Nothing)]
        } else if let Some(Model { applied, same: true }) = model {
            applied.map(Target::Known)
        } else {
            [Direction::Ingress, Direction::Egress].map(|direction| self.find(identity, direction))
        };
        Some(Subject { identity, before, model: model.map_or(before, |model| model.applied), targets })
    }

    /// What makes the ruleset of an identity, if any policy governs the direction.
    pub(super) fn recipe(&self, identity: u32, direction: Direction) -> Option<Recipe<'_>> {
        let known = &self.pods.identities[identity];
        Recipe::new(direction, &known.rules.as_ref()?.policies, &self.policies.slab, &known.visible.ports)
    }

    /// The ruleset an identity has to have, if it is there.
    pub(super) fn find(&self, identity: u32, direction: Direction) -> Target {
        let Some(recipe) = self.recipe(identity, direction) else { return Target::Known(Applied::Nothing) };
        let id = recipe.id(&self.strings);
        match self.rulesets.by_id.get(&id) {
            Some(number) if recipe.made(&self.rulesets.slab[*number]) => Target::Known(Applied::Ruleset(*number, id)),
            Some(_) => Target::Known(Applied::Conflict),
            None => Target::Missing(id),
        }
    }

    /// A ruleset has one subject less.
    pub(super) fn release(&mut self, number: u32, turnover: &mut Turnover) {
        let ruleset = &mut self.rulesets.slab[number];
        ruleset.subjects -= 1;
        if ruleset.subjects == 0 {
            turnover.retired.push(number);
        }
    }
}

/// A subject whose rulesets may differ.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) identity: u32,
    /// What it has.
    pub(super) before: [Applied; 2],
    /// What its new rulesets can be laid out after.
    pub(super) model: [Applied; 2],
    /// What it has to have.
    pub(super) targets: [Target; 2],
}

/// The ruleset a subject has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Known(Applied),
    /// There is none of this id yet.
    Missing(RulesetId),
}

impl Target {
    /// The ruleset there ought to be, if there is one to be made.
    pub(super) fn wanted(self) -> Option<RulesetId> {
        match self {
            Self::Known(applied) => applied.wanted(),
            Self::Missing(id) => Some(id),
        }
    }
}
