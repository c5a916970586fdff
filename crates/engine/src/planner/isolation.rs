//! Isolation: the NetworkPolicies that deny the connections that none of their rules accepts.

use std::sync::Arc;

use ringfence_model::{Direction, PolicyId, Reason, Tier};

use super::digest::{Content, Digest};
use super::layout::Change;
use super::policy::Policy;
use super::rulesets::Ruleset;
use crate::RuleId;

/// The policies that isolate the subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct Isolation {
    pub(super) rule_id: RuleId,
    /// The digest of all of these policies.
    pub(super) digest: Digest,
}

impl Isolation {
    /// Finds the isolating policies. `base`: a ruleset of other policies, and their difference.
    pub(super) fn of(
        direction: Direction,
        policies: &[Arc<Policy>],
        base: Option<(&Ruleset, &Change)>,
    ) -> Option<Self> {
        if let Some((base, change)) = base {
            let names = |changed: &[Arc<Policy>]| isolating(changed).map(|policy| policy.id_digest).collect::<Vec<_>>();
            if names(&change.added) == names(&change.removed) {
                return base.isolated;
            }
        }
        let mut content = Content::new("isolated");
        content.number(direction as u8);
        let empty = content.length_so_far();
        for policy in isolating(policies) {
            content.bytes(&policy.id_digest);
        }
        (content.length_so_far() > empty).then(|| {
            let digest = content.digest();
            Self { rule_id: RuleId(Content::id_of(&digest)), digest }
        })
    }

    /// The reason that the rule id stands for.
    pub(super) fn reason(ruleset: &Ruleset) -> Reason {
        let mut policies: Vec<PolicyId> = isolating(&ruleset.policies).map(|policy| policy.id.clone()).collect();
        policies.sort_unstable();
        Reason::Isolated { direction: ruleset.direction, policies: policies.into() }
    }
}

fn isolating(policies: &[Arc<Policy>]) -> impl Iterator<Item = &Arc<Policy>> {
    policies.iter().filter(|policy| policy.tier == Tier::NetworkPolicy)
}
