//! Services, nodes and the life of pods, tried case by case with real pods: what `ringfence verify` does not try.
//!
//! What must be seen is written down in each case. Each waits until its policies are enforced everywhere, so a
//! connection that must be denied is tried once, and one success is a failure.

mod attempt;
mod forged;
mod host_ports;
mod life;
mod node_ports;
mod nodes;
mod policy;
mod services;
mod stage;
mod told;

use std::path::PathBuf;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use ringfence_e2e::cluster::Cluster;
use ringfence_install::interrupt::unless_interrupted;
use ringfence_install::verify::report::{Outcome, Report};

use self::stage::Stage;

/// Options of the trial.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The cluster
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// A case.
struct Case {
    name: &'static str,
    run: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, anyhow::Result<Outcome>>,
}

/// All of them.
fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("cluster-ip", |stage| services::cluster_ip(stage).boxed_local()),
        case("cluster-ip-egress", |stage| services::egress(stage).boxed_local()),
        case("hairpin", |stage| services::hairpin(stage).boxed_local()),
        case("session-affinity", |stage| services::affinity(stage).boxed_local()),
        case("headless", |stage| services::headless(stage).boxed_local()),
        case("node-port-cluster", |stage| node_ports::cluster(stage).boxed_local()),
        case("node-port-local", |stage| node_ports::local(stage).boxed_local()),
        case("host-port", |stage| host_ports::host_port(stage).boxed_local()),
        case("host-network-source", |stage| nodes::source(stage).boxed_local()),
        case("host-network-destination", |stage| nodes::destination(stage).boxed_local()),
        case("host-network-subject", |stage| nodes::subject(stage).boxed_local()),
        case("egress-to-nodes", |stage| nodes::egress(stage).boxed_local()),
        case("probes", |stage| life::probes(stage).boxed_local()),
        case("address-of-another", |stage| life::address_of_another(stage).boxed_local()),
        case("made-together", |stage| life::made_together(stage).boxed_local()),
        case("first-packet", |stage| life::first_packet(stage).boxed_local()),
        case("forged-frames", |stage| forged::frames(stage).boxed_local()),
        case("wait", |stage| told::wait(stage).boxed_local()),
        case("events", |stage| told::events(stage).boxed_local()),
        case("conditions", |stage| told::conditions(stage).boxed_local()),
        case("columns", |stage| told::columns(stage).boxed_local()),
    ]
}

/// Tries all that was asked for, and removes what was made, also when interrupted; whether nothing failed.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let cases = cases();
    let wanted = |case: &&Case| options.only.as_ref().is_none_or(|only| case.name.contains(only.as_str()));
    let chosen: Vec<&Case> = cases.iter().filter(wanted).collect();
    anyhow::ensure!(!chosen.is_empty(), "no case is called so; hint: without --only all are tried");
    let cluster = Cluster::of(&options.kubeconfig).await?;
    let mut report = Report::new();
    let ended = unless_interrupted("", all(&cluster, &chosen, &mut report)).await;
    println!("removing what was made");
    let cleaned = stage::remove(&cluster).await;
    ended.and(cleaned)?;
    println!("{}", report.summary());
    Ok(report.passed())
}

async fn all(cluster: &Cluster, chosen: &[&Case], report: &mut Report) -> anyhow::Result<()> {
    stage::remove(cluster).await?;
    println!("making pods");
    let stage = Box::pin(Stage::make(cluster)).await?;
    println!("{} cases; {stage}", chosen.len());
    for (index, case) in chosen.iter().enumerate() {
        let start = Instant::now();
        let outcome = match (case.run)(&stage).await {
            Ok(outcome) => outcome,
            Err(error) => {
                stage.sweep().await?;
                Outcome::Failed(vec![format!("{error:#}")])
            }
        };
        println!("[{}/{}] {} {}", index + 1, chosen.len(), outcome.word(), case.name);
        for line in outcome.lines() {
            println!("        {line}");
        }
        report.add(case.name, start.elapsed(), outcome);
    }
    Ok(())
}
