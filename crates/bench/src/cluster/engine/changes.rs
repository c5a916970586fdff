//! How long changes take to decide packets.

use std::time::Duration;

use ringfence_e2e::pod;
use serde_json::{Value, json};

use super::Bench;
use crate::changes::pods::{Pods, create_others};
use crate::changes::rounds::Rounds;

/// How to measure.
#[derive(clap::Args)]
pub(in crate::cluster) struct Options {
    /// How often each of the ten changes is made.
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// Microseconds between two probes.
    #[arg(long, default_value_t = 1000)]
    interval: u64,
    /// Policies that select the client, all the time.
    #[arg(long, default_value_t = 0)]
    others: usize,
    /// Seconds that an engine is given to take in those.
    #[arg(long, default_value_t = 10)]
    settle: u64,
}

/// Milliseconds of each change.
pub(super) fn run(bench: &Bench, options: &Options) -> anyhow::Result<Value> {
    let [near, far] = bench.two_nodes()?;
    let pods = bench.runtime.block_on(async {
        Pods::prepare(&bench.cluster).await?;
        let pods = Pods::start(&bench.cluster, &near, &[&far], &pod::network).await?;
        create_others(&bench.cluster, 0, options.others).await?;
        if options.others > 0 {
            tokio::time::sleep(Duration::from_secs(options.settle)).await;
        }
        anyhow::Ok(pods)
    })?;
    let mut rounds = Rounds::start(pods, Duration::from_micros(options.interval))?;
    let times = rounds.measure(&bench.runtime, options.rounds)?;
    let tally = rounds.end();
    let of = |kinds: &[&str]| -> Vec<f64> {
        let wanted = times.iter().filter(|(change, _)| kinds.is_empty() || kinds.contains(&change.kind()));
        wanted.flat_map(|(_, times)| times.iter().flatten().copied()).collect()
    };
    Ok(json!({"all": of(&[]), "relabelled": of(&["relabel"]), "probes": tally.known, "strays": tally.strays}))
}
