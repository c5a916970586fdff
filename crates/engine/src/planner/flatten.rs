//! Flattening: rules in order of evaluation, with tiers, Pass and isolation, to one function of protocol and port.
//!
//! First match wins, so every rule takes what is left of the keys it matches. What `Pass` takes is given back when its
//! tier is over.

use std::borrow::Cow;

use ringfence_model::Tier;

use super::policy::Action;
use crate::{Block, Breakpoint, CauseId};

/// Last key of [`crate::port_key`].
pub(super) const LAST: u32 = (1 << 24) - 1;

/// A rule that matches the peer.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    pub(super) tier: Tier,
    pub(super) action: Action,
    pub(super) cause: CauseId,
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

    /// Removes a range; tells which parts of it were there.
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

    /// Adds ranges that are not in it.
    fn give(&mut self, ranges: Vec<(u32, u32)>) {
        if !ranges.is_empty() {
            self.0.extend(ranges);
            self.0.sort_unstable();
        }
    }
}

/// The decision about a peer that matches these rules and no others. `isolated`: what denies whatever no rule of the
/// NetworkPolicy tier accepts.
pub(super) fn flatten<'a>(steps: impl IntoIterator<Item = Step<'a>>, isolated: Option<CauseId>) -> Block {
    let mut steps = steps.into_iter().peekable();
    let mut open = Keys::all();
    let mut out: Vec<Breakpoint> = Vec::new();
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        let mut passed = Vec::new();
        while let Some(step) = steps.next_if(|step| step.tier == tier) {
            for range in step.ranges.iter() {
                open.take(*range, |(key, last)| match step.action {
                    Action::Pass => passed.push((key, last)),
                    Action::Accept => out.push(Breakpoint { key, allow: true, cause: step.cause }),
                    Action::Deny => out.push(Breakpoint { key, allow: false, cause: step.cause }),
                });
            }
        }
        open.give(passed);
        if let (Tier::NetworkPolicy, Some(cause)) = (tier, isolated) {
            open.take((0, LAST), |(key, _)| out.push(Breakpoint { key, allow: false, cause }));
        }
    }
    open.take((0, LAST), |(key, _)| out.push(Breakpoint { key, allow: true, cause: CauseId::DEFAULT }));
    out.sort_unstable_by_key(|point| point.key);
    Block::from_sorted(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: CauseId = CauseId(100);
    const PASS: CauseId = CauseId(101);
    const DENY: CauseId = CauseId(102);
    const ISOLATED: CauseId = CauseId(103);

    #[test]
    fn earlier_rules_win_and_pass_leaves_only_its_tier() {
        let step =
            |tier, action, cause, ranges: &[_]| Step { tier, action, cause, ranges: Cow::Owned(ranges.to_vec()) };
        let block = flatten(
            [
                step(Tier::Admin, Action::Pass, PASS, &[(10, 20)]),
                step(Tier::Admin, Action::Deny, DENY, &[(15, 30), (5, 8)]),
                step(Tier::NetworkPolicy, Action::Accept, ACCEPT, &[(0, 12)]),
            ],
            Some(ISOLATED),
        );
        let expected = [(0, ACCEPT), (5, DENY), (9, ACCEPT), (13, ISOLATED), (21, DENY), (31, ISOLATED)];
        let found: Vec<_> = block.breakpoints().iter().map(|point| (point.key, point.cause)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn without_rules_everything_is_accepted_by_default() {
        assert_eq!(flatten([], None), Block::constant(true, CauseId::DEFAULT));
        assert_eq!(flatten([], Some(ISOLATED)), Block::constant(false, ISOLATED));
    }
}
