//! Generated clusters: the reference evaluator and the plan give the same verdicts for the same reasons.
//!
//! `RINGFENCE_CASES` sets the number of connections (default 100,000), `RINGFENCE_SEED` the first seed.

use ringfence_engine::generate::{Rng, Settings};
use ringfence_engine::{Planner, Scope, reference};
use ringfence_model::{Connection, Decision, Direction, Name, Peer, Peers, Reason, Verdict, World};

const PROBES_A_WORLD: u64 = 200;

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")),
        Err(_) => default,
    }
}

/// What a node says: the same as the cluster about its own pods, nothing about others.
fn expected(world: &World, connection: &Connection, node: &Name) -> Decision {
    let judge = |direction, address| {
        let local = world.owner(address).is_some_and(|pod| pod.node.as_ref() == Some(node));
        if local { reference::judge(world, connection, direction) } else { Verdict::allow(Reason::NotAPod) }
    };
    Decision {
        egress: judge(Direction::Egress, connection.source),
        ingress: judge(Direction::Ingress, connection.destination),
    }
}

/// Whether a rule decided that means nobody but nodes and domain names.
fn is_by_host(world: &World, reason: &Reason) -> bool {
    let Reason::Rule(reference) = reason else { return false };
    let rules = world.policies[&reference.policy].rules(reference.direction).unwrap_or_default();
    match &rules[reference.index].peers {
        Peers::Any => false,
        Peers::List(peers) => peers.iter().all(|peer| matches!(peer, Peer::Nodes(_) | Peer::Domain(_))),
    }
}

#[test]
fn plan_and_reference_agree() {
    let cases = number("RINGFENCE_CASES", 100_000);
    let first = number("RINGFENCE_SEED", 1);
    let (mut denied, mut by_rule, mut isolated, mut by_host) = (0_u64, 0_u64, 0_u64, 0_u64);
    for seed in first..first + cases.div_ceil(PROBES_A_WORLD) {
        let rng = &mut Rng::new(seed);
        let settings = Settings { tiers: seed % 3 != 0, ..Settings::default() };
        let world = settings.world(rng);
        let node: Name = "node0".into();
        let plans = [Scope::Cluster, Scope::Node(Name::clone(&node))].map(|scope| {
            let mut planner = Planner::new(scope);
            planner.reset(world.objects());
            planner.commit();
            planner.plan()
        });
        for _ in 0..PROBES_A_WORLD {
            let connection = settings.connection(rng, &world);
            let decision = reference::decide(&world, &connection);
            assert_eq!(plans[0].decide(&connection), decision, "cluster, seed {seed}: {connection:?}\n{world:#?}");
            let local = expected(&world, &connection, &node);
            assert_eq!(plans[1].decide(&connection), local, "node, seed {seed}: {connection:?}\n{world:#?}");
            denied += u64::from(!decision.allow());
            by_rule += u64::from(matches!(decision.deciding().reason, Reason::Rule(_)));
            let reasons = [&decision.egress.reason, &decision.ingress.reason];
            by_host += u64::from(reasons.iter().any(|reason| is_by_host(&world, reason)));
            isolated += u64::from(matches!(decision.deciding().reason, Reason::Isolated { .. }));
        }
    }
    // Verdicts that are all the same would prove nothing.
    assert!(denied * 10 > cases && denied * 10 < cases * 9, "{denied} of {cases} are denied");
    assert!(by_rule * 10 > cases, "{by_rule} of {cases} are decided by a rule");
    assert!(by_host * 200 > cases, "{by_host} of {cases} are decided by a rule about nodes or domain names alone");
    assert!(isolated * 20 > cases, "{isolated} of {cases} are decided by isolation");
}
