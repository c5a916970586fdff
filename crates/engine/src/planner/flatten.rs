//! Flattening: turns rules in order of evaluation, with tiers, Pass and isolation, into one function of protocol and
//! port.
//!
//! The first match wins, so every rule takes the rest of the keys that it matches. `Pass` gives its keys back at the
//! end of its tier.

use std::borrow::Cow;

use ringfence_model::Tier;

use super::policy::Action;
use crate::{PortTable, PortVerdict, RuleId};

/// Last key of [`crate::port_key`].
pub(super) const LAST: u32 = (1 << 24) - 1;

/// A rule that matches the peer.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    pub(super) tier: Tier,
    pub(super) action: Action,
    pub(super) rule_id: RuleId,
    /// First and last keys it matches, in any order.
    pub(super) ranges: Cow<'a, [(u32, u32)]>,
}

/// Ascending, disjoint ranges of keys, first and last.
#[derive(Clone, Debug)]
pub(super) struct Keys(Vec<(u32, u32)>);

impl Keys {
    pub(super) fn all() -> Self {
        Self(vec![(0, LAST)])
    }

    /// Removes a range, and reports the parts of it that were there.
    pub(super) fn take(&mut self, (first, last): (u32, u32), mut found: impl FnMut((u32, u32))) {
        let start = self.0.partition_point(|(_, end)| *end < first);
        let length = self.0[start..].iter().take_while(|(begin, _)| *begin <= last).count();
        if length == 0 {
            return;
        }
        let (head, tail) = (self.0[start], self.0[start + length - 1]);
        for (begin, end) in &self.0[start..start + length] {
            found(((*begin).max(first), (*end).min(last)));
        }
        let before = (head.0 < first).then(|| (head.0, first - 1));
        let after = (tail.1 > last).then(|| (last + 1, tail.1));
        self.0.splice(start..start + length, before.into_iter().chain(after));
    }

    /// Adds ranges that the set does not contain.
    fn give(&mut self, ranges: Vec<(u32, u32)>) {
        if !ranges.is_empty() {
            self.0.extend(ranges);
            self.0.sort_unstable();
        }
    }
}

/// The port table for a peer that matches exactly these rules. `isolated`: the rule id that denies the rest after the
/// NetworkPolicy tier.
pub(super) fn flatten<'a>(steps: impl IntoIterator<Item = Step<'a>>, isolated: Option<RuleId>) -> PortTable {
    let mut steps = steps.into_iter().peekable();
    let mut open = Keys::all();
    let mut out: Vec<PortVerdict> = Vec::new();
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        let mut passed = Vec::new();
        while let Some(step) = steps.next_if(|step| step.tier == tier) {
            for range in step.ranges.iter() {
                open.take(*range, |(key, last)| match step.action {
                    Action::Pass => passed.push((key, last)),
                    Action::Accept => out.push(PortVerdict { key, allow: true, rule_id: step.rule_id }),
                    Action::Deny => out.push(PortVerdict { key, allow: false, rule_id: step.rule_id }),
                });
            }
        }
        open.give(passed);
        if let (Tier::NetworkPolicy, Some(rule_id)) = (tier, isolated) {
            open.take((0, LAST), |(key, _)| out.push(PortVerdict { key, allow: false, rule_id }));
        }
    }
    open.take((0, LAST), |(key, _)| out.push(PortVerdict { key, allow: true, rule_id: RuleId::DEFAULT }));
    out.sort_unstable_by_key(|range| range.key);
    PortTable::from_sorted(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: RuleId = RuleId(100);
    const PASS: RuleId = RuleId(101);
    const DENY: RuleId = RuleId(102);
    const ISOLATED: RuleId = RuleId(103);

    #[test]
    fn earlier_rules_win_and_pass_leaves_only_its_tier() {
        let step =
            |tier, action, rule_id, ranges: &[_]| Step { tier, action, rule_id, ranges: Cow::Owned(ranges.to_vec()) };
        let table = flatten(
            [
                step(Tier::Admin, Action::Pass, PASS, &[(10, 20)]),
                step(Tier::Admin, Action::Deny, DENY, &[(15, 30), (5, 8)]),
                step(Tier::NetworkPolicy, Action::Accept, ACCEPT, &[(0, 12)]),
            ],
            Some(ISOLATED),
        );
        let expected = [(0, ACCEPT), (5, DENY), (9, ACCEPT), (13, ISOLATED), (21, DENY), (31, ISOLATED)];
        let found: Vec<_> = table.ranges().iter().map(|range| (range.key, range.rule_id)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn without_rules_everything_is_accepted_by_default() {
        assert_eq!(flatten([], None), PortTable::constant(true, RuleId::DEFAULT));
        assert_eq!(flatten([], Some(ISOLATED)), PortTable::constant(false, ISOLATED));
    }
}
