//! Policies that do not fit are denied, at the expense of the largest demands, and all others work as before.

mod kit;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{Delta, Limits, Plan, Planner, PortTable, RuleId, RulesetId, Scope};
use ringfence_model::{Direction, Name, Object, PodPhase, Reason, World};

use kit::{feed, follow, shuffled};

fn fresh(limits: Limits, objects: impl IntoIterator<Item = Object>) -> Plan {
    kit::fresh(Planner::with_limits(Scope::Cluster, limits), objects)
}

fn range_count<'a>(tables: impl Iterator<Item = &'a Arc<PortTable>>) -> usize {
    tables.collect::<HashSet<_>>().into_iter().map(|table| table.ranges().len()).sum()
}

/// The use of each resource by a plan.
fn used(plan: &Plan) -> Limits {
    let single = plan.ipcache.keys().filter(|net| net.prefix_len() == net.max_prefix_len()).count();
    Limits {
        endpoints: plan.endpoints.len(),
        ipcache: single,
        ipcache_cidrs: plan.ipcache.len() - single,
        policy: plan.policy.len(),
        port_ranges: range_count(plan.policy.values()),
        // The default decision has no counter in the kernel.
        rule_counters: plan.rules.keys().filter(|rule_id| **rule_id != RuleId::DEFAULT).count(),
        closed_cidrs: plan.closed_cidrs.len(),
        layout: usize::MAX,
    }
}

/// Limits of which some are below the use of a plan.
fn some_limits(rng: &mut Rng, plan: &Plan) -> Limits {
    let used = used(plan);
    let mut less = |used: usize| if rng.percent(50) { usize::MAX } else { used * rng.below(120) / 100 };
    Limits {
        endpoints: less(used.endpoints),
        ipcache: less(used.ipcache),
        ipcache_cidrs: less(used.ipcache_cidrs),
        policy: less(used.policy),
        port_ranges: less(used.port_ranges),
        rule_counters: less(used.rule_counters),
        closed_cidrs: usize::MAX,
        layout: less(2000),
    }
}

/// The number of addresses of nodes and domain names, which are in the ipcache in any case.
fn hosts(world: &World) -> usize {
    let nodes = world.nodes.values().map(|node| node.addresses.len());
    nodes.chain(world.domains.values().map(|domain| domain.addresses.len() + domain.lingering.len())).sum()
}

fn is_within(plan: &Plan, limits: Limits, hosts: usize) -> bool {
    // The entries of `NO_ROOM` use room themselves, if there is any.
    let used = used(plan);
    used.endpoints <= limits.endpoints
        && used.ipcache <= limits.ipcache.saturating_add(hosts)
        && used.ipcache_cidrs <= limits.ipcache_cidrs.max(2)
        && used.policy <= limits.policy.max(3)
        && used.port_ranges <= limits.port_ranges.max(1)
        && used.rule_counters <= limits.rule_counters.max(1)
}

#[test]
fn plans_with_limits_are_functions_of_the_world_and_the_sum_of_their_deltas() {
    let mut refused = 0;
    for seed in 0..80 {
        let rng = &mut Rng::new(seed);
        let settings = Settings::default();
        let mut world = settings.world(rng);
        let limits = some_limits(rng, &fresh(Limits::NONE, world.objects()));
        let mut planner = Planner::with_limits(Scope::Cluster, limits);
        planner.reset(world.objects());
        let mut folded = Plan::default();
        for step in 0..30 {
            follow(rng, &settings, &mut world, &mut planner, &mut folded);
            assert!(
                is_within(&folded, limits, hosts(&world)),
                "seed {seed}, step {step}: {:?} of {limits:?}",
                used(&folded)
            );
            let objects = shuffled(rng, &world);
            assert_eq!(folded, fresh(limits, objects), "fresh, seed {seed}, step {step}, {limits:?}");
            let denied: usize = planner.refusals().iter().map(|refusal| refusal.pods.len()).sum();
            refused += denied;
        }
    }
    assert!(refused > 1000, "only {refused} pods were refused");
}

#[test]
fn nothing_is_allowed_that_would_be_denied_if_there_was_room() {
    let (mut denied, mut allowed) = (0, 0);
    for seed in 0..150 {
        let rng = &mut Rng::new(seed);
        let settings = Settings::default();
        let world = settings.world(rng);
        let unlimited = fresh(Limits::NONE, world.objects());
        let limits = some_limits(rng, &unlimited);
        let plan = fresh(limits, world.objects());
        for _ in 0..200 {
            let connection = settings.connection(rng, &world);
            for direction in [Direction::Ingress, Direction::Egress] {
                let (all, some) = (
                    unlimited.evaluate_direction(&connection, direction),
                    plan.evaluate_direction(&connection, direction),
                );
                if some.reason == Reason::NotAPod && all.reason != Reason::NotAPod {
                    // There are too many endpoints. An address without one is closed.
                    continue;
                }
                let no_room = some.reason == Reason::NoRoom;
                assert!(!no_room || !some.allow);
                assert!(no_room || some == all, "seed {seed}: {connection:?}: {some:?}, not {all:?}");
                denied += usize::from(no_room && all.allow);
                allowed += usize::from(!no_room && some.allow);
            }
        }
    }
    assert!(denied > 500 && allowed > 500, "{denied} denied for want of room, {allowed} allowed");
}

/// The port tables of each namespace, in a plan whose rulesets all belong to namespaces.
fn by_namespace(plan: &Plan) -> BTreeMap<Name, HashSet<Arc<PortTable>>> {
    let mut all: BTreeMap<Name, HashSet<Arc<PortTable>>> = BTreeMap::new();
    for endpoint in plan.endpoints.values() {
        let of = all.entry(Arc::clone(&endpoint.pod.namespace)).or_default();
        for ruleset in [endpoint.ingress, endpoint.egress] {
            let policy = plan.policy.iter().filter(|(key, _)| key.ruleset == ruleset);
            of.extend(policy.map(|(_, table)| Arc::clone(table)));
        }
    }
    all
}

#[test]
fn who_asks_for_no_more_than_a_fair_share_notices_nothing() {
    let (mut served, mut refused) = (0, 0);
    for seed in 0..200 {
        let rng = &mut Rng::new(seed);
        let settings = Settings { tiers: false, namespaces: 4, ..Settings::default() };
        let mut world = settings.world(rng);
        // Each pod has an address of its own, which always counts. A plan does not show the demands of pods without
        // addresses.
        for node in world.nodes.values_mut() {
            node.pod_cidrs.clear();
        }
        for (number, pod) in (0_u16..).zip(world.pods.values_mut()) {
            let [high, low] = number.to_be_bytes();
            pod.addresses = vec![[10, 9, high, low].into()];
            pod.phase = PodPhase::Running;
        }
        let unlimited = fresh(Limits::NONE, world.objects());
        let port_ranges = 1 + used(&unlimited).port_ranges * (20 + rng.below(75)) / 100;
        let plan = fresh(Limits { port_ranges, ..Limits::NONE }, world.objects());
        let held = by_namespace(&unlimited);
        let payers = held.values().filter(|tables| !tables.is_empty()).count();
        assert_eq!(plan.ipcache, unlimited.ipcache, "classes are what they would be");
        for (address, endpoint) in &unlimited.endpoints {
            let modest = range_count(held[&endpoint.pod.namespace].iter()) <= (port_ranges - 1) / payers.max(1);
            assert!(!modest || plan.endpoints[address] == *endpoint, "seed {seed}: {endpoint:?}");
            served += usize::from(modest && endpoint.ingress != RulesetId::NONE);
            refused += usize::from(plan.endpoints[address] != *endpoint);
        }
        for (key, table) in &plan.policy {
            assert!(key.ruleset == RulesetId::NO_ROOM || unlimited.policy[key] == *table, "seed {seed}");
        }
    }
    assert!(served > 300 && refused > 300, "{served} served, {refused} refused");
}

/// Returns the writes of a delta one by one, in the order of the applier.
fn writes(delta: &Delta) -> Vec<Delta> {
    let mut writes = Vec::new();
    macro_rules! each {
        ($($field:ident),*) => {$(
            writes.extend(delta.$field.iter().cloned().map(|one| Delta { $field: vec![one], ..Delta::default() }));
        )*};
    }
    each!(
        put_rules,
        put_policy,
        put_ipcache,
        put_endpoints,
        delete_endpoints,
        delete_ipcache,
        delete_policy,
        delete_rules
    );
    writes
}

#[test]
fn at_every_write_a_pod_is_on_one_whole_policy_or_denied_for_want_of_room() {
    let (mut questions, mut denied) = (0, 0);
    for seed in 0..60 {
        let rng = &mut Rng::new(seed);
        let settings = Settings { pods: 10, policies: 8, ..Settings::default() };
        let mut world = settings.world(rng);
        let limits = Limits { endpoints: usize::MAX, ..some_limits(rng, &fresh(Limits::NONE, world.objects())) };
        let mut planner = Planner::with_limits(Scope::Cluster, limits);
        let mut free = Planner::new(Scope::Cluster);
        for planner in [&mut planner, &mut free] {
            planner.reset(world.objects());
            planner.commit();
        }
        for step in 0..8 {
            let (before, free_before) = (planner.plan(), free.plan());
            for _ in 0..=rng.below(2) {
                let policies = |event: &Event| matches!(event, Event::Apply(Object::Policy(_)));
                let Some(event) = (0..100).map(|_| settings.event(rng, &world)).find(policies) else { continue };
                event.happen(&mut world);
                feed(&mut planner, &event);
                feed(&mut free, &event);
            }
            let deltas = planner.commit();
            free.commit();
            let (after, free_after) = (planner.plan(), free.plan());
            let asked: Vec<_> = (0..60).map(|_| settings.connection(rng, &world)).collect();
            let mut plan = before.clone();
            for write in deltas.iter().flat_map(writes) {
                plan.apply(&write);
                for connection in &asked {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let plans = [&before, &after, &free_before, &free_after];
                        let now = plan.evaluate_direction(connection, direction);
                        // A peer that overflows in one of the plans only may get the verdict of a plan without limits.
                        let whole = plans.iter().any(|plan| plan.evaluate_direction(connection, direction) == now);
                        let whole = whole || now.reason == Reason::NoRoom;
                        assert!(whole, "seed {seed}, step {step}: {connection:?}: {now:?} after {write:?}");
                        questions += 1;
                        denied += usize::from(now.reason == Reason::NoRoom);
                    }
                }
            }
        }
    }
    assert!(questions > 100_000 && denied > 1000, "{questions} questions, {denied} denied");
}

#[test]
fn who_keeps_has_what_it_had_and_nobody_else_notices() {
    let (mut kept, mut denied, mut same) = (0, 0, 0);
    for seed in 0..120 {
        let rng = &mut Rng::new(seed);
        let settings = Settings::default();
        let mut world = settings.world(rng);
        let some = some_limits(rng, &fresh(Limits::NONE, world.objects()));
        // Rules split peer sets whether or not they are in force.
        let limits = Limits { endpoints: usize::MAX, ipcache: usize::MAX, policy: usize::MAX, ..some };
        let mut planners = [(); 2].map(|()| Planner::with_limits(Scope::Cluster, limits));
        planners[1].retain_previous(true);
        for planner in &mut planners {
            planner.reset(world.objects());
        }
        let mut folded = Plan::default();
        for step in 0..20 {
            let before = folded.clone();
            for _ in 0..rng.below(4) {
                let event = settings.event(rng, &world);
                event.happen(&mut world);
                for planner in &mut planners {
                    feed(planner, &event);
                }
            }
            planners[0].commit();
            planners[1].commit().iter().for_each(|delta| folded.apply(delta));
            let denying = planners[0].plan();
            assert_eq!(folded, planners[1].plan(), "deltas, seed {seed}, step {step}");
            assert!(
                is_within(&folded, limits, hosts(&world)),
                "seed {seed}, step {step}: {:?} of {limits:?}",
                used(&folded)
            );
            for (address, endpoint) in &denying.endpoints {
                let (now, had) = (&folded.endpoints[address], before.endpoints.get(address));
                for direction in [Direction::Ingress, Direction::Egress] {
                    let (strict, now) = (endpoint.ruleset(direction), now.ruleset(direction));
                    let had = had.filter(|had| had.uid == endpoint.uid).map(|had| had.ruleset(direction));
                    let keeps = strict == RulesetId::NO_ROOM && Some(now) == had && now != strict;
                    assert!(now == strict || keeps, "seed {seed}, step {step}: {endpoint:?}: {now:?} after {had:?}");
                    kept += usize::from(keeps);
                    denied += usize::from(now == RulesetId::NO_ROOM);
                }
            }
            for _ in 0..40 {
                let connection = settings.connection(rng, &world);
                for direction in [Direction::Ingress, Direction::Egress] {
                    let [strict, now] = [&denying, &folded].map(|plan| plan.evaluate_direction(&connection, direction));
                    assert!(strict == now || strict.reason == Reason::NoRoom, "seed {seed}: {connection:?}: {now:?}");
                    same += usize::from(strict == now && strict.allow);
                }
            }
        }
        let retaining: usize = planners[1].refusals().iter().map(|refusal| refusal.retaining.len()).sum();
        let all = |planner: &Planner| -> usize {
            planner.refusals().iter().map(|refusal| refusal.pods.len() + refusal.retaining.len()).sum()
        };
        assert!(retaining <= all(&planners[1]) && all(&planners[0]) == all(&planners[1]), "seed {seed}");
    }
    assert!(kept > 300 && denied > 1000 && same > 1000, "{kept} kept, {denied} denied, {same} the same");
}

#[test]
fn addresses_that_have_to_be_closed_are_however_little_room_there_is() {
    let mut planner = Planner::with_limits(Scope::Node("n".into()), Limits { closed_cidrs: 10, ..Limits::NONE });
    let address = |number: u8| -> IpAddr { [10, 7, number % 3, number].into() };
    for count in [5, 10, 11, 60, 200] {
        planner.close_addresses((0..count).map(address).collect());
        planner.commit();
        let closed_cidrs = planner.plan().closed_cidrs;
        assert!(closed_cidrs.len() <= 10, "{count}: {closed_cidrs:?}");
        assert!(
            (0..count).map(address).all(|address| closed_cidrs.iter().any(|cidr| cidr.contains(&address))),
            "{count}"
        );
        assert!(
            !closed_cidrs.iter().any(|cidr| cidr.contains(&IpAddr::from([10, 8, 0, 1]))),
            "no more than needed: {closed_cidrs:?}"
        );
        assert_eq!(planner.closed_addresses_are_widened(), count > 10);
        assert!(count > 10 || closed_cidrs.iter().all(|cidr| cidr.prefix_len() == 32));
    }
    planner.close_addresses([address(1)].into());
    planner.commit();
    assert!(planner.plan().closed_cidrs.len() == 1 && !planner.closed_addresses_are_widened());
}
