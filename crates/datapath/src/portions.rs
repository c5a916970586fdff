//! A change in portions, for where what is new does not fit beside all that is old.
//!
//! Endpoints change their rules a few at a time, and what was old for them goes before the next. Each portion is a
//! change by itself, on which every pod is on one whole policy at every instant, as on the whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_engine::{Block, Delta, EntryKey, RulesetId};

use crate::state::{Rulesets, State};

/// New entries of one ruleset.
type Entries = Vec<(EntryKey, Arc<Block>)>;

/// The same change in portions, each with at most so many new breakpoints where a single ruleset has no more. None if
/// there is nothing to divide.
pub(crate) fn portions(state: &State, delta: &Delta, points: usize) -> Option<Vec<Delta>> {
    let held: HashSet<RulesetId> = state.entries.keys().map(|key| key.ruleset).collect();
    let (of_held, of_new): (Entries, Entries) =
        delta.put_entries.iter().cloned().partition(|(key, _)| held.contains(&key.ruleset));
    let mut new: BTreeMap<RulesetId, Entries> = BTreeMap::new();
    for (key, block) in of_new {
        new.entry(key.ruleset).or_default().push((key, block));
    }
    if new.len() < 2 {
        return None;
    }
    let mut portions = vec![Delta {
        put_causes: delta.put_causes.clone(),
        put_entries: of_held,
        put_peers: delta.put_peers.clone(),
        gates: delta.gates.clone(),
        ..Delta::default()
    }];
    // The smallest first: they find room, and who waits for them is many.
    let mut sized: Vec<_> = new.into_iter().map(|(ruleset, entries)| (size(&entries), ruleset, entries)).collect();
    sized.sort_unstable_by_key(|(size, ruleset, _)| (*size, *ruleset));
    let mut missing: BTreeSet<RulesetId> = sized.iter().map(|(_, ruleset, _)| *ruleset).collect();
    let mut rest = Rest::new(state, delta);
    let mut portion = Vec::new();
    let mut left = points;
    for (size, ruleset, entries) in sized {
        if size > left && !portion.is_empty() {
            portions.push(rest.flip(std::mem::take(&mut portion), &missing));
            left = points;
        }
        left = left.saturating_sub(size);
        missing.remove(&ruleset);
        portion.extend(entries);
    }
    portions.push(rest.flip(portion, &missing));
    portions.push(rest.last(delta));
    Some(portions)
}

fn size(entries: &Entries) -> usize {
    let blocks: HashSet<_> = entries.iter().map(|(_, block)| block).collect();
    blocks.into_iter().map(|block| block.breakpoints().len()).sum()
}

/// What is not carried out yet.
struct Rest {
    /// The rules of each endpoint, as far as it is.
    rules: BTreeMap<IpAddr, Rulesets>,
    endpoints: Vec<(IpAddr, ringfence_engine::Endpoint)>,
    entries: Vec<EntryKey>,
}

impl Rest {
    fn new(state: &State, delta: &Delta) -> Self {
        Self {
            rules: state.endpoints.clone(),
            endpoints: delta.put_endpoints.clone(),
            entries: delta.delete_entries.clone(),
        }
    }

    /// Flips the endpoints whose rules are all there with these entries, and removes rules that nobody has any more.
    fn flip(&mut self, put_entries: Entries, missing: &BTreeSet<RulesetId>) -> Delta {
        let endpoints = std::mem::take(&mut self.endpoints);
        let (ready, waiting): (Vec<_>, Vec<_>) = endpoints
            .into_iter()
            .partition(|(_, endpoint)| !missing.contains(&endpoint.ingress) && !missing.contains(&endpoint.egress));
        self.endpoints = waiting;
        self.rules.extend(ready.iter().map(|(address, endpoint)| (*address, Rulesets::from(endpoint))));
        let new: HashSet<RulesetId> = self.endpoints.iter().flat_map(|(_, e)| [e.ingress, e.egress]).collect();
        let used: HashSet<RulesetId> = self.rules.values().flat_map(|rules| [rules.ingress, rules.egress]).collect();
        let (keep, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|key| used.contains(&key.ruleset) || new.contains(&key.ruleset));
        self.entries = keep;
        Delta { put_entries, put_endpoints: ready, delete_entries: gone, ..Delta::default() }
    }

    fn last(self, delta: &Delta) -> Delta {
        Delta {
            put_endpoints: self.endpoints,
            delete_endpoints: delta.delete_endpoints.clone(),
            delete_peers: delta.delete_peers.clone(),
            delete_entries: self.entries,
            delete_causes: delta.delete_causes.clone(),
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
            peers: plan.peers.iter().map(|(net, class)| (*net, *class)).collect(),
            entries: plan.entries.clone(),
            ..State::default()
        }
    }

    /// Each portion in the order of the applier: what is new, peers, endpoints, what goes.
    fn writes(delta: &Delta) -> [Delta; 4] {
        let Delta { put_causes, put_entries, put_peers, gates, .. } = delta.clone();
        let Delta { put_endpoints, delete_endpoints, delete_peers, delete_entries, delete_causes, .. } = delta.clone();
        [
            Delta { put_causes, put_entries, ..Delta::default() },
            Delta { put_peers, gates, ..Delta::default() },
            Delta { put_endpoints, delete_endpoints, delete_peers, ..Delta::default() },
            Delta { delete_entries, delete_causes, ..Delta::default() },
        ]
    }

    #[test]
    fn portions_add_up_to_the_change_and_every_pod_is_on_one_whole_policy() {
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
                    let Some(portions) = portions(&state_of(&plan), delta, rng.below(20)) else {
                        plan = whole;
                        continue;
                    };
                    divided += usize::from(portions.len() > 3);
                    for write in portions.iter().flat_map(writes) {
                        plan.apply(&write);
                        for connection in &asked {
                            for direction in [Direction::Ingress, Direction::Egress] {
                                let say = |plan: &Plan| plan.judge(connection, direction);
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
