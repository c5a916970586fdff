//! The asynchronous client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyDataStream, BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::wanted::{Lags, Wanted};
use crate::{ClientError, FlowLine, Status, WaitReply, WaitRequest, path};

/// Longest answer that is read into memory, in bytes.
const MAX_ANSWER: usize = 1 << 30;

/// Time between two looks for policies that are waited for: at first, and at most.
const POLL_INTERVAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// A client of the agent on one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client that connects anew for each request.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self { socket: socket.as_ref().to_owned() }
    }

    /// The agent's status.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get(path::STATUS).await
    }

    /// The plan in force, as JSON.
    pub async fn plan(&self) -> Result<serde_json::Value, ClientError> {
        self.get(path::PLAN).await
    }

    /// Returns when the policy of a pod is in the kernel.
    pub async fn wait(&self, request: &WaitRequest) -> Result<WaitReply, ClientError> {
        let body = serde_json::to_vec(request)?;
        decode(self.send(Method::POST, path::WAIT, body).await?).await
    }

    /// Returns when policies are as wanted on this node; when the time is up, those that are not.
    pub async fn wait_for_policies(&self, wanted: &[Wanted], timeout: Duration) -> Result<Lags, ClientError> {
        let end = Instant::now() + timeout;
        let mut interval = POLL_INTERVAL.0;
        loop {
            let status = self.status().await?;
            let lags: Lags = wanted.iter().filter(|one| !one.is_met(&status)).map(|one| one.lag(&status)).collect();
            if lags.is_empty() || Instant::now() > end {
                return Ok(lags);
            }
            tokio::time::sleep(interval).await;
            interval = (interval * 2).min(POLL_INTERVAL.1);
        }
    }

    /// Flows from now on, as the kernel reports them.
    pub async fn flows(&self) -> Result<impl Stream<Item = Result<FlowLine, ClientError>> + use<>, ClientError> {
        let body = BodyDataStream::new(self.send(Method::GET, path::FLOWS, Vec::new()).await?);
        let lines = futures::stream::unfold((body, Vec::new()), |(mut body, mut rest)| async move {
            loop {
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    return Some((serde_json::from_slice(&line).map_err(ClientError::from), (body, rest)));
                }
                match body.next().await? {
                    Ok(more) => rest.extend_from_slice(&more),
                    Err(error) => return Some((Err(incomplete(error)), (body, Vec::new()))),
                }
            }
        });
        Ok(lines)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        decode(self.send(Method::GET, path, Vec::new()).await?).await
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Incoming, ClientError> {
        let connected = UnixStream::connect(&self.socket).await;
        let stream = connected.map_err(|error| ClientError::unreachable(&self.socket, error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(incomplete)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "ringfence")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(incomplete)?;
        let response = sender.send_request(request).await.map_err(incomplete)?;
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok(body);
        }
        Err(ClientError::of_answer(status.as_u16(), &collect(body).await?))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` passes it")]
fn incomplete(error: impl ToString) -> ClientError {
    ClientError::Incomplete(Some(error.to_string()))
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    Ok(Limited::new(body, MAX_ANSWER).collect().await.map_err(incomplete)?.to_bytes())
}

async fn decode<T: DeserializeOwned>(body: Incoming) -> Result<T, ClientError> {
    Ok(serde_json::from_slice(&collect(body).await?)?)
}
