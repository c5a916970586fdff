//! The way from what the kernel holds to any other plan, on which every pod is on one whole policy at every instant.
//!
//! A planner's own changes are made so that they can be written one by one. Two plans that have nothing to do with
//! each other, such as before and after a time without an agent, are not: when an address moves from its old class
//! to its new one, an endpoint's old rules know nothing of the new class, nor the new rules of the old class. Such
//! addresses go by way of a class of passage, about which old rules say what they said about the old class, and new
//! rules what they say about the new one. Endpoints change their rules in between.

use std::cmp::Reverse;
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
    if old_rulesets.is_empty() {
        // Nobody looks at classes yet: they can all be made new before anybody does.
        let stepwise = (!direct.delete_peers.is_empty()).then(|| peers_first(direct.clone()));
        return Transition { direct, stepwise };
    }
    let passages = passages(state, plan, &direct);
    let stepwise = (!passages.peers.is_empty()).then(|| steps(state, plan, direct.clone(), passages, &old_rulesets));
    Transition { direct, stepwise }
}

fn peers_first(direct: Delta) -> [Delta; 2] {
    let peers = Delta { put_peers: direct.put_peers, delete_peers: direct.delete_peers, ..Delta::default() };
    [peers, Delta { put_peers: Vec::new(), delete_peers: Vec::new(), ..direct }]
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
    for ((old, new), class) in passages.classes {
        for ruleset in old_rulesets {
            if !new_rulesets.contains(ruleset) {
                put(&mut there, &mut on, *ruleset, class, look_up(&state.entries, *ruleset, old));
            }
        }
        for ruleset in &new_rulesets {
            put(&mut there, &mut on, *ruleset, class, look_up(&plan.entries, *ruleset, new));
        }
    }
    there.put_peers.extend(passages.peers);
    // What is new without moving anything has to be there before what is around it moves; and so the inner before the
    // outer throughout.
    let moving: HashSet<_> = there.put_peers.iter().map(|(net, _)| *net).collect();
    there.put_peers.extend(on.put_peers.iter().filter(|(net, _)| !moving.contains(net)));
    there.put_peers.sort_by_key(|(net, _)| Reverse(net.prefix_len()));
    [there, on.sorted()]
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

/// Classes of passage, and what is in them on the way.
#[derive(Default)]
struct Passages {
    /// By the class before and after, each the same whether a connection was open before or not.
    classes: HashMap<(PeerClass, PeerClass), ClassId>,
    peers: Vec<(IpNet, PeerClass)>,
}

/// Which prefixes move from one class to another, and the class of passage of each such move.
fn passages(state: &State, plan: &Plan, direct: &Delta) -> Passages {
    let mut free = free_classes(state, plan);
    let mut passages = Passages::default();
    let moving = direct.put_peers.iter().map(|(net, _)| net).chain(&direct.delete_peers);
    for net in moving {
        let old = covering(*net, |net| state.peers.get(&net));
        let new = covering(*net, |net| plan.peers.get(&net));
        if old == new {
            continue;
        }
        let [class, established] = [false, true].map(|established| {
            let move_of = [old, new].map(|peer| PeerClass::plain(peer.of(established), peer.fallback));
            *passages.classes.entry(move_of.into()).or_insert_with(|| free.next().unwrap_or_default())
        });
        // What neither plan decides is denied on the way, too.
        passages.peers.push((*net, PeerClass { class, fallback: ClassId::CONFLICT, established }));
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
    let of_peers =
        state.peers.values().chain(plan.peers.values()).flat_map(|peer| [peer.class, peer.fallback, peer.established]);
    let of_entries = state.entries.keys().chain(plan.entries.keys()).map(|key| key.class);
    let taken: HashSet<_> = of_peers.chain(of_entries).collect();
    (0..u64::MAX).rev().map(ClassId).filter(move |class| !taken.contains(class))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ringfence_engine::generate::{Rng, Settings};
    use ringfence_engine::{Breakpoint, Planner, Scope, port_key};
    use ringfence_model::{Protocol, World};

    use super::*;
    use crate::slices::Slices;
    use crate::state::{Rulesets, is_address};

    fn plan_of(world: &World) -> Plan {
        let mut planner = Planner::new(Scope::Node("node0".into()));
        world.objects().for_each(|object| planner.apply(object));
        planner.commit();
        planner.plan()
    }

    fn state_of(plan: &Plan) -> State {
        State {
            endpoints: plan.endpoints.iter().map(|(address, endpoint)| (*address, Rulesets::from(endpoint))).collect(),
            peers: plan.peers.iter().map(|(net, class)| (*net, *class)).collect(),
            entries: plan.entries.clone(),
            causes: plan.causes.keys().copied().collect(),
            gates: plan.gates.clone(),
            slices: Slices::new(0),
            ..State::default()
        }
    }

    /// One write after the other, in the order of the applier.
    fn writes(delta: &Delta) -> Vec<Delta> {
        let mut writes = Vec::new();
        let mut write = |one: &dyn Fn(&mut Delta)| {
            let mut delta = Delta::default();
            one(&mut delta);
            writes.push(delta);
        };
        write(&|d| d.put_entries.clone_from(&delta.put_entries));
        let (addresses, ranges): (Vec<_>, Vec<_>) = delta.put_peers.iter().partition(|(net, _)| is_address(*net));
        for peer in addresses.into_iter().chain(ranges) {
            write(&|d| d.put_peers.push(peer));
        }
        for endpoint in &delta.put_endpoints {
            write(&|d| d.put_endpoints.push(endpoint.clone()));
        }
        write(&|d| d.delete_endpoints.clone_from(&delta.delete_endpoints));
        for net in &delta.delete_peers {
            write(&|d| d.delete_peers.push(*net));
        }
        write(&|d| d.delete_entries.clone_from(&delta.delete_entries));
        writes
    }

    type Said = Option<(bool, ringfence_engine::CauseId)>;

    fn ask(plan: &Plan, own: IpAddr, peer: IpAddr, [ingress, established]: [bool; 2], key: u32) -> Said {
        let Some(endpoint) = plan.endpoints.get(&own) else { return Some((true, ringfence_engine::CauseId::DEFAULT)) };
        let ruleset = if ingress { endpoint.ingress } else { endpoint.egress };
        if ruleset == RulesetId::NONE {
            return Some((true, ringfence_engine::CauseId::DEFAULT));
        }
        let peer = covering(peer.into(), |net| plan.peers.get(&net));
        let block = look_up(&plan.entries, ruleset, PeerClass::plain(peer.of(established), peer.fallback));
        block.map(|block| block.at(key)).map(|Breakpoint { allow, cause, .. }| (allow, cause))
    }

    #[test]
    fn between_any_two_plans_every_verdict_is_one_of_theirs() {
        let settings = Settings { policies: 6, pods: 10, ..Settings::default() };
        let keys = [port_key(Protocol::TCP, 80), port_key(Protocol::UDP, 81), port_key(Protocol::ICMP, 0)];
        let mut stepwise = 0;
        for seed in 0..60 {
            let mut rng = Rng::new(seed);
            let (old, new) = (plan_of(&settings.world(&mut rng)), plan_of(&settings.world(&mut rng)));
            let transition = transition(&state_of(&old), &new);
            stepwise += usize::from(transition.stepwise.is_some());
            let deltas = transition.stepwise.map_or_else(|| vec![transition.direct], Vec::from);
            let nets = old.peers.keys().chain(new.peers.keys());
            let stranger = IpAddr::from([192, 0, 2, 1]);
            let peers: Vec<IpAddr> = nets.flat_map(|net| [net.network(), net.broadcast()]).chain([stranger]).collect();
            let owns: Vec<IpAddr> =
                old.endpoints.keys().chain(new.endpoints.keys()).copied().chain([stranger]).collect();
            let mut plan = old.clone();
            for write in deltas.iter().flat_map(writes) {
                plan.apply(&write);
                for _ in 0..30 {
                    let own = *rng.pick(&owns);
                    let (peer, key) = (*rng.pick(&peers), *rng.pick(&keys));
                    let of = [rng.percent(50), rng.percent(50)];
                    let said = ask(&plan, own, peer, of, key);
                    let (before, after) = (ask(&old, own, peer, of, key), ask(&new, own, peer, of, key));
                    assert!(said == before || said == after, "seed {seed}: {own} about {peer}: {said:?}");
                }
            }
            for gates in deltas.iter().filter_map(|delta| delta.gates.clone()) {
                plan.gates = gates;
            }
            assert_eq!((&plan.peers, &plan.entries), (&new.peers, &new.entries), "seed {seed}");
            assert_eq!(plan.gates, new.gates, "seed {seed}");
            assert_eq!(state_of(&plan).endpoints, state_of(&new).endpoints, "seed {seed}");
        }
        assert!(stepwise > 30, "only {stepwise} went by classes of passage");
    }
}
