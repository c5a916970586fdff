//! A world that changes, and planners that follow it.

use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{Plan, Planner};
use ringfence_model::{Object, World};

/// Passes an event to a planner.
pub(crate) fn feed(planner: &mut Planner, event: &Event) {
    match event {
        Event::Apply(object) => planner.apply(object.clone()),
        Event::Delete(key) => planner.delete(key),
    }
}

/// The plan of a new planner for these objects.
pub(crate) fn fresh(mut planner: Planner, objects: impl IntoIterator<Item = Object>) -> Plan {
    objects.into_iter().for_each(|object| planner.apply(object));
    planner.commit();
    planner.plan()
}

/// All objects of a world in a random order, namespaces after their pods and policies too.
pub(crate) fn shuffled(rng: &mut Rng, world: &World) -> Vec<Object> {
    let mut objects: Vec<_> = world.objects().collect();
    rng.shuffle(&mut objects);
    objects
}

/// Changes a world, lets a planner follow, and compares the sum of its deltas with its plan.
pub(crate) fn follow(rng: &mut Rng, settings: &Settings, world: &mut World, planner: &mut Planner, folded: &mut Plan) {
    for _ in 0..rng.below(4) {
        let event = settings.event(rng, world);
        event.happen(world);
        feed(planner, &event);
    }
    planner.commit().iter().for_each(|delta| folded.apply(delta));
    if rng.percent(30) {
        planner.gc_now();
    }
    assert_eq!(*folded, planner.plan(), "the sum of the deltas is the plan");
}
