//! Time from the API's answer to a change until the first packet decided by it.

mod lab;
pub(crate) mod pods;
pub(crate) mod prober;
pub(crate) mod rounds;
pub(crate) mod seen;

use std::path::PathBuf;
use std::time::Duration;

use ringfence_e2e::cluster::Cluster;
use ringfence_netns::Namespace;

use crate::figures::table;
use pods::{Pods, create_others};
use rounds::{HEADINGS, Rounds, Times, report};
use seen::Tally;

/// Options of the measurement.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of times that each of the ten changes is made.
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
        rows.extend(report(&[others.to_string()], &times, 0));
        all += tally;
    }
    let headings = [&["change", "other policies"][..], &HEADINGS].concat();
    Ok(format!("{}\n{all}\n", table(&headings, &rows)))
}

fn run_with(options: &Options, others: usize) -> anyhow::Result<(Times, Tally)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let program = match &options.ringfence {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("ringfence"),
    };
    let lab = lab::Lab::up(program, options.nodes)?;
    let network = |pod: &k8s_openapi::api::core::v1::Pod| {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        Ok(Namespace::open(&lab.place().pod_namespace(uid))?)
    };
    let pods = runtime.block_on(async {
        let cluster = Cluster::of(&lab.place().kubeconfig()).await?;
        Pods::prepare(&cluster).await?;
        create_others(&cluster, 0, others).await?;
        Pods::start(&cluster, &format!("node-{}", options.nodes), &["node-1"], &network).await
    })?;
    let mut rounds = Rounds::start(pods, Duration::from_micros(options.interval))?;
    let times = rounds.measure(&runtime, options.rounds)?;
    let tally = rounds.end();
    lab.down()?;
    Ok((times, tally))
}
