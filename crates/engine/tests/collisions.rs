//! Contents whose ids collide, as happens often with ids of one byte. Colliding contents are denied, and nothing is
//! allowed by a collision.

use std::collections::HashMap;

use ringfence_engine::generate::{Event, Rng, Settings, with_short_ids};
use ringfence_engine::{Plan, Planner, Scope, reference};

#[derive(Debug, Default)]
struct Tally {
    questions: usize,
    /// Allowed by the reference, denied by the plan.
    denied: usize,
    allowed: usize,
}

#[test]
fn a_collision_denies_and_never_opens() {
    let tally = with_short_ids(1, || {
        let mut tally = Tally::default();
        for seed in 0..100 {
            history(seed, &mut tally);
        }
        tally
    });
    assert!(tally.denied * 20 > tally.questions && tally.allowed * 20 > tally.questions, "{tally:?}");
}

/// A plan without the reasons of its rule ids, because only one reason is reported for two that collide.
fn policy(plan: &Plan) -> Plan {
    Plan { rules: HashMap::default(), ..plan.clone() }
}

fn history(seed: u64, tally: &mut Tally) {
    let rng = &mut Rng::new(seed);
    let settings = Settings::default();
    let mut world = settings.world(rng);
    let mut planner = Planner::new(Scope::Cluster);
    planner.reset(world.objects());
    let mut folded = Plan::default();
    for step in 0..10 {
        for _ in 0..rng.below(4) {
            let event = settings.event(rng, &world);
            event.happen(&mut world);
            match &event {
                Event::Apply(object) => planner.apply(object.clone()),
                Event::Delete(key) => planner.delete(key),
            }
        }
        planner.commit().iter().for_each(|delta| folded.apply(delta));
        if rng.percent(30) {
            planner.gc_now();
        }
        assert_eq!(policy(&folded), policy(&planner.plan()), "seed {seed}, step {step}");
        let pods: Vec<_> = folded.endpoints.keys().copied().collect();
        for question in 0..60 {
            let lingering = (question < 5).then(|| settings.lingering(rng, &world, &pods)).flatten();
            let connection = lingering.unwrap_or_else(|| settings.connection(rng, &world));
            let (said, right) = (folded.evaluate(&connection), reference::evaluate(&world, &connection));
            for (said, right) in [(&said.egress, &right.egress), (&said.ingress, &right.ingress)] {
                assert!(right.allow || !said.allow, "opened, seed {seed}, step {step}: {connection:?}: {said:?}");
                tally.questions += 1;
                tally.denied += usize::from(right.allow && !said.allow);
                tally.allowed += usize::from(said.allow);
            }
        }
    }
}
