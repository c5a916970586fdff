//! Traffic under many policies.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Bench;
use crate::changes::prober;
use crate::changes::rounds::signed_millis;
use crate::changes::seen::Seen;
use crate::cluster::agents::{Agent, usage_of};
use crate::cluster::policies::{Peers, Variant};
use crate::cluster::stage::Stage;

/// How to measure.
#[derive(clap::Args)]
pub(in crate::cluster) struct Options {
    /// Numbers of policies on a pod.
    #[arg(long, value_delimiter = ',', default_value = "0,10,1000,10000")]
    counts: Vec<usize>,
    /// They allow pods by their labels instead of blocks of one address.
    #[arg(long)]
    pods: bool,
    /// How often traffic is measured.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 150)]
    millis: u64,
    /// Processes of the engine, whose processor time and memory are told.
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    watch: Vec<u32>,
}

/// The figures of each number of policies.
pub(super) fn run(bench: &Bench, options: &Options) -> anyhow::Result<Value> {
    let peers = if options.pods { Peers::Pods } else { Peers::Blocks };
    let variants: Vec<Variant> = options.counts.iter().map(|count| Variant { peers, count: *count }).collect();
    let nodes = bench.two_nodes()?;
    let stage = bench.runtime.block_on(Stage::set(&bench.cluster, &nodes, &[], &variants))?;
    let engine: Vec<Agent> = options.watch.iter().map(|process| Agent::of(*process)).collect();
    let mut figures = Vec::new();
    for (number, variant) in variants.iter().enumerate() {
        eprintln!("{}", variant.name());
        let mut figure = create(bench, &stage, number, *variant, &engine)?;
        let mut rates = Vec::new();
        for _ in 0..options.rounds {
            let taken = stage.measure(stage.server(1, number), Duration::from_millis(options.millis))?;
            rates.push(json!({
                "gigabits": taken.gigabits, "request_us": taken.request_p50,
                "connections": taken.connections, "connect_us": taken.connect_p50,
            }));
        }
        figure["rates"] = json!(rates);
        figures.push(figure);
    }
    Ok(json!(figures))
}

/// Creates the policies, the one that lets the client in last.
///
/// An engine that enforces keeps the client out until then; without one it never is.
fn create(bench: &Bench, stage: &Stage, number: usize, variant: Variant, engine: &[Agent]) -> anyhow::Result<Value> {
    if variant.count == 0 {
        return Ok(json!({"policies": 0}));
    }
    let before = usage_of(engine)?;
    let (sender, receiver) = mpsc::channel();
    let network = Arc::new(ringfence_netns::Namespace::open_path(&stage.client.path())?);
    let prober = prober::start(network, stage.server(1, number), Duration::from_micros(500), sender);
    let mut seen = Seen::new(receiver);
    let begun = Instant::now();
    bench.runtime.block_on(variant.lock(&bench.cluster))?;
    let closed = variant.count > 1 && seen.begin(false, begun).is_some();
    let asked = Instant::now();
    bench.runtime.block_on(variant.open(&bench.cluster, stage.client_address))?;
    let answered = Instant::now();
    let open = if closed { seen.begin(true, asked) } else { None };
    drop(prober);
    let used = usage_of(engine)?;
    let seconds: f64 = before.iter().zip(&used).map(|(before, used)| used.seconds - before.seconds).sum();
    let resident = used.iter().map(|used| used.resident).fold(0.0, f64::max);
    Ok(json!({
        "policies": variant.count,
        "enforced": closed,
        "last_ms": open.map(|open| signed_millis(answered, open)),
        "processor_s": seconds,
        "resident_mb": resident,
    }))
}
