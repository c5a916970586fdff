//! Isolation: the NetworkPolicies that deny what none of their rules accepts.

use std::sync::Arc;

use ringfence_model::{Direction, PolicyId, Reason, Tier};

use super::digest::{Content, Digest};
use super::layout::Change;
use super::policy::Policy;
use super::rulesets::Ruleset;
use crate::{Cause, CauseId};

/// The policies that isolate the subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct Isolation {
    pub(super) cause: CauseId,
    /// Of all of them.
    pub(super) digest: Digest,
}

impl Isolation {
    /// Who of these policies isolates, if any does. `model`: a ruleset of other policies, and how they differ.
    pub(super) fn of(
        direction: Direction,
        policies: &[Arc<Policy>],
        model: Option<(&Ruleset, &Change)>,
    ) -> Option<Self> {
        if let Some((model, change)) = model {
            let names = |changed: &[Arc<Policy>]| isolating(changed).map(|policy| policy.id_digest).collect::<Vec<_>>();
            if names(&change.added) == names(&change.removed) {
                return model.isolated;
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
            Self { cause: CauseId(Content::id_of(&digest)), digest }
        })
    }

    /// What the cause stands for.
    pub(super) fn reason(ruleset: &Ruleset) -> Cause {
        let mut policies: Vec<PolicyId> = isolating(&ruleset.policies).map(|policy| policy.id.clone()).collect();
        policies.sort_unstable();
        Reason::Isolated { direction: ruleset.direction, policies: policies.into() }
    }
}

fn isolating(policies: &[Arc<Policy>]) -> impl Iterator<Item = &Arc<Policy>> {
    policies.iter().filter(|policy| policy.tier == Tier::NetworkPolicy)
}
