//! Commands in containers, through the API server.

use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use ringfence_k8s::exec::{Output, exec};

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Namespace of its pod.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub name: String,
}

/// Runs a command to its end.
pub async fn run(client: &Client, container: &Container, command: &[&str], limit: Duration) -> anyhow::Result<Output> {
    let Container { namespace, pod, name } = container;
    let what = || format!("{} in pod {namespace}/{pod}", command.join(" "));
    match tokio::time::timeout(limit, exec(client, namespace, pod, Some(name), command)).await {
        Ok(ended) => ended.with_context(|| format!("cannot run {}", what())),
        Err(_) => bail!("{} did not end within {limit:?} (container {name})", what()),
    }
}
