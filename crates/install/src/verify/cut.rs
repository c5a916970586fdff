//! An open connection, held over a change of policy that denies it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::case::{PODS, Pod, Port};
use super::stage::{Pods, Stage};

/// One request and its answer on a connection that stays open.
const REQUEST: &[u8] = b"GET /hostname HTTP/1.1\r\nHost: verify\r\n\r\n";
/// Beginning of an answer.
const BEGINNING: &[u8] = b"HTTP/1.1 ";
/// The time that an answer that must come may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The time that one that must not come is waited for.
const SILENCE_TIME: Duration = Duration::from_secs(3);

/// From y/a to x/a.
const ENDS: (Pod, Pod) = (PODS[2], PODS[0]);

/// The connection.
pub(super) struct Held {
    process: AttachedProcess,
    input: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    output: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
}

impl Held {
    /// Opens it and sees that it works.
    pub(super) async fn open(stage: &Stage, pods: &Pods) -> anyhow::Result<Self> {
        let container = pods.container(ENDS.0);
        let address = *pods.addresses(ENDS.1).first().context("x/a has no address")?;
        let target = format!("telnet://{}", std::net::SocketAddr::new(address, Port::Web.number()));
        let api: Api<KubePod> = Api::namespaced(stage.client.clone(), &container.namespace);
        let parameters = AttachParams::default().container(&container.name).stdin(true).stdout(true).stderr(false);
        let command = ["curl", "-sN", "--max-time", "120", &target];
        let mut process = api.exec(&container.pod, command, &parameters).await.context("cannot run curl in y/a")?;
        let input = Box::new(process.stdin().context("no standard input")?);
        let output = Box::new(process.stdout().context("no standard output")?);
        let mut held = Self { process, input, output };
        if !held.answers(ANSWER_TIMEOUT).await? {
            bail!("nothing came back on a new connection from y/a to x/a");
        }
        Ok(held)
    }

    /// True if a request on it is answered in time.
    async fn answers(&mut self, limit: Duration) -> anyhow::Result<bool> {
        self.input.write_all(REQUEST).await.context("cannot write into the connection")?;
        self.input.flush().await?;
        timeout(limit, self.begins()).await.unwrap_or(Ok(false))
    }

    /// Reads up to the beginning of an answer, as the rest of the one before may still be on its way; `false` if the
    /// connection ends without one.
    async fn begins(&mut self) -> anyhow::Result<bool> {
        let mut seen = Vec::new();
        loop {
            let mut part = [0; 4096];
            let length = self.output.read(&mut part).await.context("cannot read from the connection")?;
            seen.extend_from_slice(&part[..length]);
            if length == 0 || seen.windows(BEGINNING.len()).any(|part| part == BEGINNING) {
                return Ok(length > 0);
            }
        }
    }

    /// Sees that it carries nothing any more.
    pub(super) async fn judge(mut self) -> anyhow::Result<Vec<String>> {
        let answered = self.answers(SILENCE_TIME).await?;
        self.process.abort();
        Ok(if answered {
            vec!["the open connection from y/a to x/a must be cut, and is not".into()]
        } else {
            Vec::new()
        })
    }
}
