//! Faults under steady probes: whatever happens to agents, nodes and the control plane, nothing may leak and nothing
//! that is allowed may be lost.
//!
//! ```text
//! stage     pods that call each other, policies, and threads inside the pods' network namespaces
//! prober    a caller: every 10 ms a first packet, a datagram, a message on an open connection
//! witness   a called pod: every packet that arrives, answered or not
//! ledger    what must be of each pair at a moment, and what was seen
//! scenario  the faults
//! report    the table
//! ```

mod agents;
mod ledger;
mod prober;
mod queues;
mod report;
mod scenario;
mod server;
mod stage;
mod stream;
mod sweep;
mod witness;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ringfence_e2e::cluster::Cluster;
use ringfence_e2e::machine::Machine;
use ringfence_install::interrupt::unless_interrupted;

use report::{Report, Row};
use scenario::Scenario;
use stage::Stage;

/// The cluster, and the extent.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kubeconfig of the cluster, on which Ringfence is installed
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Directory of the nodes' processes, if they are on this machine [default: where the kubeconfig is]
    #[arg(long, env = "RINGFENCE_CLUSTER_DIR", value_name = "DIR")]
    machine: Option<PathBuf>,
    /// Only these
    #[arg(long, value_parser = Scenario::names(), value_delimiter = ',', value_name = "NAME")]
    only: Vec<&'static str>,
    /// Number of times that an agent is killed
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: usize,
    /// Image of a version with another layout of maps, for upgrade and downgrade; the nodes must have it
    #[arg(long, value_name = "NAME:TAG")]
    other_image: Option<String>,
    /// Number of times that the other version is rolled out, and this one again
    #[arg(long, value_name = "N", default_value_t = 3)]
    upgrades: usize,
    /// Seconds without API server and etcd
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    outage: Seconds,
    /// Seconds by which the clock is set ahead and behind
    #[arg(long, value_name = "SECONDS", default_value = "90")]
    clock_step: Seconds,
    /// The number of pods start under each policy
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pods: usize,
    /// The number of them at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    wave: usize,
}

/// A number of seconds.
#[derive(Clone, Copy, Debug)]
struct Seconds(u64);

impl std::str::FromStr for Seconds {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0)
    }
}

/// Runs the scenarios; whether all was well.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let cluster = Cluster::of(&options.kubeconfig).await?;
    let nearby = options.kubeconfig.parent().map(PathBuf::from);
    let machine = options.machine.clone().or(nearby).and_then(|directory| Machine::at(&directory).ok());
    let there = ringfence_install::change::installed(&cluster.client).await?;
    there.context("Ringfence is not installed in this cluster\nhint: ringfence install")?;
    cluster.clean_up().await?;
    let tried = unless_interrupted("", try_all(cluster.clone(), machine, options)).await;
    // Also after an error, which then is the one that is told.
    let cleaned = cluster.clean_up().await;
    let report = tried?;
    cleaned?;
    print!("{report}");
    Ok(report.well())
}

async fn try_all(cluster: Cluster, machine: Option<Machine>, options: &Options) -> anyhow::Result<Report> {
    eprintln!("making the stage");
    let mut report = Report::about(&cluster).await?;
    let mut stage = Stage::make(cluster, machine).await?;
    for scenario in Scenario::chosen(&options.only) {
        let name = scenario.name;
        if let Some(why) = (scenario.obstacle)(&stage, options) {
            println!("skipped: {name}: {why}");
            continue;
        }
        eprintln!("{name}");
        let row = one(scenario, &mut stage, options).await;
        eprintln!("  {}, {} s", row.line(), row.took.as_secs());
        let failed = row.failure.is_some();
        report.rows.push(row);
        if failed && stage.recover().await.is_err() {
            eprintln!("  what it left is no ground for the rest");
            break;
        }
    }
    stage.clean_up().await?;
    Ok(report)
}

async fn one(scenario: &Scenario, stage: &mut Stage, options: &Options) -> Row {
    let (before, begun, queues) = (stage.ledger.counts(), Instant::now(), queues::overflown());
    stage.ledger.latest();
    let ended = (scenario.run)(stage, options).await;
    let settled = stage.settle().await;
    let counts = stage.ledger.counts() - before;
    for incident in stage.ledger.incidents() {
        eprintln!("  {incident}");
    }
    let (what, failure) = match ended.and_then(|what| settled.map(|()| what)) {
        Ok(what) => (what, None),
        Err(error) => (String::new(), Some(format!("{error:#}"))),
    };
    let overflown = queues::overflown().zip(queues).map(|(now, before)| now - before);
    let (took, late) = (begun.elapsed(), stage.ledger.latest());
    Row { name: scenario.name, what, failure, counts, took, late, overflown }
}
