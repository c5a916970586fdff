//! Faults under steady probes.

use std::path::PathBuf;

/// Which cluster.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kubeconfig of the cluster.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: PathBuf,
}

/// Runs the scenarios; whether all was well.
pub(crate) async fn run(options: &Options) -> anyhow::Result<bool> {
    let cluster = ringfence_e2e::cluster::Cluster::of(&options.kubeconfig).await?;
    println!("{} nodes", cluster.nodes().await?.len());
    Ok(true)
}
