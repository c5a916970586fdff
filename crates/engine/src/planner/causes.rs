//! Causes: what decisions name, for as long as some ruleset can name it.

use std::sync::Arc;

use foldhash::HashMap;
use ringfence_model::{Direction, Reason};

use super::digest::Digest;
use super::isolation::Isolation;
use super::policy::Policy;
use super::rulesets::Ruleset;
use crate::{Cause, CauseId, Delta};

/// All causes in use.
#[derive(Debug, Default)]
pub(super) struct Causes {
    known: HashMap<CauseId, Known>,
    /// How many rulesets have the rules of a policy in one direction, by the digest of the policy.
    policies: HashMap<(Digest, Direction), u32>,
}

/// One cause.
#[derive(Debug)]
struct Known {
    cause: Cause,
    /// Of what it stands for, where comparing that would take long.
    digest: Digest,
    count: u32,
}

/// Two causes have one id.
#[derive(Debug)]
pub(super) struct Conflict;

impl Causes {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (CauseId, &Cause)> {
        self.known.iter().map(|(id, known)| (*id, &known.cause))
    }

    /// Counts what a ruleset names: `policies` are those of it that are not counted yet. Undone if ids collide.
    pub(super) fn add(
        &mut self,
        ruleset: &Ruleset,
        policies: &[Arc<Policy>],
        delta: &mut Delta,
    ) -> Result<(), Conflict> {
        let mut conflict = !self.count(CauseId::DEFAULT, Digest::default(), || Reason::Default, delta);
        if let Some(Isolation { cause, digest }) = ruleset.isolated {
            conflict |= !self.count(cause, digest, || Isolation::reason(ruleset), delta);
        }
        for policy in policies {
            let rulesets = self.policies.entry((policy.digest, ruleset.direction)).or_default();
            *rulesets += 1;
            if *rulesets == 1 {
                conflict |= !self.add_rules(policy, ruleset.direction, delta);
            }
        }
        if conflict {
            self.remove(ruleset, policies, delta);
            return Err(Conflict);
        }
        Ok(())
    }

    fn add_rules(&mut self, policy: &Policy, direction: Direction, delta: &mut Delta) -> bool {
        let mut fits = true;
        for rule in policy.rules(direction).unwrap_or_default() {
            let cause = Reason::Rule(policy.reference(direction, rule));
            let same = self.known.get(&rule.cause).is_none_or(|known| known.cause == cause);
            fits &= self.count(rule.cause, Digest::default(), || cause, delta) && same;
        }
        fits
    }

    /// Counts a cause. Whether its id stands for nothing else.
    fn count(&mut self, id: CauseId, digest: Digest, cause: impl FnOnce() -> Cause, delta: &mut Delta) -> bool {
        let known = self.known.entry(id).or_insert_with(|| {
            let cause = cause();
            delta.put_causes.push((id, cause.clone()));
            delta.delete_causes.retain(|gone| *gone != id);
            Known { cause, digest, count: 0 }
        });
        known.count += 1;
        known.digest == digest
    }

    /// Counts what a ruleset names no more: `policies` are those of it that were counted.
    pub(super) fn remove(&mut self, ruleset: &Ruleset, policies: &[Arc<Policy>], delta: &mut Delta) {
        self.discount(CauseId::DEFAULT, delta);
        if let Some(Isolation { cause, .. }) = ruleset.isolated {
            self.discount(cause, delta);
        }
        for policy in policies {
            let key = (policy.digest, ruleset.direction);
            let Some(rulesets) = self.policies.get_mut(&key) else { continue };
            *rulesets -= 1;
            if *rulesets == 0 {
                self.policies.remove(&key);
                for rule in policy.rules(ruleset.direction).unwrap_or_default() {
                    self.discount(rule.cause, delta);
                }
            }
        }
    }

    fn discount(&mut self, id: CauseId, delta: &mut Delta) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.count -= 1;
        if known.count == 0 {
            self.known.remove(&id);
            delta.delete_causes.push(id);
        }
    }
}
