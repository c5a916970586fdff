//! A node that writes false addresses of its own pods into the API cannot take addresses of other nodes' pods.

use std::net::IpAddr;

use ringfence_engine::generate::Rng;
use ringfence_engine::{Planner, Scope, reference};
use ringfence_model::{
    Action, Connection, Labels, Name, Namespace, NamespaceSelection, Node, Object, Origin, Peer, Peers, Pod, PodKey,
    PodPhase, PodSelection, Policy, PolicyId, PolicyKind, Ports, Protocol, Requirement, Rule, Selector, Tier, World,
};

const VICTIM: &str = "10.0.0.2";
const FRIEND: &str = "10.0.1.2";
const STRANGER: &str = "10.0.1.3";

/// The result of [`talks`] in a world without false claims.
const RIGHT: [bool; 4] = [true, false, true, false];

fn node(number: usize, ranges: bool) -> Object {
    let range = format!("10.0.{number}.0/24").parse().expect("a range");
    Object::Node(Node {
        name: format!("node{number}").into(),
        labels: Labels::default(),
        addresses: Vec::new(),
        pod_cidrs: if ranges { vec![range] } else { Vec::new() },
    })
}

fn pod(name: &str, node: usize, friend: bool, created: i64, addresses: Vec<IpAddr>) -> Pod {
    Pod {
        key: PodKey { namespace: "shop".into(), name: name.into() },
        uid: name.into(),
        labels: if friend { [("friend", "true")].into_iter().collect() } else { Labels::default() },
        node: Some(format!("node{node}").into()),
        addresses,
        host_network: false,
        phase: PodPhase::Running,
        terminating: false,
        created,
        ports: Vec::new(),
    }
}

/// The victim accepts and contacts friends only.
fn policy() -> Object {
    let friends = Selector::from_iter([Requirement::Exists { key: "friend".into() }]);
    let peers = Peers::List(vec![Peer::Pods(PodSelection {
        namespaces: NamespaceSelection::Named("shop".into()),
        pods: friends,
    })]);
    let rules = vec![Rule { name: None, action: Action::Accept, peers, ports: Ports::Any }];
    Object::Policy(Policy {
        id: PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some("shop".into()), name: "friends".into() },
        uid: "friends".into(),
        generation: 1,
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelection {
            namespaces: NamespaceSelection::Named("shop".into()),
            pods: Selector::from_iter([Requirement::DoesNotExist { key: "friend".into() }]),
        },
        ingress: Some(rules.clone()),
        egress: Some(rules),
        rules_withheld: false,
    })
}

/// Honest pods of the age 100: the victim on node 0, a friend and a stranger on node 1.
fn honest(ranges: bool) -> World {
    let address = |text: &str| vec![text.parse().expect("an address")];
    let namespace = Namespace {
        name: "shop".into(),
        labels: [("kubernetes.io/metadata.name", "shop")].into_iter().collect(),
        terminating: false,
    };
    let pods = [
        pod("victim", 0, false, 100, address(VICTIM)),
        pod("friend", 1, true, 100, address(FRIEND)),
        pod("stranger", 1, false, 100, address(STRANGER)),
    ];
    let nodes = (0..3).map(|number| node(number, ranges));
    nodes.chain([Object::Namespace(namespace), policy()]).chain(pods.map(Object::Pod)).collect()
}

/// The verdicts of the victim about the friend and the stranger, in both directions, as its node knows them.
fn talks(world: &World) -> [bool; 4] {
    let node: Name = "node0".into();
    let mut planner = Planner::new(Scope::Node(Name::clone(&node)));
    planner.reset(world.objects());
    planner.commit();
    [(FRIEND, VICTIM), (STRANGER, VICTIM), (VICTIM, FRIEND), (VICTIM, STRANGER)].map(|(source, destination)| {
        let connection = Connection {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            protocol: Protocol::TCP,
            port: 80,
            origin: Origin::Elsewhere,
            translated: false,
            established: false,
        };
        let decision = planner.plan().evaluate(&connection);
        assert_eq!(decision, reference::evaluate_at(world, Some(&node), &connection));
        decision.allow()
    })
}

/// Adds pods of node 2 that claim the addresses of others, with ages from a range.
fn hostile(rng: &mut Rng, world: &mut World, age: std::ops::RangeInclusive<i64>) {
    for number in 0..=rng.below(4) {
        let span = usize::try_from(age.end() - age.start() + 1).expect("a span");
        let created = age.start() + i64::try_from(rng.below(span)).expect("an age");
        let address = rng.pick(&[VICTIM, FRIEND, STRANGER]).parse().expect("an address");
        let mut claimant = pod(&format!("evil{number}"), 2, rng.percent(50), created, vec![address]);
        claimant.phase = *rng.pick(&[PodPhase::Running, PodPhase::Running, PodPhase::Pending, PodPhase::Succeeded]);
        world.apply(Object::Pod(claimant));
    }
}

#[test]
fn a_hostile_writer_of_status_has_nothing_of_it() {
    for seed in 0..500 {
        let rng = &mut Rng::new(seed);
        for ranges in [true, false] {
            let mut world = honest(ranges);
            assert_eq!(talks(&world), RIGHT);
            // Without pod CIDRs this is true for newer claims only.
            hostile(rng, &mut world, if ranges { 0..=200 } else { 101..=200 });
            assert_eq!(talks(&world), RIGHT, "seed {seed}, ranges: {ranges}: {:#?}", world.pods);
        }
    }
}

/// Without pod CIDRs, and with claims as old as those of the owners, no denied pod gets in.
#[test]
fn claims_of_one_age_open_nothing() {
    let mut closed = 0;
    for seed in 0..500 {
        let rng = &mut Rng::new(seed);
        let mut world = honest(false);
        hostile(rng, &mut world, 100..=100);
        let [hears_friend, hears_stranger, calls_friend, calls_stranger] = talks(&world);
        assert!(!hears_stranger && !calls_stranger, "seed {seed}: {:#?}", world.pods);
        assert_eq!(hears_friend, calls_friend);
        closed += u32::from(!hears_friend);
    }
    assert!(closed > 50, "connections of addresses in conflict are denied: {closed}");
}

/// Without pod CIDRs, the claim of an older pod cannot be refuted: it owns the address, and the newer pod is denied.
/// That ends with the claim.
#[test]
fn an_older_claim_without_ranges_is_taken_for_the_truth() {
    let mut world = honest(false);
    world.apply(Object::Pod(pod("evil", 2, false, 99, vec![FRIEND.parse().expect("an address")])));
    assert_eq!(talks(&world), [false; 4]);
    world.apply(Object::Pod(pod("evil", 2, false, 99, Vec::new())));
    assert_eq!(talks(&world), [true, false, true, false]);
    // With pod CIDRs the claim is refused.
    let mut world = honest(true);
    world.apply(Object::Pod(pod("evil", 2, false, 99, vec![FRIEND.parse().expect("an address")])));
    assert_eq!(talks(&world), [true, false, true, false]);
}
