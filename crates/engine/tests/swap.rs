//! At every instant each pod sees one whole policy, old or new. Every single write of every delta is applied
//! separately, and after each write every endpoint is evaluated for every peer.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{Delta, IpcacheEntry, PeerSetId, Plan, Planner, PolicyKey, RuleId, RulesetId, Scope, port_key};
use ringfence_model::{Direction, Domain, DomainName, Labels, Namespace, Object, ObjectKey, Pod, Protocol, World};

/// The single writes of an applier for a delta, in its order.
enum Step {
    Write(Box<Delta>),
    /// The epoch rises.
    Raise,
}

fn steps(delta: &Delta) -> Vec<Step> {
    let mut steps = Vec::new();
    let addresses: Vec<_> = delta.put_ipcache.iter().filter(|(net, _)| is_address(net)).copied().collect();
    let ranges: Vec<_> = delta.put_ipcache.iter().filter(|(net, _)| !is_address(net)).copied().collect();
    macro_rules! each {
        ($($field:ident: $all:expr),*) => {$(
            let all = $all.iter().cloned();
            steps.extend(all.map(|one| Step::Write(Box::new(Delta { $field: vec![one], ..Delta::default() }))));
        )*};
    }
    each!(put_rules: delta.put_rules, put_policy: delta.put_policy, put_ipcache: addresses);
    if !ranges.is_empty() {
        steps.push(Step::Raise);
    }
    each!(put_ipcache: ranges);
    if delta.closed_cidrs.is_some() {
        steps.push(Step::Write(Box::new(Delta { closed_cidrs: delta.closed_cidrs.clone(), ..Delta::default() })));
    }
    each!(
        put_endpoints: delta.put_endpoints,
        delete_endpoints: delta.delete_endpoints,
        delete_ipcache: delta.delete_ipcache
    );
    steps.push(Step::Raise);
    each!(delete_policy: delta.delete_policy, delete_rules: delta.delete_rules);
    steps
}

fn writes(delta: &Delta) -> Vec<Delta> {
    let written = |step| match step {
        Step::Write(delta) => Some(*delta),
        Step::Raise => None,
    };
    steps(delta).into_iter().filter_map(written).collect()
}

fn is_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn is_rule_or_host(event: &Event) -> bool {
    match event {
        Event::Apply(object) => matches!(object, Object::Policy(_) | Object::Node(_) | Object::Domain(_)),
        Event::Delete(key) => matches!(key, ObjectKey::Policy(_) | ObjectKey::Node(_) | ObjectKey::Domain(_)),
    }
}

/// Returns the pod CIDRs of nodes.
fn ranges(world: &World) -> Vec<(&str, &[IpNet])> {
    let ranges = world.nodes.values().map(|node| (&*node.name, &*node.pod_cidrs));
    ranges.filter(|(_, ranges)| !ranges.is_empty()).collect()
}

/// The verdicts of an endpoint about a peer, by direction, port, and new or open connection: allow and rule id, or none
/// without rules.
type Answers = Vec<Option<(bool, RuleId)>>;

fn answers(plan: &Plan, endpoint: IpAddr, peer: IpAddr) -> Answers {
    let keys =
        [(Protocol::TCP, 80), (Protocol::TCP, 81), (Protocol::UDP, 80), (Protocol::SCTP, 443), (Protocol::ICMP, 0)];
    let Some(endpoint) = plan.endpoints.get(&endpoint) else { return Vec::new() };
    let peer_set = plan.peer_set(peer);
    let of = |(direction, established)| {
        let ruleset = endpoint.ruleset(direction);
        keys.map(|(protocol, port)| {
            (ruleset != RulesetId::NONE).then(|| {
                if ruleset == RulesetId::COLLISION || peer_set.peer_set == PeerSetId::COLLISION {
                    return (false, RuleId::DEFAULT);
                }
                let verdict = plan.lookup(ruleset, peer_set, established, port_key(protocol, port));
                let verdict = verdict.expect("every decision is there");
                assert!(plan.rules.contains_key(&verdict.rule_id), "every reason is there");
                (verdict.allow, verdict.rule_id)
            })
        })
    };
    let directions = [Direction::Ingress, Direction::Egress];
    directions.into_iter().flat_map(|direction| [(direction, false), (direction, true)]).flat_map(of).collect()
}

/// The properties of an address that policy can see: the pods, nodes and domain names that have it, the names for which
/// it has expired, and those for which it is inside of the cluster.
type Visible<'a> = (Vec<(&'a Pod, Option<&'a Namespace>)>, Vec<&'a Labels>, [Vec<&'a DomainName>; 3]);

fn seen<'a>(world: &'a World, scope: &Scope, address: IpAddr) -> Visible<'a> {
    let node = match scope {
        Scope::Node(node) => Some(node),
        Scope::Cluster => None,
    };
    let owners = world.owners(address, node).into_iter();
    let pods = owners.map(|pod| (pod, world.namespaces.get(&pod.key.namespace))).collect();
    let nodes = world.nodes.values().filter(|node| node.addresses.contains(&address)).map(|node| &node.labels);
    let names = |has: &dyn Fn(&Domain) -> bool| {
        world.domains.values().filter(|domain| has(domain)).map(|domain| &domain.name).collect()
    };
    let domains = names(&|domain| domain.addresses.contains(&address));
    let lingering = names(&|domain| domain.lingering.contains(&address));
    let inside = names(&|domain| domain.inside.contains(&address));
    (pods, nodes.collect(), [domains, lingering, inside])
}

/// Addresses to evaluate: those of pods, nodes and domain names, and both ends of every prefix.
fn peers(worlds: [&World; 2], plans: [&Plan; 2]) -> BTreeSet<IpAddr> {
    let pods = worlds.into_iter().flat_map(|world| world.pods.values()).flat_map(|pod| pod.addresses.iter().copied());
    let nodes = worlds.into_iter().flat_map(|world| world.nodes.values().flat_map(|node| &node.addresses));
    let domains = worlds.into_iter().flat_map(|world| world.domains.values());
    let domains = domains.flat_map(|domain| domain.addresses.iter().chain(&domain.lingering));
    let nets = plans.into_iter().flat_map(|plan| plan.ipcache.keys());
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
    scope: &'a Scope,
    worlds: [&'a World; 2],
    before: &'a Plan,
    after: &'a Plan,
    /// The old policies with the new peers, if only policies, nodes and domain names changed.
    between: Option<&'a Plan>,
    deltas: &'a [Delta],
}

/// Steps through a change from one plan to the next.
fn check(change: &Change<'_>, context: &str, seen_so_far: &mut Seen) {
    let Change { scope, worlds, before, after, between, deltas } = *change;
    let all = peers(worlds, [before, after]);
    let (same, changed): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| seen(worlds[0], scope, *address) == seen(worlds[1], scope, *address));
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
            // A peer that changed in the same commit may count as before or as after, as long as the rules stay the
            // same. If the rules change too, the old rules may meet the new peer, as if the two events came one after
            // the other.
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

/// The plan and the epoch after each step of a change, and before the first.
fn instants(before: &Plan, deltas: &[Delta]) -> Vec<(Plan, u32)> {
    let mut instants = vec![(before.clone(), 0)];
    for step in deltas.iter().flat_map(steps) {
        let (mut plan, mut epoch) = instants[instants.len() - 1].clone();
        match step {
            Step::Write(delta) => plan.apply(&delta),
            Step::Raise => epoch += 1,
        }
        instants.push((plan, epoch));
    }
    instants
}

/// A packet, and the instants at which it reads the maps. In this order: epoch, endpoint, ipcache entry of the address,
/// ipcache entry of the CIDR around it, policy entry of the peer set, policy entry of the fallback, epoch.
struct InterruptedPacket {
    own: IpAddr,
    peer: IpAddr,
    direction: Direction,
    established: bool,
    key: u32,
    reads: [usize; 7],
}

/// Chooses the instants: interrupted at every read, at one read, or at one read for the whole change.
fn reads(rng: &mut Rng, instants: usize) -> [usize; 7] {
    let mut reads = [0; 7].map(|_| rng.below(instants));
    reads.sort_unstable();
    let (first, last) = match rng.below(3) {
        0 => return reads,
        1 => (reads[0], reads[6]),
        _ => (0, instants - 1),
    };
    // Mostly between the ipcache entry and the policy entry.
    let pause = if rng.percent(50) { 4 } else { 1 + rng.below(6) };
    std::array::from_fn(|read| if read < pause { first } else { last })
}

/// The result for a packet that is interrupted between its reads.
#[derive(Debug, PartialEq, Eq)]
enum ReadResult {
    /// The endpoint has no rules.
    NoRules,
    Verdict(bool, RuleId),
    /// An entry is missing, so the packet is evaluated again.
    Missing,
}

impl InterruptedPacket {
    fn evaluate(&self, instants: &[(Plan, u32)]) -> ReadResult {
        let [_, endpoint, address, range, entry, fallback, _] = self.reads.map(|read| &instants[read].0);
        let Some(endpoint) = endpoint.endpoints.get(&self.own) else { return ReadResult::NoRules };
        let ruleset = endpoint.ruleset(self.direction);
        if ruleset == RulesetId::NONE {
            return ReadResult::NoRules;
        }
        let around = || {
            let ranges = range.ipcache.iter().filter(|(net, _)| !is_address(net) && net.contains(&self.peer));
            ranges.max_by_key(|(net, _)| net.prefix_len()).map_or(IpcacheEntry::UNKNOWN, |(_, peer_set)| *peer_set)
        };
        let peer_set = address.ipcache.get(&self.peer.into()).copied().unwrap_or_else(around);
        let table = |plan: &Plan, peer_set: PeerSetId| plan.policy.get(&PolicyKey { ruleset, peer_set }).cloned();
        let table = table(entry, peer_set.of(self.established)).or_else(|| table(fallback, peer_set.fallback));
        let Some(table) = table else { return ReadResult::Missing };
        let verdict = table.at(self.key);
        ReadResult::Verdict(verdict.allow, verdict.rule_id)
    }

    /// The same packet with all reads at one instant.
    fn at(&self, instant: usize) -> Self {
        Self { reads: [instant; 7], ..*self }
    }

    fn saw_the_epoch_rise(&self, instants: &[(Plan, u32)]) -> bool {
        let [before, .., after] = self.reads;
        instants[before].1 != instants[after].1
    }
}

/// Verdicts of interrupted packets that neither the plan before nor the one after gives.
#[derive(Debug, Default)]
struct Third {
    questions: usize,
    /// Such verdicts, if the epoch is not checked.
    unseen: usize,
    /// Of these, the packets that are accepted although both plans deny them.
    opened: usize,
    /// Such verdicts with the same epoch before and after, which must not exist.
    left: usize,
    example: String,
    asked_again: usize,
}

fn interrupt(change: &Change<'_>, rng: &mut Rng, third: &mut Third, context: &str) {
    let instants = instants(change.before, change.deltas);
    let seen = |world, address| seen(change.worlds[world], change.scope, address);
    let same = |address: &IpAddr| seen(0, *address) == seen(1, *address);
    let peers: Vec<_> = peers(change.worlds, [change.before, change.after]).into_iter().filter(same).collect();
    let endpoints: Vec<_> = change.before.endpoints.keys().chain(change.after.endpoints.keys()).copied().collect();
    if peers.is_empty() || endpoints.is_empty() || instants.len() < 2 {
        return;
    }
    for _ in 0..300 {
        let reads = reads(rng, instants.len());
        let packet = InterruptedPacket {
            own: *rng.pick(&endpoints),
            peer: *rng.pick(&peers),
            direction: *rng.pick(&[Direction::Ingress, Direction::Egress]),
            established: rng.percent(30),
            key: port_key(*rng.pick(&[Protocol::TCP, Protocol::UDP]), 80 + u16::from(rng.percent(50))),
            reads,
        };
        let [before, after] = [0, instants.len() - 1].map(|instant| packet.at(instant).evaluate(&instants));
        let result = packet.evaluate(&instants);
        third.questions += 1;
        let again = packet.saw_the_epoch_rise(&instants) || result == ReadResult::Missing;
        third.asked_again += usize::from(again);
        if result == ReadResult::Missing || result == before || result == after {
            continue;
        }
        third.unseen += 1;
        let denies = |result: &ReadResult| matches!(result, ReadResult::Verdict(false, _));
        third.opened += usize::from(denies(&before) && denies(&after) && !denies(&result));
        if !again {
            third.left += 1;
            let (own, peer) = (packet.own, packet.peer);
            third.example = format!("{context}: {own} about {peer}: {result:?}, {before:?} before, {after:?} after");
        }
    }
}

/// Commits random events. `wanted` selects their kinds.
fn run(seeds: std::ops::Range<u64>, wanted: impl Fn(&Event) -> bool) -> Seen {
    let mut seen_so_far = Seen::default();
    changes(seeds, wanted, |change, _, context| check(change, context, &mut seen_so_far));
    seen_so_far
}

/// Calls a function with each of several random changes.
fn changes(
    seeds: std::ops::Range<u64>,
    wanted: impl Fn(&Event) -> bool,
    mut each: impl FnMut(&Change<'_>, &mut Rng, &str),
) {
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
                // The pod CIDRs of nodes decide which pods have an address, so such a change is one of pods.
                rules_and_hosts &= is_rule_or_host(&event) && ranges(&old) == ranges(&world);
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
            let between = between.as_ref();
            let change = Change { scope: &scope, worlds, before: &before, after: &after, between, deltas: &deltas };
            each(&change, rng, &context);
        }
    }
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

/// A packet may be interrupted between any two of its reads. If the epoch does not rise meanwhile, its verdict is that
/// of one of the two plans. Without the check of the epoch that would not be true.
#[test]
fn no_packet_hears_what_neither_plan_says() {
    let mut third = Third::default();
    changes(0..150, |_| true, |change, rng, context| interrupt(change, rng, &mut third, context));
    assert_eq!(third.left, 0, "{third:?}");
    assert!(third.unseen > 150 && third.opened > 2, "the epoch makes the difference: {third:?}");
    assert!(third.asked_again < third.questions, "{third:?}");
}
