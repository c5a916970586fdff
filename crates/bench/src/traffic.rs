//! What an open connection, a request and a new connection cost under each variant, measured in turns.

mod client;
mod policies;
mod rules;
mod server;
mod stage;
mod variant;

use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::figures::{median, table};
use client::Rates;
use stage::Stage;
use variant::Variant;

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each variant has its turn.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Milliseconds of each of the three measurements of a turn.
    #[arg(long, default_value_t = 300)]
    millis: u64,
    /// Numbers of policies.
    #[arg(long, value_delimiter = ',', default_value = "0,10,1000,10000")]
    counts: Vec<usize>,
}

/// Measures and reports.
pub(crate) fn run(options: &Options) -> anyhow::Result<String> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and kernel programs need root\nhint: run this as root");
    }
    stage::remove_leftovers()?;
    let variants = variant::all(&options.counts);
    let mut stages = Vec::new();
    for (number, variant) in variants.iter().enumerate() {
        eprintln!("preparing: {}", variant.name());
        stages.push(Stage::set(number, variant).with_context(|| variant.name())?);
    }
    let mut rates: Vec<Vec<Rates>> = vec![Vec::new(); variants.len()];
    let span = Duration::from_millis(options.millis);
    for round in 1..=options.rounds {
        // Every other round goes backwards, so that a drift of the machine falls on all alike.
        let order: Vec<usize> =
            if round % 2 == 0 { (0..stages.len()).rev().collect() } else { (0..stages.len()).collect() };
        for number in order {
            let measured = stages[number].measure(span).with_context(|| variants[number].name())?;
            eprintln!("round {round}: {}: {measured}", variants[number].name());
            rates[number].push(measured);
        }
    }
    Ok(report(&variants, &rates))
}

fn report(variants: &[Variant], rates: &[Vec<Rates>]) -> String {
    let of = |number: usize, field: fn(&Rates) -> f64| median(&rates[number].iter().map(field).collect::<Vec<_>>());
    let baseline = variants.iter().position(|variant| *variant == Variant::Conntrack).unwrap_or(0);
    // Of each round by itself: what slows the machine for a while slows both.
    let ratio = |number: usize, field: fn(&Rates) -> f64| {
        let pairs = rates[number].iter().zip(&rates[baseline]);
        median(&pairs.map(|(rates, none)| field(rates) / field(none)).collect::<Vec<_>>())
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
