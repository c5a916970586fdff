//! The way from what the kernel holds to any other plan, on which every pod is on one whole policy at every instant.
//!
//! A planner's own changes are made so that they can be written one by one. Two plans that have nothing to do with
//! each other, such as before and after a time without an agent, are not: when an address moves from its old class
//! to its new one, an endpoint's old rules know nothing of the new class, nor the new rules of the old class. Such
//! addresses go by way of a class of passage, about which old rules say what they said about the old class, and new
//! rules what they say about the new one. Endpoints change their rules in between. Where there is no room for that they
//! are denied on the way.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_engine::{Block, ClassId, Delta, EntryKey, PeerClass, Plan, RulesetId};

use crate::state::State;

/// From what the kernel holds to a plan, in steps. Each can be carried out in portions.
pub(crate) struct Transition {
    /// By way of classes of passage, if addresses have to go by it.
    pub(crate) smooth: Vec<Delta>,
    /// The same where there is no room for what is said about classes of passage: addresses that move are denied on the
    /// way. None if none has to.
    pub(crate) denying: Option<Vec<Delta>>,
}

pub(crate) fn transition(state: &State, plan: &Plan) -> Transition {
    let direct = state.difference(plan);
    let old_rulesets: BTreeSet<_> =
        state.endpoints.values().flat_map(|r| [r.ingress, r.egress]).filter(|r| *r != RulesetId::NONE).collect();
    if old_rulesets.is_empty() {
        // Nobody looks at classes yet: they can all be made new before anybody does.
        let smooth = if direct.delete_peers.is_empty() { vec![direct] } else { peers_first(direct).into() };
        return Transition { smooth, denying: None };
    }
    let passages = passages(state, plan, &direct);
    if passages.peers.is_empty() {
        return Transition { smooth: vec![direct], denying: None };
    }
    let denied =
        Passages { classes: HashMap::new(), peers: passages.peers.iter().map(|(net, _)| (*net, DENIED)).collect() };
    let denying = steps(state, plan, direct.clone(), denied, &old_rulesets);
    Transition { smooth: steps(state, plan, direct, passages, &old_rulesets).into(), denying: Some(denying.into()) }
}

/// The class of what is denied on the way: nobody has an entry about it.
const DENIED: PeerClass = PeerClass::plain(ClassId::CONFLICT, ClassId::CONFLICT);

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
    // What only rulesets say that go need not stay for the second step, which makes room for others.
    let (gone, kept) = direct.delete_entries.into_iter().partition(|key| !new_rulesets.contains(&key.ruleset));
    let mut there = Delta {
        put_causes: direct.put_causes,
        put_entries: direct.put_entries,
        put_endpoints: direct.put_endpoints,
        delete_endpoints: direct.delete_endpoints,
        delete_entries: gone,
        ..Delta::default()
    };
    let mut on = Delta {
        put_peers: direct.put_peers,
        gates: direct.gates,
        delete_peers: direct.delete_peers,
        delete_entries: kept,
        delete_causes: direct.delete_causes,
        ..Delta::default()
    };
    for ((old, new), class) in passages.classes {
        for ruleset in old_rulesets {
            if !new_rulesets.contains(ruleset) {
                let block = look_up(&state.entries, *ruleset, old);
                put(&mut there.put_entries, &mut there.delete_entries, EntryKey { ruleset: *ruleset, class }, block);
            }
        }
        for ruleset in &new_rulesets {
            let block = look_up(&plan.entries, *ruleset, new);
            put(&mut there.put_entries, &mut on.delete_entries, EntryKey { ruleset: *ruleset, class }, block);
        }
    }
    there.put_peers.extend(passages.peers);
    // What is new without moving anything has to be there before what is around it moves; and so the inner before the
    // outer throughout.
    let moving: HashSet<_> = there.put_peers.iter().map(|(net, _)| *net).collect();
    there.put_peers.extend(on.put_peers.iter().filter(|(net, _)| !moving.contains(net)));
    there.put_peers.sort_by_key(|(net, _)| Reverse(net.prefix_len()));
    there.delete_entries.sort_unstable();
    [there, on.sorted()]
}

/// An entry about a class of passage comes, and goes again.
fn put(puts: &mut Vec<(EntryKey, Arc<Block>)>, deletes: &mut Vec<EntryKey>, key: EntryKey, block: Option<&Arc<Block>>) {
    if let Some(block) = block {
        puts.push((key, Arc::clone(block)));
        deletes.push(key);
    }
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
    use crate::portions::portions;
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

    /// How a step is carried out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum How {
        AtOnce,
        InPortions,
    }

    /// Steps as the applier carries them out, after a plan.
    fn carried_out(plan: &Plan, steps: &[Delta], how: How, rng: &mut Rng) -> Vec<Delta> {
        let mut plan = plan.clone();
        let mut deltas = Vec::new();
        for step in steps {
            let state = state_of(&plan);
            let divided = (how == How::InPortions).then(|| portions(&state, step, rng.below(12))).flatten();
            deltas.extend(divided.unwrap_or_else(|| vec![step.clone()]));
            plan.apply(step);
        }
        deltas
    }

    /// What is asked about two plans: pods, peers.
    fn ends(old: &Plan, new: &Plan) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let nets = old.peers.keys().chain(new.peers.keys());
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
                [(Some(&smooth), How::AtOnce), (Some(&smooth), How::InPortions), (denying.as_ref(), How::InPortions)];
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
                        // Where there is no room for classes of passage there may be no answer, which denies.
                        let closed = number == 2 && said.is_none();
                        denied += usize::from(closed && before.is_some() && after.is_some());
                        assert!(
                            said == before || said == after || closed,
                            "seed {seed}, way {number}: {own} about {peer}: {said:?}"
                        );
                    }
                }
                for gates in deltas.iter().filter_map(|delta| delta.gates.clone()) {
                    plan.gates = gates;
                }
                assert_eq!((&plan.peers, &plan.entries), (&new.peers, &new.entries), "seed {seed}, way {number}");
                assert_eq!(plan.gates, new.gates, "seed {seed}");
                assert_eq!(state_of(&plan).endpoints, state_of(&new).endpoints, "seed {seed}");
            }
        }
        assert!(stepwise > 30, "only {stepwise} went by classes of passage");
        assert!(divided > 50 && denied > 100, "{divided} were divided, {denied} times something was denied on the way");
    }

    /// Each state on the way, and how often the epoch had risen by then: it does before entries go.
    fn states(old: &Plan, deltas: &[Delta]) -> Vec<(Plan, usize)> {
        let mut states = vec![(old.clone(), 0)];
        let mut epoch = 0;
        for delta in deltas {
            let mut plan = states.last().map_or_else(|| old.clone(), |(plan, _)| plan.clone());
            for write in writes(delta) {
                epoch += usize::from(!write.delete_entries.is_empty() || write == Delta::default());
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
            let how = if seed % 2 == 0 { How::AtOnce } else { How::InPortions };
            let deltas = carried_out(&old, &transition(&state_of(&old), &new).smooth, how, &mut rng);
            let states = states(&old, &deltas);
            let (owns, peers) = ends(&old, &new);
            for _ in 0..3000 {
                let mut instants = [(); 3].map(|()| rng.below(states.len()));
                instants.sort_unstable();
                let [(first, began), (second, _), (third, ended)] = instants.map(|instant| &states[instant]);
                let (own, peer, key) = (*rng.pick(&owns), *rng.pick(&peers), *rng.pick(&keys()));
                let of = [rng.percent(50), rng.percent(50)];
                // Who is asked as of one instant, the class as of a later one, the decision as of one later still.
                let seen = Plan {
                    endpoints: first.endpoints.clone(),
                    peers: second.peers.clone(),
                    entries: third.entries.clone(),
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
