//! Subjects: the local pods, the policies that select them, and their rulesets.

use foldhash::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::Direction;

use super::Planner;
use super::pods::Applied;
use super::policy::Policy;
use super::policy_lists::{BaseRulesets, position};
use super::ruleset_diff::RulesetDiff;
use super::ruleset_spec::RulesetSpec;
use super::strings::{Namespaces, Sym, matches};
use crate::{Delta, RulesetId};

/// The reason why the rulesets of a subject may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Invalidation {
    /// The subject may have no pods any more.
    Subject,
    /// Policies that select it were added or removed.
    Rulesets,
    /// The list of its policies has to be found.
    Policies,
}

impl Planner {
    /// Marks an identity whose rulesets may differ.
    pub(super) fn invalidate(&mut self, identity: u32, invalidation: Invalidation) {
        let known = self.dirty.subjects.entry(identity).or_insert(invalidation);
        *known = invalidation.max(*known);
    }

    /// Adds a new policy to the subjects that it selects.
    pub(super) fn select(&mut self, number: u32) {
        let policy = Arc::clone(&self.policies.slab[number]);
        for identity in self.selected(&policy) {
            let Some(rules) = &mut self.pods.identities[identity].rules else { continue };
            let position = position(&self.policies.slab, &rules.policies, number);
            rules.policies.insert(position, number);
            self.invalidate(identity, Invalidation::Rulesets);
        }
    }

    /// Removes a policy from its subjects.
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
                self.invalidate(identity, Invalidation::Rulesets);
            }
        }
    }

    /// The local identities that a policy selects.
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
    pub(super) fn refresh_subjects(&mut self, delta: &mut Delta, moved: &mut HashSet<IpAddr>) -> RulesetDiff {
        let mut diff = RulesetDiff::default();
        let mut marked: Vec<_> = std::mem::take(&mut self.dirty.subjects).into_iter().collect();
        marked.sort_unstable();
        let bases = self.refresh_policy_lists(&marked);
        let mut subjects: Vec<_> =
            marked.iter().filter_map(|(identity, _)| self.subject(*identity, bases.get(identity))).collect();
        self.apply_quotas(&mut subjects);
        self.retain_rulesets(&subjects, &mut diff);
        // References are counted first, so that new rulesets can be based on unused ones.
        for subject in &subjects {
            for target in subject.targets {
                if let Target::Known(Applied::Ruleset(number, _)) = target {
                    self.rulesets.slab[number].subjects += 1;
                }
            }
            for applied in subject.before {
                if let Applied::Ruleset(number, _) = applied {
                    self.release(number, &mut diff);
                }
            }
        }
        for Subject { identity, before, base, targets } in subjects {
            let [ingress, egress] = targets;
            let applied = [(Direction::Ingress, ingress, base[0]), (Direction::Egress, egress, base[1])];
            let applied = applied.map(|(direction, target, base)| match target {
                Target::Known(applied) => applied,
                Target::Missing(id) => self.build_ruleset(identity, direction, id, base, delta, &mut diff),
            });
            if let Some(rules) = &mut self.pods.identities[identity].rules {
                rules.applied = applied;
            }
            if before != applied {
                moved.extend(self.pods.addresses(identity));
            }
        }
        diff.unused
            .retain(|number| self.rulesets.slab[*number].subjects == 0 && !diff.replacements.contains_key(number));
        diff.unused.sort_unstable();
        diff.unused.dedup();
        diff
    }

    /// The current and the target rulesets of a marked identity.
    fn subject(&mut self, identity: u32, base: Option<&BaseRulesets>) -> Option<Subject> {
        let known = self.pods.identities.get(identity)?;
        let before = known.rules.as_ref().map_or_else(Default::default, |rules| rules.applied);
        let targets = if known.local == 0 {
            self.pods.identities[identity].rules = None;
            self.locals.remove(&identity);
            [Target::Known(Applied::Nothing), Target::Known(Applied::Nothing)]
        } else if let Some(BaseRulesets { applied, same: true }) = base {
            applied.map(Target::Known)
        } else {
            [Direction::Ingress, Direction::Egress].map(|direction| self.find(identity, direction))
        };
        Some(Subject { identity, before, base: base.map_or(before, |base| base.applied), targets })
    }

    /// The content of the ruleset of an identity, if any policy governs the direction.
    pub(super) fn spec(&self, identity: u32, direction: Direction) -> Option<RulesetSpec<'_>> {
        let known = &self.pods.identities[identity];
        RulesetSpec::new(direction, &known.rules.as_ref()?.policies, &self.policies.slab, &known.visible.ports)
    }

    /// The ruleset of an identity, if it exists.
    pub(super) fn find(&self, identity: u32, direction: Direction) -> Target {
        let Some(spec) = self.spec(identity, direction) else { return Target::Known(Applied::Nothing) };
        let id = spec.id(&self.strings);
        match self.rulesets.by_id.get(&id) {
            Some(number) if spec.matches(&self.rulesets.slab[*number]) => Target::Known(Applied::Ruleset(*number, id)),
            Some(_) => Target::Known(Applied::Collision),
            None => Target::Missing(id),
        }
    }

    /// Removes a subject from a ruleset.
    pub(super) fn release(&mut self, number: u32, diff: &mut RulesetDiff) {
        let ruleset = &mut self.rulesets.slab[number];
        ruleset.subjects -= 1;
        if ruleset.subjects == 0 {
            diff.unused.push(number);
        }
    }
}

/// A subject whose rulesets may differ.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) identity: u32,
    /// Its current rulesets.
    pub(super) before: [Applied; 2],
    /// The base of its new rulesets.
    pub(super) base: [Applied; 2],
    /// Its target rulesets.
    pub(super) targets: [Target; 2],
}

/// The target ruleset of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Known(Applied),
    /// No ruleset with this id exists yet.
    Missing(RulesetId),
}

impl Target {
    /// The id of the target ruleset, if there is one.
    pub(super) fn wanted(self) -> Option<RulesetId> {
        match self {
            Self::Known(applied) => applied.wanted(),
            Self::Missing(id) => Some(id),
        }
    }
}
