//! The changes of [`crate::changes`] on a cluster: a client on one node, a server beside it, a server on another node.

use std::time::Duration;

use ringfence_e2e::pod;

use super::Bench;
use crate::changes::pods::{Pods, create_others};
use crate::changes::rounds::{HEADINGS, Rounds, everywhere, report};
use crate::figures::table;

/// Options of the measurement.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Number of times that each of the ten changes is made.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Microseconds between two probes of a server.
    #[arg(long, default_value_t = 500)]
    interval: u64,
    /// Numbers of policies that select the client, all the time; ascending.
    #[arg(long, value_delimiter = ',', default_value = "0,1000,10000")]
    others: Vec<usize>,
}

/// Measures and reports.
pub(super) fn run(bench: &Bench, options: &Options) -> anyhow::Result<String> {
    let [near, far] = bench.two_nodes()?;
    let pods = bench.runtime.block_on(async {
        Pods::prepare(&bench.cluster).await?;
        Pods::start(&bench.cluster, &near, &[&near, &far], &pod::network).await
    })?;
    let mut rounds = Rounds::start(pods, Duration::from_micros(options.interval))?;
    let (mut rows, mut there) = (Vec::new(), 0);
    for others in &options.others {
        eprintln!("with {others} other policies");
        bench.runtime.block_on(create_others(&bench.cluster, there, *others))?;
        there = *others;
        // What comes last is enforced last: then all others are.
        rounds.measure(&bench.runtime, 1)?;
        let times = rounds.measure(&bench.runtime, options.rounds)?;
        for (server, place) in ["the same node", "another node"].into_iter().enumerate() {
            rows.extend(report(&[place.to_owned(), others.to_string()], &times, server));
        }
        rows.push(everywhere(&["both nodes".to_owned(), others.to_string()], &times));
    }
    let headings = [&["change", "server on", "other policies"][..], &HEADINGS].concat();
    Ok(format!("{}\n{}\n", table(&headings, &rows), rounds.end()))
}
