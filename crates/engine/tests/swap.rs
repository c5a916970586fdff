//! "At every instant each pod sees one whole policy, old or new": every single write of every delta is carried out
//! apart, and after each of them every endpoint is asked about every peer.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{CauseId, Delta, Plan, Planner, RulesetId, Scope, port_key};
use ringfence_model::{Direction, Domain, DomainName, Labels, Namespace, Object, ObjectKey, Pod, Protocol, World};

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

fn is_rule_or_host(event: &Event) -> bool {
    match event {
        Event::Apply(object) => matches!(object, Object::Policy(_) | Object::Node(_) | Object::Domain(_)),
        Event::Delete(key) => matches!(key, ObjectKey::Policy(_) | ObjectKey::Node(_) | ObjectKey::Domain(_)),
    }
}

/// What an endpoint says of a peer, by direction, port, and whether the connection was open before: verdict and cause,
/// or nothing if there are no rules.
type Answers = Vec<Option<(bool, CauseId)>>;

fn answers(plan: &Plan, endpoint: IpAddr, peer: IpAddr) -> Answers {
    let keys =
        [(Protocol::TCP, 80), (Protocol::TCP, 81), (Protocol::UDP, 80), (Protocol::SCTP, 443), (Protocol::ICMP, 0)];
    let Some(endpoint) = plan.endpoints.get(&endpoint) else { return Vec::new() };
    let class = plan.class(peer);
    let of = |(direction, established)| {
        let ruleset = endpoint.ruleset(direction);
        keys.map(|(protocol, port)| {
            (ruleset != RulesetId::NONE).then(|| {
                let point = plan.lookup(ruleset, class, established, port_key(protocol, port));
                let point = point.expect("every decision is there");
                assert!(plan.causes.contains_key(&point.cause), "every cause is there");
                (point.allow, point.cause)
            })
        })
    };
    let directions = [Direction::Ingress, Direction::Egress];
    directions.into_iter().flat_map(|direction| [(direction, false), (direction, true)]).flat_map(of).collect()
}

/// What policy can see of an address: the pod that owns it, the nodes and the domain names that have it, and the
/// names that linger at it.
type Visible<'a> =
    (Option<(&'a Pod, Option<&'a Namespace>)>, Vec<&'a Labels>, Vec<&'a DomainName>, Vec<&'a DomainName>);

fn seen(world: &World, address: IpAddr) -> Visible<'_> {
    let pod = world.owner(address).map(|pod| (pod, world.namespaces.get(&pod.key.namespace)));
    let nodes = world.nodes.values().filter(|node| node.addresses.contains(&address)).map(|node| &node.labels);
    let names = |has: &dyn Fn(&Domain) -> bool| {
        world.domains.values().filter(|domain| has(domain)).map(|domain| &domain.name).collect()
    };
    let (domains, lingering) =
        (names(&|domain| domain.addresses.contains(&address)), names(&|domain| domain.lingering.contains(&address)));
    (pod, nodes.collect(), domains, lingering)
}

/// Addresses worth asking about: those of pods, nodes and domain names, and both ends of every prefix.
fn peers(worlds: [&World; 2], plans: [&Plan; 2]) -> BTreeSet<IpAddr> {
    let pods = worlds.into_iter().flat_map(|world| world.pods.values()).flat_map(|pod| pod.addresses.iter().copied());
    let nodes = worlds.into_iter().flat_map(|world| world.nodes.values().flat_map(|node| &node.addresses));
    let domains = worlds.into_iter().flat_map(|world| world.domains.values());
    let domains = domains.flat_map(|domain| domain.addresses.iter().chain(&domain.lingering));
    let nets = plans.into_iter().flat_map(|plan| plan.peers.keys());
    pods.chain(nodes.chain(domains).copied())
        .chain(nets.flat_map(|net: &IpNet| [net.network(), net.broadcast()]))
        .collect()
}

#[derive(Default)]
struct Seen {
    writes: usize,
    flips: usize,
    twofold: usize,
    questions: usize,
    moved: usize,
}

/// A change, and the plans around it.
struct Change<'a> {
    worlds: [&'a World; 2],
    before: &'a Plan,
    after: &'a Plan,
    /// The old policies about the new peers, if only policies, nodes and domain names changed.
    between: Option<&'a Plan>,
    deltas: &'a [Delta],
}

/// Steps through a change from one plan to the next.
fn check(change: &Change<'_>, context: &str, seen_so_far: &mut Seen) {
    let Change { worlds, before, after, between, deltas } = *change;
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
            let same_rules = before.endpoints.get(endpoint) == after.endpoints.get(endpoint);
            if same_rules || between.is_some() {
                for peer in &changed {
                    let now = answers(&plan, *endpoint, *peer);
                    let known = |plan: &Plan| answers(plan, *endpoint, *peer) == now;
                    let expected = known(before) || known(after) || between.is_some_and(known);
                    assert!(expected, "{context}: {endpoint} sees a third {peer} after {write:?}");
                    seen_so_far.moved += 1;
                }
            }
        }
    }
    assert_eq!(plan, *after, "{context}: the deltas lead there");
}

fn fresh(scope: &Scope, world: &World) -> Planner {
    let mut planner = Planner::new(scope.clone());
    planner.reset(world.objects());
    planner.commit();
    planner
}

/// Commits random events; `wanted` selects which kinds.
fn run(seeds: std::ops::Range<u64>, wanted: impl Fn(&Event) -> bool) -> Seen {
    let mut seen_so_far = Seen::default();
    for seed in seeds {
        let rng = &mut Rng::new(seed);
        let settings = Settings { pods: 10, policies: 8, ..Settings::default() };
        let scope = if seed % 2 == 0 { Scope::Cluster } else { Scope::Node("node0".into()) };
        let mut world = settings.world(rng);
        let mut planner = fresh(&scope, &world);
        for step in 0..6 {
            let (before, old) = (planner.plan(), world.clone());
            let mut rules_and_hosts = true;
            for _ in 0..=rng.below(3) {
                let Some(event) = (0..100).map(|_| settings.event(rng, &world)).find(&wanted) else { continue };
                event.happen(&mut world);
                rules_and_hosts &= is_rule_or_host(&event);
                match &event {
                    Event::Apply(object) => planner.apply(object.clone()),
                    Event::Delete(key) => planner.delete(key),
                }
            }
            let deltas = planner.commit();
            let context = format!("seed {seed}, step {step}");
            let between = World { policies: old.policies.clone(), ..world.clone() };
            let between = rules_and_hosts.then(|| fresh(&scope, &between).plan());
            let (worlds, after) = ([&old, &world], planner.plan());
            let change = Change { worlds, before: &before, after: &after, between: between.as_ref(), deltas: &deltas };
            check(&change, &context, &mut seen_so_far);
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
fn nodes_names_and_policies_change_whole() {
    let seen = run(200..214, is_rule_or_host);
    let enough = seen.moved > 10_000 && seen.flips > 500 && seen.twofold > 3;
    assert!(enough, "{} answers about what moved, {} flips, {} twofold", seen.moved, seen.flips, seen.twofold);
}

#[test]
fn anything_changes_whole() {
    let seen = run(100..116, |_| true);
    assert!(seen.questions > 100_000 && seen.twofold > 5, "{} questions, {} twofold", seen.questions, seen.twofold);
}
