//! Time from the API's answer to a change until the first packet decided by it.

mod cluster;
mod prober;
mod seen;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::figures::{quantile, table};
use cluster::{Change, Cluster};
use seen::{Seen, Tally};

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each of the ten changes is made.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Microseconds between two probes.
    #[arg(long, default_value_t = 500)]
    interval: u64,
    /// Numbers of policies that select the client, all the time; a lab for each.
    #[arg(long, value_delimiter = ',', default_value = "0,1000,10000")]
    others: Vec<usize>,
    /// Nodes of the lab; the two pods are on the first and the last.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// The `ringfence` program; by default the one beside this one.
    #[arg(long)]
    ringfence: Option<PathBuf>,
}

/// Starts labs, measures in them one after the other and reports.
pub(crate) fn run(options: &Options) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    let mut all = Tally::default();
    for others in &options.others {
        eprintln!("with {others} other policies");
        let (times, tally) = run_with(options, *others)?;
        rows.extend(report(*others, &times));
        all += tally;
    }
    let headings = ["change", "other policies", "n", "P50 ms", "P90 ms", "P99 ms", "max ms"];
    let Tally { all, known, strays } = all;
    let tail = format!("{all} probes; {known} of them outside of changes, of which {strays} contradict the state.");
    Ok(format!("{}\n{tail}\n", table(&headings, &rows)))
}

fn run_with(options: &Options, others: usize) -> anyhow::Result<(Times, Tally)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let program = match &options.ringfence {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("ringfence"),
    };
    let lab = cluster::Lab::up(program, options.nodes)?;
    let cluster = runtime.block_on(Cluster::start(&lab, options.nodes, others))?;
    let (sender, receiver) = mpsc::channel();
    let interval = Duration::from_micros(options.interval);
    let end = prober::start(&cluster.client_namespace, cluster.server, interval, sender)?;
    let mut seen = Seen::new(receiver);
    let measured = measure(options, &runtime, &cluster, &mut seen);
    drop(end);
    let times = measured?;
    lab.down()?;
    Ok((times, seen.tally()))
}

/// Milliseconds of each kind of change.
type Times = BTreeMap<Change, Vec<f64>>;

fn measure(
    options: &Options,
    runtime: &tokio::runtime::Runtime,
    cluster: &Cluster,
    seen: &mut Seen,
) -> anyhow::Result<Times> {
    let mut times = Times::new();
    seen.begin(true, Instant::now()).context("the client never reaches the server, before any change")?;
    let mut allowed = true;
    for round in 1..=options.rounds {
        for change in Change::ROUND {
            // Not in step with anything periodic: between 20 and 60 ms.
            let rest = 20 + (round * 7 + times.values().map(Vec::len).sum::<usize>() * 13) % 41;
            if !seen.hold(allowed, Duration::from_millis(rest as u64)) {
                bail!("before {change:?} of round {round} the prober ended or stood still");
            }
            let asked = Instant::now();
            runtime.block_on(cluster.make(change))?;
            let answered = Instant::now();
            allowed = change.allows();
            let begun = seen.begin(allowed, asked);
            let Some(begun) = begun else { bail!("{change:?} of round {round} changed nothing") };
            times.entry(change).or_default().push(signed_millis(answered, begun));
        }
        eprintln!("round {round} of {}", options.rounds);
    }
    Ok(times)
}

/// From one instant to another, which may be earlier: a change may be in force before the answer is read.
fn signed_millis(from: Instant, to: Instant) -> f64 {
    let forward = to.saturating_duration_since(from).as_secs_f64();
    (forward - from.saturating_duration_since(to).as_secs_f64()) * 1e3
}

fn report(others: usize, times: &Times) -> [Vec<String>; 7] {
    let group = |name: &str, member: &dyn Fn(Change) -> bool| {
        let values: Vec<f64> =
            times.iter().filter(|(change, _)| member(**change)).flat_map(|(_, v)| v.clone()).collect();
        let at = |fraction| format!("{:.2}", quantile(&values, fraction));
        vec![name.to_owned(), others.to_string(), values.len().to_string(), at(0.5), at(0.9), at(0.99), at(1.0)]
    };
    [
        group("policy created", &|change| change.kind() == "create"),
        group("policy updated", &|change| change.kind() == "update"),
        group("policy deleted", &|change| change.kind() == "delete"),
        group("pod relabelled", &|change| change.kind() == "relabel"),
        group("all that deny", &|change| !change.allows()),
        group("all that allow", &|change| change.allows()),
        group("all", &|_| true),
    ]
}
