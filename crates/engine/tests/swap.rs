//! "At every instant each pod sees one whole policy, old or new": every single write of every delta is carried out
//! apart, and after each of them every endpoint is asked about every peer.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{CauseId, Delta, Plan, Planner, RulesetId, Scope, port_key};
use ringfence_model::{Direction, Namespace, Object, Pod, Protocol, World};

/// The writes of a delta, one by one, in the order an applier makes them.
fn writes(delta: &Delta) -> Vec<Delta> {
    let mut writes = Vec::new();
    macro_rules! each {
        ($($field:ident),*) => {$(
            writes.extend(delta.$field.iter().cloned().map(|one| Delta { $field: vec![one], ..Delta::default() }));
        )*};
    }
    each!(put_causes, put_entries, put_peers);
    if delta.gates.is_some() {
        writes.push(Delta { gates: delta.gates.clone(), ..Delta::default() });
    }
    each!(put_endpoints, delete_endpoints, delete_peers, delete_entries, delete_causes);
    writes
}

/// What an endpoint says of a peer, by direction and port: verdict and cause, or nothing if there are no rules.
type Answers = Vec<Option<(bool, CauseId)>>;

fn answers(plan: &Plan, endpoint: IpAddr, peer: IpAddr) -> Answers {
    let keys =
        [(Protocol::TCP, 80), (Protocol::TCP, 81), (Protocol::UDP, 80), (Protocol::SCTP, 443), (Protocol::ICMP, 0)];
    let Some(endpoint) = plan.endpoints.get(&endpoint) else { return Vec::new() };
    let class = plan.class(peer);
    let of = |direction| {
        let ruleset = endpoint.ruleset(direction);
        keys.map(|(protocol, port)| {
            (ruleset != RulesetId::NONE).then(|| {
                let point = plan.lookup(ruleset, class, port_key(protocol, port)).expect("every decision is there");
                assert!(plan.causes.contains_key(&point.cause), "every cause is there");
                (point.allow, point.cause)
            })
        })
    };
    [Direction::Ingress, Direction::Egress].map(of).into_iter().flatten().collect()
}

/// What policy can see of an address.
fn seen(world: &World, address: IpAddr) -> Option<(&Pod, Option<&Namespace>)> {
    let pod = world.owner(address)?;
    Some((pod, world.namespaces.get(&pod.key.namespace)))
}

/// Addresses worth asking about: those of pods, and both ends of every prefix.
fn peers(worlds: [&World; 2], plans: [&Plan; 2]) -> BTreeSet<IpAddr> {
    let pods = worlds.into_iter().flat_map(|world| world.pods.values()).flat_map(|pod| pod.addresses.iter().copied());
    let nets = plans.into_iter().flat_map(|plan| plan.peers.keys());
    pods.chain(nets.flat_map(|net: &IpNet| [net.network(), net.broadcast()])).collect()
}

#[derive(Default)]
struct Seen {
    writes: usize,
    flips: usize,
    twofold: usize,
    questions: usize,
}

/// Steps through a change from one plan to the next.
fn check(worlds: [&World; 2], before: &Plan, after: &Plan, deltas: &[Delta], context: &str, seen_so_far: &mut Seen) {
    let all = peers(worlds, [before, after]);
    let (same, changed): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| seen(worlds[0], *address) == seen(worlds[1], *address));
    let endpoints: BTreeSet<IpAddr> = before.endpoints.keys().chain(after.endpoints.keys()).copied().collect();
    let whole = |plan: &Plan, endpoint| same.iter().map(|peer| answers(plan, endpoint, *peer)).collect::<Vec<_>>();
    let expected: Vec<_> =
        endpoints.iter().map(|endpoint| (*endpoint, whole(before, *endpoint), whole(after, *endpoint))).collect();
    let mut plan = before.clone();
    seen_so_far.twofold += usize::from(deltas.len() == 2);
    for write in deltas.iter().flat_map(writes) {
        plan.apply(&write);
        seen_so_far.writes += 1;
        for (endpoint, old, new) in &expected {
            let now = whole(&plan, *endpoint);
            assert!(now == *old || now == *new, "{context}: {endpoint} sees a third policy after {write:?}");
            seen_so_far.flips += usize::from(old != new && now == *new);
            seen_so_far.questions += now.len();
            // A peer that itself changed in the same moment is judged as it was or as it is, as long as the rules
            // stay the same. If the rules change too, the old rules may meet the new peer: just what is seen if the
            // two events come one after the other.
            if before.endpoints.get(endpoint) == after.endpoints.get(endpoint) {
                for peer in &changed {
                    let now = answers(&plan, *endpoint, *peer);
                    let either = [before, after].iter().any(|plan| answers(plan, *endpoint, *peer) == now);
                    assert!(either, "{context}: {endpoint} sees a third {peer} after {write:?}");
                }
            }
        }
    }
    assert_eq!(plan, *after, "{context}: the deltas lead there");
}

/// Commits random events; `wanted` selects which kinds.
fn run(seeds: std::ops::Range<u64>, wanted: impl Fn(&Event) -> bool) -> Seen {
    let mut seen_so_far = Seen::default();
    for seed in seeds {
        let rng = &mut Rng::new(seed);
        let settings = Settings { pods: 10, policies: 8, ..Settings::default() };
        let scope = if seed % 2 == 0 { Scope::Cluster } else { Scope::Node("node0".into()) };
        let mut world = settings.world(rng);
        let mut planner = Planner::new(scope);
        planner.reset(world.objects());
        planner.commit();
        for step in 0..6 {
            let (before, old) = (planner.plan(), world.clone());
            for _ in 0..=rng.below(3) {
                let Some(event) = (0..100).map(|_| settings.event(rng, &world)).find(&wanted) else { continue };
                event.happen(&mut world);
                match &event {
                    Event::Apply(object) => planner.apply(object.clone()),
                    Event::Delete(key) => planner.delete(key),
                }
            }
            let deltas = planner.commit();
            let context = format!("seed {seed}, step {step}");
            check([&old, &world], &before, &planner.plan(), &deltas, &context, &mut seen_so_far);
        }
    }
    seen_so_far
}

#[test]
fn policies_change_whole() {
    let policies = |event: &Event| matches!(event, Event::Apply(Object::Policy(_)));
    let seen = run(0..12, policies);
    let kinds: HashSet<bool> = [seen.writes > 1000, seen.flips > 500, seen.twofold > 5].into();
    assert_eq!(kinds, HashSet::from([true]), "{} writes, {} flips, {} twofold", seen.writes, seen.flips, seen.twofold);
}

#[test]
fn anything_changes_whole() {
    let seen = run(100..112, |_| true);
    assert!(seen.questions > 100_000 && seen.twofold > 5, "{} questions, {} twofold", seen.questions, seen.twofold);
}
