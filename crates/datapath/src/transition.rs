//! The way from what the kernel holds to any other plan, on which every pod is on one whole policy at every instant.
//!
//! A planner's own changes are made so that they can be written one by one. Two plans that have nothing to do with
//! each other, such as before and after a time without an agent, are not: when an address moves from its old class
//! to its new one, an endpoint's old rules know nothing of the new class, nor the new rules of the old class. Such
//! addresses go by way of a class of passage, about which old rules say what they said about the old class, and new
//! rules what they say about the new one. Endpoints change their rules in between.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_engine::{Block, ClassId, Delta, EntryKey, PeerClass, Plan, RulesetId};

use crate::state::State;

/// From what the kernel holds to a plan.
pub(crate) struct Transition {
    /// All of it at once.
    pub(crate) direct: Delta,
    /// In two steps, if addresses have to go by way of classes of passage. Takes more room on the way.
    pub(crate) stepwise: Option<[Delta; 2]>,
}

pub(crate) fn transition(state: &State, plan: &Plan) -> Transition {
    let direct = state.difference(plan);
    let old_rulesets: BTreeSet<_> =
        state.endpoints.values().flat_map(|r| [r.ingress, r.egress]).filter(|r| *r != RulesetId::NONE).collect();
    let passages = if old_rulesets.is_empty() { HashMap::new() } else { passages(state, plan, &direct) };
    let stepwise = (!passages.is_empty()).then(|| steps(state, plan, direct.clone(), passages, &old_rulesets));
    Transition { direct, stepwise }
}

fn steps(
    state: &State,
    plan: &Plan,
    direct: Delta,
    passages: Passages,
    old_rulesets: &BTreeSet<RulesetId>,
) -> [Delta; 2] {
    let new_rulesets: BTreeSet<_> = plan.endpoints.values().flat_map(|e| [e.ingress, e.egress]).collect();
    let mut there = Delta {
        put_causes: direct.put_causes,
        put_entries: direct.put_entries,
        put_endpoints: direct.put_endpoints,
        delete_endpoints: direct.delete_endpoints,
        ..Delta::default()
    };
    let mut on = Delta {
        put_peers: direct.put_peers,
        gates: direct.gates,
        delete_peers: direct.delete_peers,
        delete_entries: direct.delete_entries,
        delete_causes: direct.delete_causes,
        ..Delta::default()
    };
    for ((old, new), (class, nets)) in passages {
        for ruleset in old_rulesets {
            if !new_rulesets.contains(ruleset) {
                put(&mut there, &mut on, *ruleset, class, look_up(&state.entries, *ruleset, old));
            }
        }
        for ruleset in &new_rulesets {
            put(&mut there, &mut on, *ruleset, class, look_up(&plan.entries, *ruleset, new));
        }
        there.put_peers.extend(nets.into_iter().map(|net| (net, PeerClass { class, fallback: class })));
    }
    [there, on]
}

fn put(there: &mut Delta, on: &mut Delta, ruleset: RulesetId, class: ClassId, block: Option<&Arc<Block>>) {
    let Some(block) = block else { return };
    let key = EntryKey { ruleset, class };
    there.put_entries.push((key, Arc::clone(block)));
    on.delete_entries.push(key);
}

fn look_up(entries: &HashMap<EntryKey, Arc<Block>>, ruleset: RulesetId, class: PeerClass) -> Option<&Arc<Block>> {
    let entry = |class| entries.get(&EntryKey { ruleset, class });
    entry(class.class).or_else(|| entry(class.fallback))
}

type Passages = HashMap<(PeerClass, PeerClass), (ClassId, Vec<IpNet>)>;

/// Which prefixes move from one class to another, and the class of passage of each such move.
fn passages(state: &State, plan: &Plan, direct: &Delta) -> Passages {
    let mut free = free_classes(state, plan);
    let mut passages = Passages::new();
    let moving = direct.put_peers.iter().map(|(net, _)| net).chain(&direct.delete_peers);
    for net in moving {
        let old = covering(*net, |net| state.peers.get(&net));
        let new = covering(*net, |net| plan.peers.get(&net));
        if old == new {
            continue;
        }
        let passage = passages.entry((old, new));
        passage.or_insert_with(|| (free.next().unwrap_or_default(), Vec::new())).1.push(*net);
    }
    passages
}

/// The class of a prefix: its own, else that of the longest one around it.
fn covering<'a>(net: IpNet, class: impl Fn(IpNet) -> Option<&'a PeerClass>) -> PeerClass {
    (0..=net.prefix_len())
        .rev()
        .filter_map(|length| IpNet::new(net.addr(), length).ok())
        .find_map(|net| class(net.trunc()).copied())
        .unwrap_or(PeerClass::UNKNOWN)
}

/// Classes nobody uses, from the far end of hashes.
fn free_classes(state: &State, plan: &Plan) -> impl Iterator<Item = ClassId> {
    let of_peers = state.peers.values().chain(plan.peers.values()).flat_map(|peer| [peer.class, peer.fallback]);
    let of_entries = state.entries.keys().chain(plan.entries.keys()).map(|key| key.class);
    let taken: HashSet<_> = of_peers.chain(of_entries).collect();
    (0..u64::MAX).rev().map(ClassId).filter(move |class| !taken.contains(class))
}
