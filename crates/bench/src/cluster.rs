//! Measurements on a cluster whose nodes run on this machine, so that its pods and agents are processes here.
//!
//! Everything is told through the API; pods are entered by their processes.

mod agents;
mod chain;
mod crowd;
mod engine;
mod load;
mod policies;
mod reaction;
mod rows;
mod stage;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use ringfence_e2e::cluster::{Cluster, eventually};
use tokio::runtime::Runtime;

/// Which cluster, and what to measure on it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kubeconfig of the cluster, on which Ringfence is installed.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", global = true, default_value = "")]
    kubeconfig: PathBuf,
    /// The `ringfence` program of the version that is installed; by default the one beside this one.
    #[arg(long, global = true)]
    ringfence: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Time from the API's answer to a change until it decides packets: on one node, on another, on both.
    Reaction(reaction::Options),
    /// What traffic costs with Ringfence and without, in turns; and how long many policies take.
    Traffic(traffic::Options),
    /// What the network plugin adds to the time a pod's network takes.
    Chain(chain::Options),
    /// What the agents use, and ask of the API, with many pods and policies.
    Crowd(crowd::Options),
    /// Figures of whatever engine there is on the cluster, also of none, as JSON.
    #[command(subcommand)]
    Engine(engine::What),
    /// Which Kubernetes and how many nodes.
    Describe,
    /// Process ids of the agents, by node.
    Agents,
}

/// What every measurement needs.
struct Bench {
    runtime: Runtime,
    cluster: Cluster,
    kubeconfig: PathBuf,
    program: PathBuf,
}

/// Measures and reports.
pub(crate) fn run(options: &Options) -> anyhow::Result<String> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the network namespaces of pods need root\nhint: run this as root");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let program = match &options.ringfence {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("ringfence"),
    };
    let kubeconfig = options.kubeconfig.clone();
    let cluster = runtime.block_on(Cluster::of(&kubeconfig))?;
    let bench = Bench { runtime, cluster, kubeconfig, program };
    let result = match &options.what {
        What::Reaction(options) => reaction::run(&bench, options),
        What::Traffic(options) => traffic::run(&bench, options),
        What::Chain(options) => chain::run(&bench, options),
        What::Crowd(options) => crowd::run(&bench, options),
        What::Engine(what) => engine::run(&bench, what),
        What::Describe => return bench.describe(),
        What::Agents => return bench.agents(),
    };
    let cleaned = bench.runtime.block_on(bench.cluster.clean_up());
    let report = result?;
    cleaned?;
    Ok(report)
}

impl Bench {
    /// The first two nodes, when they are ready: one whose kubelet was stopped takes a while.
    fn two_nodes(&self) -> anyhow::Result<[String; 2]> {
        self.runtime.block_on(eventually("the cluster has two nodes that are ready", || async {
            let mut nodes = self.cluster.nodes().await?.into_iter();
            Ok(nodes.next().zip(nodes.next()).map(<[String; 2]>::from))
        }))
    }

    /// Runs `ringfence` for this cluster.
    fn ringfence(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).stdout(Stdio::null());
        let status = command.status().with_context(|| format!("{} cannot be started", self.program.display()))?;
        if !status.success() {
            bail!("ringfence {} failed ({status})", arguments.join(" "));
        }
        Ok(())
    }

    fn agents(&self) -> anyhow::Result<String> {
        let agents = self.runtime.block_on(agents::find(&self.cluster))?;
        Ok(agents.iter().map(agents::Agent::id).collect::<Vec<_>>().join("\n"))
    }

    fn describe(&self) -> anyhow::Result<String> {
        let version = self.runtime.block_on(self.cluster.client.apiserver_version())?;
        let nodes = self.runtime.block_on(self.cluster.nodes())?.len();
        Ok(format!("Kubernetes {}, {nodes} nodes\n", version.git_version))
    }
}

/// Contents of a file of the system.
fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
