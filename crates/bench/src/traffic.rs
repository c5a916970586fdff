//! Cost of an open connection, a request and a new connection under each variant, measured in turns.

pub(crate) mod client;
pub(crate) mod processor;
mod rules;
pub(crate) mod server;
mod stage;
mod variant;

use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::figures::{median, table};
use crate::leftovers;
use client::Rates;
use stage::Stage;
use variant::Variant;

/// Options of the measurement.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of turns of each variant.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Milliseconds of each of the three measurements of a turn.
    #[arg(long, default_value_t = 150)]
    millis: u64,
    /// Numbers of policies.
    #[arg(long, value_delimiter = ',', default_value = "0,10,1000,10000")]
    counts: Vec<usize>,
    /// Number of ClusterNetworkPolicies, in one more variant.
    #[arg(long, default_value_t = 1000)]
    cluster_wide: usize,
}

/// Measures and reports.
pub(crate) fn run(options: &Options) -> anyhow::Result<String> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and kernel programs need root\nhint: run this as root");
    }
    leftovers::remove(stage::PREFIX)?;
    let variants = variant::all(&options.counts, options.cluster_wide);
    let mut stages = Vec::new();
    for (number, variant) in variants.iter().enumerate() {
        eprintln!("preparing: {}", variant.name());
        stages.push(Stage::set(number, variant).with_context(|| variant.name())?);
    }
    let baseline = variants.iter().position(|variant| *variant == Variant::Conntrack).unwrap_or(0);
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); variants.len()];
    let span = Duration::from_millis(options.millis);
    for round in 1..=options.rounds {
        // Every other round goes backwards, so that a drift of the machine falls on all alike.
        let order: Vec<usize> =
            if round % 2 == 0 { (0..stages.len()).rev().collect() } else { (0..stages.len()).collect() };
        for number in order {
            let measure = |number: usize| stages[number].measure(span).with_context(|| variants[number].name());
            // By turns and at once after each other: what slows the machine for a while slows both.
            let (rates, none) = if round % 2 == 0 {
                (measure(number)?, measure(baseline)?)
            } else {
                let none = measure(baseline)?;
                (measure(number)?, none)
            };
            eprintln!("round {round}: {}: {rates}; none: {none}", variants[number].name());
            turns[number].push(Turn { rates, none });
        }
    }
    Ok(report(&variants, &turns))
}

/// The measurement of a variant, and that without an engine right before or after.
#[derive(Clone)]
struct Turn {
    rates: Rates,
    none: Rates,
}

fn report(variants: &[Variant], turns: &[Vec<Turn>]) -> String {
    let of = |number: usize, field: fn(&Rates) -> f64| {
        median(&turns[number].iter().map(|turn| field(&turn.rates)).collect::<Vec<_>>())
    };
    let ratio = |number: usize, field: fn(&Rates) -> f64| {
        median(&turns[number].iter().map(|turn| field(&turn.rates) / field(&turn.none)).collect::<Vec<_>>())
    };
    let mut rows = Vec::new();
    for (number, variant) in variants.iter().enumerate() {
        rows.push(vec![
            variant.name(),
            format!("{:.2}", of(number, |rates| rates.gigabits)),
            format!("{:.2}", ratio(number, |rates| rates.gigabits)),
            format!("{:.1}", of(number, |rates| rates.request_p50)),
            format!("{:.1}", of(number, |rates| rates.request_p99)),
            format!("{:.0}", of(number, |rates| rates.connections)),
            format!("{:.2}", ratio(number, |rates| rates.connections)),
            format!("{:.1}", of(number, |rates| rates.connect_p99)),
        ]);
    }
    let headings =
        ["variant", "Gbit/s", "ratio", "request P50 µs", "request P99 µs", "connections/s", "ratio", "connect P99 µs"];
    table(&headings, &rows)
}
