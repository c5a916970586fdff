//! Counters of rules and of default deny, which never go back.
//!
//! The kernel counts by cause, and a cause goes with the policies that it names, while the rule it stands for goes on
//! under another cause. So what causes that went had counted is kept, for as long as anything decides under that name.

use std::collections::{BTreeMap, HashMap};

use ringfence_engine::RuleId;

use crate::enforcer::Count;
use crate::metrics::Decider;

/// The counters as they were read last.
#[derive(Debug, Default)]
pub(super) struct RuleCounters {
    /// The kernel's.
    read: HashMap<RuleId, Count>,
    /// By what people call it.
    totals: BTreeMap<Decider, Count>,
}

impl RuleCounters {
    /// Takes in the kernel's counters, given the decider of each cause in force. The totals since the maps were made,
    /// as far as they were read.
    pub(super) fn update(
        &mut self,
        counters: BTreeMap<RuleId, Count>,
        deciders: &HashMap<RuleId, Decider>,
    ) -> &BTreeMap<Decider, Count> {
        for (cause, count) in &counters {
            let Some(decider) = deciders.get(cause) else { continue };
            let before = self.read.get(cause).copied().unwrap_or_default();
            let total = self.totals.entry(decider.clone()).or_default();
            total.accepted += risen(before.accepted, count.accepted);
            total.dropped += risen(before.dropped, count.dropped);
        }
        // A cause without a decider yet has its counts taken in once it has one.
        self.read = counters.into_iter().filter(|(cause, _)| deciders.contains_key(cause)).collect();
        let in_force: std::collections::BTreeSet<&Decider> = deciders.values().collect();
        self.totals.retain(|decider, _| in_force.contains(decider));
        &self.totals
    }
}

/// By how much a counter rose that begins anew at zero when its cause comes back.
fn risen(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use ringfence_model::Direction;

    use super::*;

    fn deny(namespace: &str) -> Decider {
        Decider::DefaultDeny { namespace: namespace.into(), direction: Direction::Ingress }
    }

    fn read(counters: &mut RuleCounters, counts: &[(u64, u64)], deciders: &[(u64, &str)]) -> BTreeMap<Decider, u64> {
        let counts = counts.iter().map(|(cause, dropped)| (RuleId(*cause), Count { accepted: 0, dropped: *dropped }));
        let deciders = deciders.iter().map(|(cause, namespace)| (RuleId(*cause), deny(namespace))).collect();
        let totals = counters.update(counts.collect(), &deciders);
        totals.iter().map(|(decider, count)| (decider.clone(), count.dropped)).collect()
    }

    #[test]
    fn a_total_goes_on_while_causes_come_and_go() {
        let mut counters = RuleCounters::default();
        let total = |dropped| BTreeMap::from([(deny("a"), dropped)]);
        assert_eq!(read(&mut counters, &[(1, 10), (2, 5)], &[(1, "a"), (2, "a")]), total(15));
        assert_eq!(read(&mut counters, &[(1, 12), (2, 5)], &[(1, "a"), (2, "a")]), total(17));
        assert_eq!(read(&mut counters, &[(2, 6), (3, 1)], &[(2, "a"), (3, "a")]), total(19), "one goes, one comes");
        assert_eq!(read(&mut counters, &[(1, 2), (2, 6), (3, 1)], &[(1, "a"), (2, "a"), (3, "a")]), total(21));
        assert_eq!(read(&mut counters, &[(2, 9)], &[]), BTreeMap::new(), "nothing decides under that name");
    }
}
