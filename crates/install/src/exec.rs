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

/// Runs a command, which may take so long.
pub async fn run(client: &Client, container: &Container, command: &[&str], limit: Duration) -> anyhow::Result<Output> {
    let Container { namespace, pod, name } = container;
    match tokio::time::timeout(limit, run_to_end(client, container, command)).await {
        Ok(ended) => ended,
        Err(_) => {
            bail!("{} in pod {namespace}/{pod} did not end within {limit:?} (container {name})", command.join(" "))
        }
    }
}

/// Runs a command to its end, whenever that is.
pub async fn run_to_end(client: &Client, container: &Container, command: &[&str]) -> anyhow::Result<Output> {
    let Container { namespace, pod, name } = container;
    let ended = exec(client, namespace, pod, Some(name), command).await;
    ended.with_context(|| format!("cannot run {} in pod {namespace}/{pod}", command.join(" ")))
}
