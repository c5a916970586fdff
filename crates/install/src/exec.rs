//! Commands in containers, through the API server.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt as _};

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

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Output {
    /// What it said, complaints first.
    pub fn said(&self) -> &str {
        Some(self.stderr.trim()).filter(|text| !text.is_empty()).unwrap_or_else(|| self.stdout.trim())
    }
}

/// Runs a command to its end.
pub async fn run(client: &Client, container: &Container, command: &[&str], limit: Duration) -> anyhow::Result<Output> {
    let Container { namespace, pod, name } = container;
    let what = || format!("{} in pod {namespace}/{pod}", command.join(" "));
    match tokio::time::timeout(limit, attempt(client, container, command)).await {
        Ok(ended) => ended.with_context(|| format!("cannot run {}", what())),
        Err(_) => bail!("{} did not end within {limit:?} (container {name})", what()),
    }
}

async fn attempt(client: &Client, container: &Container, command: &[&str]) -> anyhow::Result<Output> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &container.namespace);
    let parameters = AttachParams::default().container(&container.name).stdin(false).stdout(true).stderr(true);
    let mut process = api.exec(&container.pod, command.iter().copied(), &parameters).await?;
    let status = process.take_status().context("the server gives no exit status")?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), status);
    let code = match &status {
        Some(status) if status.status.as_deref() == Some("Success") => 0,
        Some(status) => match exit_code(status) {
            Some(code) => code,
            None => bail!("{}", status.message.as_deref().unwrap_or("it did not start")),
        },
        None => bail!("the connection to it was lost"),
    };
    Ok(Output { code, stdout: stdout?, stderr: stderr? })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The exit code among the details of a status.
fn exit_code(status: &Status) -> Option<i32> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?.message.as_ref()?.parse().ok()
}
