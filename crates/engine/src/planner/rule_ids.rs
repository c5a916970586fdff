//! Rule ids in the port tables of rulesets, and their reasons.

use std::sync::Arc;

use foldhash::HashMap;
use ringfence_model::{Direction, Reason};

use super::digest::Digest;
use super::isolation::Isolation;
use super::policy::Policy;
use super::rulesets::Ruleset;
use crate::{Delta, RuleId};

/// All rule ids in use.
#[derive(Debug, Default)]
pub(super) struct RuleIds {
    known: HashMap<RuleId, Known>,
    /// The number of rulesets with the rules of a policy in one direction, by the digest of the policy.
    policies: HashMap<(Digest, Direction), u32>,
}

/// A rule id in use.
#[derive(Debug)]
struct Known {
    reason: Reason,
    /// The digest of a reason that is long to compare.
    digest: Digest,
    count: u32,
}

/// Two reasons have the same rule id.
#[derive(Debug)]
pub(super) struct Collision;

impl RuleIds {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RuleId, &Reason)> {
        self.known.iter().map(|(id, known)| (*id, &known.reason))
    }

    /// Adds the rule ids of a ruleset. `policies`: those that are not counted yet. Adds nothing if ids collide.
    pub(super) fn add(
        &mut self,
        ruleset: &Ruleset,
        policies: &[Arc<Policy>],
        delta: &mut Delta,
    ) -> Result<(), Collision> {
        let mut collides = !self.count(RuleId::DEFAULT, Digest::default(), || Reason::Default, delta);
        if let Some(Isolation { rule_id, digest }) = ruleset.isolated {
            collides |= !self.count(rule_id, digest, || Isolation::reason(ruleset), delta);
        }
        for policy in policies {
            let rulesets = self.policies.entry((policy.digest, ruleset.direction)).or_default();
            *rulesets += 1;
            if *rulesets == 1 {
                collides |= !self.add_rules(policy, ruleset.direction, delta);
            }
        }
        if collides {
            self.remove(ruleset, policies, delta);
            return Err(Collision);
        }
        Ok(())
    }

    fn add_rules(&mut self, policy: &Policy, direction: Direction, delta: &mut Delta) -> bool {
        let mut fits = true;
        for rule in policy.rules(direction).unwrap_or_default() {
            let reason = Reason::Rule(policy.reference(direction, rule));
            let same = self.known.get(&rule.id).is_none_or(|known| known.reason == reason);
            fits &= self.count(rule.id, Digest::default(), || reason, delta) && same;
        }
        fits
    }

    /// Adds a reference to a rule id. Returns true if the id stands for no other reason.
    fn count(&mut self, id: RuleId, digest: Digest, reason: impl FnOnce() -> Reason, delta: &mut Delta) -> bool {
        let known = self.known.entry(id).or_insert_with(|| {
            let reason = reason();
            delta.put_rules.push((id, reason.clone()));
            delta.delete_rules.retain(|gone| *gone != id);
            Known { reason, digest, count: 0 }
        });
        known.count += 1;
        known.digest == digest
    }

    /// Removes the rule ids of a ruleset. `policies`: those that were counted.
    pub(super) fn remove(&mut self, ruleset: &Ruleset, policies: &[Arc<Policy>], delta: &mut Delta) {
        self.discount(RuleId::DEFAULT, delta);
        if let Some(Isolation { rule_id, .. }) = ruleset.isolated {
            self.discount(rule_id, delta);
        }
        for policy in policies {
            let key = (policy.digest, ruleset.direction);
            let Some(rulesets) = self.policies.get_mut(&key) else { continue };
            *rulesets -= 1;
            if *rulesets == 0 {
                self.policies.remove(&key);
                for rule in policy.rules(ruleset.direction).unwrap_or_default() {
                    self.discount(rule.id, delta);
                }
            }
        }
    }

    fn discount(&mut self, id: RuleId, delta: &mut Delta) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.count -= 1;
        if known.count == 0 {
            self.known.remove(&id);
            delta.delete_rules.push(id);
        }
    }
}
