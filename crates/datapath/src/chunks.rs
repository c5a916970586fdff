//! A change in chunks, for the case that new and old entries do not fit side by side.
//!
//! A few endpoints change their rulesets at a time, and their old entries are removed before the next ones follow. Each
//! chunk is a change of its own: at every instant every pod has one whole policy.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_engine::{Delta, PolicyKey, PortTable, RulesetId};

use crate::state::{Rulesets, State};

/// New entries of one ruleset.
type Entries = Vec<(PolicyKey, Arc<PortTable>)>;

/// Splits a change into chunks. A chunk has at most `ranges` new port ranges, or one single ruleset that has more.
/// Returns none if there is nothing to split.
pub(crate) fn chunks(state: &State, delta: &Delta, ranges: usize) -> Option<Vec<Delta>> {
    let held: HashSet<RulesetId> = state.policy.keys().map(|key| key.ruleset).collect();
    let (of_held, of_new): (Entries, Entries) =
        delta.put_policy.iter().cloned().partition(|(key, _)| held.contains(&key.ruleset));
    let mut new: BTreeMap<RulesetId, Entries> = BTreeMap::new();
    for (key, table) in of_new {
        new.entry(key.ruleset).or_default().push((key, table));
    }
    if new.len() < 2 {
        return None;
    }
    let mut chunks = vec![Delta {
        put_rules: delta.put_rules.clone(),
        put_policy: of_held,
        put_ipcache: delta.put_ipcache.clone(),
        closed_cidrs: delta.closed_cidrs.clone(),
        ..Delta::default()
    }];
    // The smallest rulesets come first: they fit most easily, and many endpoints can change early.
    let mut sized: Vec<_> = new.into_iter().map(|(ruleset, entries)| (size(&entries), ruleset, entries)).collect();
    sized.sort_unstable_by_key(|(size, ruleset, _)| (*size, *ruleset));
    let mut missing: BTreeSet<RulesetId> = sized.iter().map(|(_, ruleset, _)| *ruleset).collect();
    let mut rest = Rest::new(state, delta);
    let mut chunk = Vec::new();
    let mut left = ranges;
    for (size, ruleset, entries) in sized {
        if size > left && !chunk.is_empty() {
            chunks.push(rest.flip_ready_endpoints(std::mem::take(&mut chunk), &missing));
            left = ranges;
        }
        left = left.saturating_sub(size);
        missing.remove(&ruleset);
        chunk.extend(entries);
    }
    chunks.push(rest.flip_ready_endpoints(chunk, &missing));
    chunks.push(rest.last(delta));
    Some(chunks)
}

fn size(entries: &Entries) -> usize {
    let tables: HashSet<_> = entries.iter().map(|(_, table)| table).collect();
    tables.into_iter().map(|table| table.ranges().len()).sum()
}

/// The part of a change that has not been emitted yet.
struct Rest {
    /// Rulesets of each endpoint after the chunks emitted so far.
    rules: BTreeMap<IpAddr, Rulesets>,
    endpoints: Vec<(IpAddr, ringfence_engine::Endpoint)>,
    policy: Vec<PolicyKey>,
}

impl Rest {
    fn new(state: &State, delta: &Delta) -> Self {
        Self {
            rules: state.endpoints.clone(),
            endpoints: delta.put_endpoints.clone(),
            policy: delta.delete_policy.clone(),
        }
    }

    /// Emits new entries, the endpoints whose rulesets are now complete, and the removal of rulesets without endpoints.
    fn flip_ready_endpoints(&mut self, put_policy: Entries, missing: &BTreeSet<RulesetId>) -> Delta {
        let endpoints = std::mem::take(&mut self.endpoints);
        let (ready, not_ready): (Vec<_>, Vec<_>) = endpoints
            .into_iter()
            .partition(|(_, endpoint)| !missing.contains(&endpoint.ingress) && !missing.contains(&endpoint.egress));
        self.endpoints = not_ready;
        self.rules.extend(ready.iter().map(|(address, endpoint)| (*address, Rulesets::from(endpoint))));
        let new: HashSet<RulesetId> = self.endpoints.iter().flat_map(|(_, e)| [e.ingress, e.egress]).collect();
        let used: HashSet<RulesetId> = self.rules.values().flat_map(|rules| [rules.ingress, rules.egress]).collect();
        let (keep, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.policy)
            .into_iter()
            .partition(|key| used.contains(&key.ruleset) || new.contains(&key.ruleset));
        self.policy = keep;
        Delta { put_policy, put_endpoints: ready, delete_policy: gone, ..Delta::default() }
    }

    fn last(self, delta: &Delta) -> Delta {
        Delta {
            put_endpoints: self.endpoints,
            delete_endpoints: delta.delete_endpoints.clone(),
            delete_ipcache: delta.delete_ipcache.clone(),
            delete_policy: self.policy,
            delete_rules: delta.delete_rules.clone(),
            ..Delta::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfence_engine::generate::{Event, Rng, Settings};
    use ringfence_engine::{Plan, Planner, Scope};
    use ringfence_model::{Direction, Object};

    use super::*;

    fn state_of(plan: &Plan) -> State {
        State {
            endpoints: plan.endpoints.iter().map(|(address, endpoint)| (*address, Rulesets::from(endpoint))).collect(),
            ipcache: plan.ipcache.iter().map(|(net, peer_set)| (*net, *peer_set)).collect(),
            policy: plan.policy.clone(),
            ..State::default()
        }
    }

    /// The writes of a chunk in the order of the applier: new entries, peers, endpoints, removals.
    fn writes(delta: &Delta) -> [Delta; 4] {
        let Delta { put_rules, put_policy, put_ipcache, closed_cidrs, .. } = delta.clone();
        let Delta { put_endpoints, delete_endpoints, delete_ipcache, delete_policy, delete_rules, .. } = delta.clone();
        [
            Delta { put_rules, put_policy, ..Delta::default() },
            Delta { put_ipcache, closed_cidrs, ..Delta::default() },
            Delta { put_endpoints, delete_endpoints, delete_ipcache, ..Delta::default() },
            Delta { delete_policy, delete_rules, ..Delta::default() },
        ]
    }

    #[test]
    fn chunks_add_up_to_the_change_and_every_pod_is_on_one_whole_policy() {
        let settings = Settings { pods: 12, policies: 10, ..Settings::default() };
        let (mut divided, mut flips) = (0, 0);
        for seed in 0..60 {
            let rng = &mut Rng::new(seed);
            let mut world = settings.world(rng);
            let mut planner = Planner::new(Scope::Cluster);
            planner.reset(world.objects());
            planner.commit();
            for _ in 0..4 {
                let (before, mut plan) = (planner.plan(), planner.plan());
                for _ in 0..4 {
                    let policy = |event: &Event| matches!(event, Event::Apply(Object::Policy(_)));
                    let Some(event) = (0..100).map(|_| settings.event(rng, &world)).find(policy) else { continue };
                    event.happen(&mut world);
                    if let Event::Apply(object) = event {
                        planner.apply(object);
                    }
                }
                let asked: Vec<_> = (0..40).map(|_| settings.connection(rng, &world)).collect();
                let deltas = planner.commit();
                let after = planner.plan();
                for delta in &deltas {
                    let mut whole = plan.clone();
                    whole.apply(delta);
                    let Some(chunks) = chunks(&state_of(&plan), delta, rng.below(20)) else {
                        plan = whole;
                        continue;
                    };
                    divided += usize::from(chunks.len() > 3);
                    for write in chunks.iter().flat_map(writes) {
                        plan.apply(&write);
                        for connection in &asked {
                            for direction in [Direction::Ingress, Direction::Egress] {
                                let say = |plan: &Plan| plan.evaluate_direction(connection, direction);
                                let (old, now, new) = (say(&before), say(&plan), say(&after));
                                assert!(now == old || now == new, "seed {seed}: {connection:?}: {now:?}");
                                flips += usize::from(old != new && now == new);
                            }
                        }
                    }
                    assert_eq!(plan, whole, "seed {seed}");
                }
            }
        }
        assert!(divided > 30 && flips > 1000, "{divided} were divided, {flips} flips were seen");
    }
}
