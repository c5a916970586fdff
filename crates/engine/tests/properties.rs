//! Properties of every set of policies.

use proptest::prelude::*;
use ringfence_engine::generate::{Rng, Settings};
use ringfence_engine::{Planner, Scope, reference};
use ringfence_model::{Connection, Decision, Object, Policy, PolicyId, Tier, World};

const PROBES: usize = 60;

/// Clusters with NetworkPolicies alone.
fn settings() -> Settings {
    Settings { tiers: false, ..Settings::default() }
}

fn connections(rng: &mut Rng, world: &World) -> Vec<Connection> {
    (0..PROBES).map(|_| settings().connection(rng, world)).collect()
}

/// Verdicts of the plan, which equal those of the reference.
fn decide(world: &World, connections: &[Connection]) -> Vec<Decision> {
    let mut planner = Planner::new(Scope::Cluster);
    planner.reset(world.objects());
    planner.commit();
    let plan = planner.plan();
    let decide = |connection| {
        let decision = plan.evaluate(connection);
        assert_eq!(decision, reference::evaluate(world, connection));
        decision
    };
    connections.iter().map(decide).collect()
}

fn allowed(world: &World, connections: &[Connection]) -> Vec<bool> {
    decide(world, connections).iter().map(Decision::allow).collect()
}

fn any_policy(rng: &mut Rng, world: &World) -> Option<Policy> {
    let policies: Vec<_> = world.policies.values().cloned().collect();
    (!policies.is_empty()).then(|| rng.pick(&policies).clone())
}

fn renamed(policy: &Policy, name: &str) -> Policy {
    Policy { id: PolicyId { name: name.into(), ..policy.id.clone() }, uid: name.into(), ..policy.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// P1: an additional rule never denies a connection.
    #[test]
    fn rules_only_add(seed: u64) {
        let rng = &mut Rng::new(seed);
        let mut world = settings().world(rng);
        let connections = connections(rng, &world);
        let before = allowed(&world, &connections);
        let (Some(mut policy), other) = (any_policy(rng, &world), settings().policy(rng)) else { return Ok(()) };
        let rules = other.ingress.into_iter().flatten().chain(other.egress.into_iter().flatten());
        for rule in rules {
            for list in [&mut policy.ingress, &mut policy.egress].into_iter().flatten() {
                list.push(rule.clone());
            }
        }
        world.apply(Object::Policy(policy));
        for (connection, (before, after)) in connections.iter().zip(before.iter().zip(allowed(&world, &connections))) {
            prop_assert!(!before || after, "{connection:?}");
        }
    }

    /// P2: the order of rules and the names of policies do not affect what is accepted.
    #[test]
    fn order_does_not_matter(seed: u64) {
        let rng = &mut Rng::new(seed);
        let world = settings().world(rng);
        let connections = connections(rng, &world);
        let mut other = world.clone();
        let mut policies: Vec<_> = std::mem::take(&mut other.policies).into_values().collect();
        rng.shuffle(&mut policies);
        for (number, mut policy) in policies.into_iter().enumerate() {
            for list in [&mut policy.ingress, &mut policy.egress].into_iter().flatten() {
                rng.shuffle(list);
            }
            other.apply(Object::Policy(renamed(&policy, &format!("renamed-{number}"))));
        }
        prop_assert_eq!(allowed(&world, &connections), allowed(&other, &connections));
    }

    /// P3: a second copy of a policy changes nothing.
    #[test]
    fn repetition_does_not_matter(seed: u64) {
        let rng = &mut Rng::new(seed);
        let mut world = settings().world(rng);
        let connections = connections(rng, &world);
        let before = allowed(&world, &connections);
        let Some(policy) = any_policy(rng, &world) else { return Ok(()) };
        world.apply(Object::Policy(renamed(&policy, "again")));
        prop_assert_eq!(before, allowed(&world, &connections));
    }

    /// P4: a policy does not affect the pods of other namespaces.
    #[test]
    fn namespaces_keep_to_themselves(seed: u64) {
        let rng = &mut Rng::new(seed);
        let mut world = settings().world(rng);
        let connections = connections(rng, &world);
        let before = decide(&world, &connections);
        let policy = renamed(&settings().policy(rng), "more");
        let namespace = policy.id.namespace.clone();
        world.apply(Object::Policy(policy));
        for (connection, (before, after)) in connections.iter().zip(before.iter().zip(decide(&world, &connections))) {
            let owners = |address| world.owners(address, None);
            let foreign = |address| owners(address).iter().all(|pod| Some(&pod.key.namespace) != namespace.as_ref());
            if foreign(connection.destination) {
                prop_assert_eq!(&before.ingress, &after.ingress, "{:?}", connection);
            }
            if foreign(connection.source) {
                prop_assert_eq!(&before.egress, &after.egress, "{:?}", connection);
            }
        }
    }

    /// P5: in the cluster-wide tiers an empty list of rules is the same as none. (For NetworkPolicy the two differ
    /// here, and which one is meant by an empty list in a manifest is decided where manifests are read.)
    #[test]
    fn empty_is_missing(seed: u64) {
        let rng = &mut Rng::new(seed);
        let world = Settings::default().world(rng);
        let connections = connections(rng, &world);
        let mut other = world.clone();
        for policy in other.policies.values_mut().filter(|policy| policy.tier != Tier::NetworkPolicy) {
            for list in [&mut policy.ingress, &mut policy.egress] {
                *list = match list.take() {
                    None => Some(Vec::new()),
                    Some(rules) if rules.is_empty() => None,
                    rules => rules,
                };
            }
        }
        prop_assert_eq!(decide(&world, &connections), decide(&other, &connections));
    }
}
