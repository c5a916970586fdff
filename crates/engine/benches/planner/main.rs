//! The cost of planning at 100,000 pods and 10,000 policies, 250 pods on the node: time to the first plan, time of one
//! pod event and of one policy event (`apply` and `commit`), memory.
//!
//! `cargo bench -p ringfence-engine --bench planner [-- --json]`. For a profiler or an instruction counter one part can
//! be run alone: `-- cold|pods|local|policies [SHAPE]` with the number of a shape, `-- one-pod`. Memory is the growth
//! of the resident set of a process of its own in which a planner is fed objects that are made one by one and not kept:
//! Linux only, elsewhere it is 0.

mod figure;
mod one_pod;
mod segmented;

use std::io;
use std::time::{Duration, Instant};

use ringfence_engine::Planner;
use segmented::SHAPES;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let shape = words.get(1).and_then(|number| number.parse().ok()).and_then(|number: usize| SHAPES.get(number));
    let mut figures = Vec::new();
    match (words.first().copied(), shape.unwrap_or(&SHAPES[0])) {
        (Some("memory"), shape) => return segmented::print_memory(shape),
        (Some("cold"), shape) => segmented::cold(shape, &mut figures),
        (Some("pods"), shape) => segmented::pod_events(shape, &mut segmented::planned(shape), &mut figures),
        (Some("policies"), shape) => segmented::policy_events(shape, &mut segmented::planned(shape), &mut figures),
        (Some("local"), shape) => segmented::local_pod_events(shape, 20, &mut segmented::planned(shape), &mut figures),
        (Some("one-pod"), _) => one_pod::run(&mut figures),
        (Some(_) | None, _) => {
            for (number, shape) in SHAPES.iter().enumerate() {
                segmented::memory(number, shape, &mut figures)?;
                segmented::cold(shape, &mut figures);
                let mut planner = segmented::planned(shape);
                segmented::pod_events(shape, &mut planner, &mut figures);
                segmented::local_pod_events(shape, 4, &mut planner, &mut figures);
                segmented::policy_events(shape, &mut planner, &mut figures);
            }
            one_pod::run(&mut figures);
        }
    }
    figure::print(&figures, json)
}

fn timed(planner: &mut Planner, event: impl FnOnce(&mut Planner)) -> Duration {
    let start = Instant::now();
    event(planner);
    let deltas = planner.commit();
    let time = start.elapsed();
    drop(deltas);
    time
}
