//! Events in any order and grouping lead to the plan of a fresh planner, and the sum of all deltas is that plan.

mod kit;

use std::collections::HashMap;

use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{Plan, Planner, Scope};
use ringfence_model::{Object, ObjectKey, World};

use kit::{feed, follow, shuffled};

fn scopes() -> [Scope; 2] {
    [Scope::Cluster, Scope::Node("node0".into())]
}

fn fresh(scope: &Scope, objects: impl IntoIterator<Item = Object>) -> Plan {
    kit::fresh(Planner::new(scope.clone()), objects)
}

#[test]
fn deltas_add_up_to_the_plan_of_a_fresh_planner() {
    for seed in 0..60 {
        let rng = &mut Rng::new(seed);
        let settings = Settings::default();
        for scope in scopes() {
            let mut world = settings.world(rng);
            let mut planner = Planner::new(scope.clone());
            planner.reset(world.objects());
            let mut folded = Plan::default();
            for step in 0..60 {
                follow(rng, &settings, &mut world, &mut planner, &mut folded);
                if step % 10 == 9 {
                    assert_eq!(folded, fresh(&scope, shuffled(rng, &world)), "fresh, seed {seed}, step {step}");
                }
            }
        }
    }
}

#[test]
fn events_of_different_objects_commute() {
    for seed in 100..200 {
        let rng = &mut Rng::new(seed);
        let settings = Settings::default();
        let start = settings.world(rng);
        let mut events: HashMap<ObjectKey, Vec<Event>> = HashMap::new();
        let mut world = start.clone();
        for _ in 0..30 {
            let event = settings.event(rng, &world);
            event.happen(&mut world);
            let key = match &event {
                Event::Apply(object) => object.key(),
                Event::Delete(key) => key.clone(),
            };
            events.entry(key).or_default().push(event);
        }
        let expected = scopes().map(|scope| fresh(&scope, world.objects()));
        for _ in 0..3 {
            // The events of one object keep their order, as a watch delivers them; all others may be in any.
            let mut turns: Vec<_> = events.iter().flat_map(|(key, list)| vec![key; list.len()]).collect();
            turns.sort();
            rng.shuffle(&mut turns);
            for (scope, expected) in scopes().into_iter().zip(&expected) {
                let mut planner = Planner::new(scope);
                planner.reset(start.objects());
                let mut next: HashMap<&ObjectKey, usize> = HashMap::new();
                for key in &turns {
                    let position = next.entry(*key).or_default();
                    feed(&mut planner, &events[*key][*position]);
                    *position += 1;
                    if rng.percent(30) {
                        planner.commit();
                        if rng.percent(50) {
                            planner.gc_now();
                        }
                    }
                }
                planner.commit();
                assert_eq!(planner.plan(), *expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_reset_is_as_good_as_a_fresh_start() {
    for seed in 300..330 {
        let rng = &mut Rng::new(seed);
        let settings = Settings::default();
        let (before, after) = (settings.world(rng), settings.world(rng));
        let mut planner = Planner::new(Scope::Cluster);
        let mut folded = Plan::default();
        for world in [&before, &after, &after, &World::default()] {
            planner.reset(shuffled(rng, world));
            planner.commit().iter().for_each(|delta| folded.apply(delta));
            assert_eq!(folded, planner.plan(), "deltas, seed {seed}");
            assert_eq!(folded, fresh(&Scope::Cluster, world.objects()), "fresh, seed {seed}");
        }
        assert_eq!(folded, Plan::default(), "an empty world has an empty plan");
        assert_eq!(planner.commit(), [], "nothing happened");
    }
}

#[test]
fn only_the_covered_part_is_replaced() {
    let rng = &mut Rng::new(7);
    let (before, after) = (Settings::default().world(rng), Settings::default().world(rng));
    let mut planner = Planner::new(Scope::Cluster);
    planner.reset(before.objects());
    let pods = |object: &Object| matches!(object, Object::Pod(_));
    planner.replace(|key| matches!(key, ObjectKey::Pod(_)), after.objects().filter(pods));
    planner.commit();
    let expected = before.objects().filter(|object| !pods(object)).chain(after.objects().filter(pods));
    assert_eq!(planner.plan(), fresh(&Scope::Cluster, expected));
}
