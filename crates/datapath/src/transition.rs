//! Steps from the content of the kernel to any plan, in which every pod has one whole policy at every instant.
//!
//! The deltas of one planner can be written one by one. Two unrelated plans cannot, such as before and after a time
//! without an agent: when an address moves to its new peer set, an endpoint's old ruleset has no entry for the new peer
//! set, and a new ruleset has none for the old one. Such addresses pass through a transitional peer set. Old rulesets
//! decide about it as about the old peer set, and new rulesets as about the new one. Endpoints change their rulesets in
//! between. If there is no room for transitional entries, these addresses are denied on the way.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_engine::{Delta, IpcacheEntry, PeerSetId, Plan, PolicyKey, PortTable, RulesetId};

use crate::state::State;

/// The steps from the content of the kernel to a plan. Each step can be applied in chunks.
pub(crate) struct Transition {
    /// The steps with transitional peer sets, if addresses need them.
    pub(crate) smooth: Vec<Delta>,
    /// The steps without room for transitional entries: addresses that move are denied on the way. None if no address
    /// moves.
    pub(crate) denying: Option<Vec<Delta>>,
}

pub(crate) fn transition(state: &State, plan: &Plan) -> Transition {
    let direct = state.difference(plan);
    let old_rulesets: BTreeSet<_> =
        state.endpoints.values().flat_map(|r| [r.ingress, r.egress]).filter(|r| *r != RulesetId::NONE).collect();
    if old_rulesets.is_empty() {
        // No ruleset is in use yet, so all peer sets can be written before any packet needs them.
        let smooth = if direct.delete_ipcache.is_empty() { vec![direct] } else { peers_first(direct).into() };
        return Transition { smooth, denying: None };
    }
    let transitional = transitional(state, plan, &direct);
    if transitional.ipcache.is_empty() {
        return Transition { smooth: vec![direct], denying: None };
    }
    let denied = Transitional {
        peer_sets: HashMap::new(),
        ipcache: transitional.ipcache.iter().map(|(net, _)| (*net, DENIED)).collect(),
    };
    let denying = steps(state, plan, direct.clone(), denied, &old_rulesets);
    Transition { smooth: steps(state, plan, direct, transitional, &old_rulesets).into(), denying: Some(denying.into()) }
}

/// The peer set of addresses that are denied on the way: no ruleset has an entry for it.
const DENIED: IpcacheEntry = IpcacheEntry::plain(PeerSetId::COLLISION, PeerSetId::COLLISION);

fn peers_first(direct: Delta) -> [Delta; 2] {
    let peers = Delta { put_ipcache: direct.put_ipcache, delete_ipcache: direct.delete_ipcache, ..Delta::default() };
    [peers, Delta { put_ipcache: Vec::new(), delete_ipcache: Vec::new(), ..direct }]
}

fn steps(
    state: &State,
    plan: &Plan,
    direct: Delta,
    transitional: Transitional,
    old_rulesets: &BTreeSet<RulesetId>,
) -> [Delta; 2] {
    let new_rulesets: BTreeSet<_> = plan.endpoints.values().flat_map(|e| [e.ingress, e.egress]).collect();
    // Rulesets that go need no entries in the second step, so their removal makes room for others.
    let (gone, kept) = direct.delete_policy.into_iter().partition(|key| !new_rulesets.contains(&key.ruleset));
    let mut grow = Delta {
        put_rules: direct.put_rules,
        put_policy: direct.put_policy,
        put_endpoints: direct.put_endpoints,
        delete_endpoints: direct.delete_endpoints,
        delete_policy: gone,
        ..Delta::default()
    };
    let mut shrink = Delta {
        put_ipcache: direct.put_ipcache,
        closed_cidrs: direct.closed_cidrs,
        delete_ipcache: direct.delete_ipcache,
        delete_policy: kept,
        delete_rules: direct.delete_rules,
        ..Delta::default()
    };
    for ((old, new), peer_set) in transitional.peer_sets {
        for ruleset in old_rulesets {
            if !new_rulesets.contains(ruleset) {
                let table = look_up(&state.policy, *ruleset, old);
                put(&mut grow.put_policy, &mut grow.delete_policy, PolicyKey { ruleset: *ruleset, peer_set }, table);
            }
        }
        for ruleset in &new_rulesets {
            let table = look_up(&plan.policy, *ruleset, new);
            put(&mut grow.put_policy, &mut shrink.delete_policy, PolicyKey { ruleset: *ruleset, peer_set }, table);
        }
    }
    grow.put_ipcache.extend(transitional.ipcache);
    // A new prefix that moves no address has to be written before the prefixes around it move. So longer prefixes come
    // first throughout.
    let moving: HashSet<_> = grow.put_ipcache.iter().map(|(net, _)| *net).collect();
    grow.put_ipcache.extend(shrink.put_ipcache.iter().filter(|(net, _)| !moving.contains(net)));
    grow.put_ipcache.sort_by_key(|(net, _)| Reverse(net.prefix_len()));
    grow.delete_policy.sort_unstable();
    [grow, shrink.sorted()]
}

/// Adds an entry about a transitional peer set, and its removal.
fn put(
    puts: &mut Vec<(PolicyKey, Arc<PortTable>)>,
    deletes: &mut Vec<PolicyKey>,
    key: PolicyKey,
    table: Option<&Arc<PortTable>>,
) {
    if let Some(table) = table {
        puts.push((key, Arc::clone(table)));
        deletes.push(key);
    }
}

fn look_up(
    entries: &HashMap<PolicyKey, Arc<PortTable>>,
    ruleset: RulesetId,
    peer_set: IpcacheEntry,
) -> Option<&Arc<PortTable>> {
    let entry = |peer_set| entries.get(&PolicyKey { ruleset, peer_set });
    entry(peer_set.peer_set).or_else(|| entry(peer_set.fallback))
}

/// Transitional peer sets, and the prefixes in them.
#[derive(Default)]
struct Transitional {
    /// By the ipcache entry before and after; each is the same for new and for open connections.
    peer_sets: HashMap<(IpcacheEntry, IpcacheEntry), PeerSetId>,
    ipcache: Vec<(IpNet, IpcacheEntry)>,
}

/// Finds the prefixes that move from one peer set to another, and assigns a transitional peer set to each kind of move.
fn transitional(state: &State, plan: &Plan, direct: &Delta) -> Transitional {
    let mut free = free_peer_sets(state, plan);
    let mut transitional = Transitional::default();
    let moving = direct.put_ipcache.iter().map(|(net, _)| net).chain(&direct.delete_ipcache);
    for net in moving {
        let old = covering(*net, |net| state.ipcache.get(&net));
        let new = covering(*net, |net| plan.ipcache.get(&net));
        if old == new {
            continue;
        }
        let [peer_set, established] = [false, true].map(|established| {
            let move_of = [old, new].map(|peer| IpcacheEntry::plain(peer.of(established), peer.fallback));
            *transitional.peer_sets.entry(move_of.into()).or_insert_with(|| free.next().unwrap_or_default())
        });
        // Cases that neither plan decides are denied on the way, too.
        transitional.ipcache.push((*net, IpcacheEntry { peer_set, fallback: PeerSetId::COLLISION, established }));
    }
    transitional
}

/// The ipcache entry of a prefix: its own, else that of the longest prefix around it.
fn covering<'a>(net: IpNet, peer_set: impl Fn(IpNet) -> Option<&'a IpcacheEntry>) -> IpcacheEntry {
    (0..=net.prefix_len())
        .rev()
        .filter_map(|length| IpNet::new(net.addr(), length).ok())
        .find_map(|net| peer_set(net.trunc()).copied())
        .unwrap_or(IpcacheEntry::UNKNOWN)
}

/// Unused peer set ids, from the upper end of the hash space.
fn free_peer_sets(state: &State, plan: &Plan) -> impl Iterator<Item = PeerSetId> {
    let of_peers = state
        .ipcache
        .values()
        .chain(plan.ipcache.values())
        .flat_map(|peer| [peer.peer_set, peer.fallback, peer.established]);
    let of_entries = state.policy.keys().chain(plan.policy.keys()).map(|key| key.peer_set);
    let taken: HashSet<_> = of_peers.chain(of_entries).collect();
    (0..u64::MAX).rev().map(PeerSetId).filter(move |peer_set| !taken.contains(peer_set))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ringfence_engine::generate::{Rng, Settings};
    use ringfence_engine::{Planner, PortVerdict, Scope, port_key};
    use ringfence_model::{Protocol, World};

    use super::*;
    use crate::allocator::PortTableAllocator;
    use crate::chunks::chunks;
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
            ipcache: plan.ipcache.iter().map(|(net, peer_set)| (*net, *peer_set)).collect(),
            policy: plan.policy.clone(),
            rules: plan.rules.keys().copied().collect(),
            closed_cidrs: plan.closed_cidrs.clone(),
            allocator: PortTableAllocator::new(0),
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
        write(&|d| d.put_policy.clone_from(&delta.put_policy));
        let (addresses, ranges): (Vec<_>, Vec<_>) = delta.put_ipcache.iter().partition(|(net, _)| is_address(*net));
        for peer in addresses.into_iter().chain(ranges) {
            write(&|d| d.put_ipcache.push(peer));
        }
        for endpoint in &delta.put_endpoints {
            write(&|d| d.put_endpoints.push(endpoint.clone()));
        }
        write(&|d| d.delete_endpoints.clone_from(&delta.delete_endpoints));
        for net in &delta.delete_ipcache {
            write(&|d| d.delete_ipcache.push(*net));
        }
        write(&|d| d.delete_policy.clone_from(&delta.delete_policy));
        writes
    }

    type Decision = Option<(bool, ringfence_engine::RuleId)>;

    fn ask(plan: &Plan, own: IpAddr, peer: IpAddr, [ingress, established]: [bool; 2], key: u32) -> Decision {
        let Some(endpoint) = plan.endpoints.get(&own) else { return Some((true, ringfence_engine::RuleId::DEFAULT)) };
        let ruleset = if ingress { endpoint.ingress } else { endpoint.egress };
        if ruleset == RulesetId::NONE {
            return Some((true, ringfence_engine::RuleId::DEFAULT));
        }
        let peer = covering(peer.into(), |net| plan.ipcache.get(&net));
        let table = look_up(&plan.policy, ruleset, IpcacheEntry::plain(peer.of(established), peer.fallback));
        table.map(|table| table.at(key)).map(|PortVerdict { allow, rule_id, .. }| (allow, rule_id))
    }

    /// The way in which a step is applied.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum How {
        AtOnce,
        InChunks,
    }

    /// Returns the deltas in which the applier carries out steps, beginning at a plan.
    fn carried_out(plan: &Plan, steps: &[Delta], how: How, rng: &mut Rng) -> Vec<Delta> {
        let mut plan = plan.clone();
        let mut deltas = Vec::new();
        for step in steps {
            let state = state_of(&plan);
            let divided = (how == How::InChunks).then(|| chunks(&state, step, rng.below(12))).flatten();
            deltas.extend(divided.unwrap_or_else(|| vec![step.clone()]));
            plan.apply(step);
        }
        deltas
    }

    /// The addresses that are probed about two plans: pods and peers.
    fn ends(old: &Plan, new: &Plan) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let nets = old.ipcache.keys().chain(new.ipcache.keys());
        let stranger = IpAddr::from([192, 0, 2, 1]);
        let peers = nets.flat_map(|net| [net.network(), net.broadcast()]).chain([stranger]).collect();
        (old.endpoints.keys().chain(new.endpoints.keys()).copied().chain([stranger]).collect(), peers)
    }

    fn keys() -> [u32; 3] {
        [port_key(Protocol::TCP, 80), port_key(Protocol::UDP, 81), port_key(Protocol::ICMP, 0)]
    }

    #[test]
    fn between_any_two_plans_every_verdict_is_one_of_theirs() {
        let settings = Settings { policies: 6, pods: 10, ..Settings::default() };
        let (mut stepwise, mut divided, mut denied) = (0, 0, 0);
        for seed in 0..60 {
            let mut rng = Rng::new(seed);
            let (old, new) = (plan_of(&settings.world(&mut rng)), plan_of(&settings.world(&mut rng)));
            let Transition { smooth, denying } = transition(&state_of(&old), &new);
            stepwise += usize::from(denying.is_some());
            let ways =
                [(Some(&smooth), How::AtOnce), (Some(&smooth), How::InChunks), (denying.as_ref(), How::InChunks)];
            for (number, (steps, how)) in ways.into_iter().enumerate() {
                let Some(steps) = steps else { continue };
                let deltas = carried_out(&old, steps, how, &mut rng);
                divided += usize::from(deltas.len() > steps.len());
                let (owns, peers) = ends(&old, &new);
                let mut plan = old.clone();
                for write in deltas.iter().flat_map(writes) {
                    plan.apply(&write);
                    for _ in 0..30 {
                        let own = *rng.pick(&owns);
                        let (peer, key) = (*rng.pick(&peers), *rng.pick(&keys()));
                        let of = [rng.percent(50), rng.percent(50)];
                        let said = ask(&plan, own, peer, of, key);
                        let (before, after) = (ask(&old, own, peer, of, key), ask(&new, own, peer, of, key));
                        // Without room for transitional entries there may be no decision, which denies.
                        let closed = number == 2 && said.is_none();
                        denied += usize::from(closed && before.is_some() && after.is_some());
                        assert!(
                            said == before || said == after || closed,
                            "seed {seed}, way {number}: {own} about {peer}: {said:?}"
                        );
                    }
                }
                for closed_cidrs in deltas.iter().filter_map(|delta| delta.closed_cidrs.clone()) {
                    plan.closed_cidrs = closed_cidrs;
                }
                assert_eq!((&plan.ipcache, &plan.policy), (&new.ipcache, &new.policy), "seed {seed}, way {number}");
                assert_eq!(plan.closed_cidrs, new.closed_cidrs, "seed {seed}");
                assert_eq!(state_of(&plan).endpoints, state_of(&new).endpoints, "seed {seed}");
            }
        }
        assert!(stepwise > 30, "only {stepwise} went by classes of passage");
        assert!(divided > 50 && denied > 100, "{divided} were divided, {denied} times something was denied on the way");
    }

    /// Returns each state between the writes, and the number of epochs up to then. The epoch rises before entries are
    /// deleted.
    fn states(old: &Plan, deltas: &[Delta]) -> Vec<(Plan, usize)> {
        let mut states = vec![(old.clone(), 0)];
        let mut epoch = 0;
        for delta in deltas {
            let mut plan = states.last().map_or_else(|| old.clone(), |(plan, _)| plan.clone());
            for write in writes(delta) {
                epoch += usize::from(!write.delete_policy.is_empty() || write == Delta::default());
                plan.apply(&write);
                states.push((plan.clone(), epoch));
            }
        }
        states
    }

    #[test]
    fn a_packet_held_up_between_its_lookups_hears_what_one_of_the_plans_says_or_is_judged_anew() {
        let settings = Settings { policies: 6, pods: 10, ..Settings::default() };
        let (mut heard, mut anew, mut changed) = (0, 0, 0);
        for seed in 100..140 {
            let mut rng = Rng::new(seed);
            let (old, new) = (plan_of(&settings.world(&mut rng)), plan_of(&settings.world(&mut rng)));
            let how = if seed % 2 == 0 { How::AtOnce } else { How::InChunks };
            let deltas = carried_out(&old, &transition(&state_of(&old), &new).smooth, how, &mut rng);
            let states = states(&old, &deltas);
            let (owns, peers) = ends(&old, &new);
            for _ in 0..3000 {
                let mut instants = [(); 3].map(|()| rng.below(states.len()));
                instants.sort_unstable();
                let [(first, began), (second, _), (third, ended)] = instants.map(|instant| &states[instant]);
                let (own, peer, key) = (*rng.pick(&owns), *rng.pick(&peers), *rng.pick(&keys()));
                let of = [rng.percent(50), rng.percent(50)];
                // The endpoint as of one instant, the peer set as of a later one, the decision as of a still later one.
                let seen = Plan {
                    endpoints: first.endpoints.clone(),
                    ipcache: second.ipcache.clone(),
                    policy: third.policy.clone(),
                    ..Plan::default()
                };
                let said = ask(&seen, own, peer, of, key);
                if began != ended || said.is_none() {
                    anew += 1;
                    continue;
                }
                let (before, after) = (ask(&old, own, peer, of, key), ask(&new, own, peer, of, key));
                assert!(said == before || said == after, "seed {seed}: {own} about {peer}: {said:?} at {instants:?}");
                heard += 1;
                changed += usize::from(before != after);
            }
        }
        assert!(
            heard > 5000 && anew > 5000 && changed > 200,
            "{heard} heard, {anew} judged anew, {changed} of a change"
        );
    }
}
