//! Talks to an agent over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api;

/// Where an agent listens, unless told otherwise.
pub const SOCKET: &str = "/run/ringfence/agent.sock";

/// Longest answer that is read into memory.
const LONGEST: usize = 1 << 30;

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or it is not ours to use.
    #[error("no agent answers on {}: {error}; hint: is it running, and are you root? --socket names \
        another", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the agent hung up: {0}")]
    Http(#[from] axum::Error),
    /// The agent said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// The answer is not what this version understands.
    #[error("cannot read the agent's answer: {0}; hint: is the agent of another version?")]
    Answer(#[from] serde_json::Error),
}

/// A socket to ask on.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Does not connect yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// What the agent says of itself.
    pub async fn status(&self) -> Result<api::Status, ClientError> {
        self.get("/v1/status").await
    }

    /// The plan in force, as JSON.
    pub async fn plan(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/v1/plan").await
    }

    /// Returns when the policy of a pod is in the kernel.
    pub async fn wait(&self, request: &api::WaitRequest) -> Result<api::WaitReply, ClientError> {
        let body = Body::from(serde_json::to_vec(request)?);
        decode(self.send(Method::POST, "/v1/endpoint/wait", body).await?).await
    }

    /// What the kernel reports from now on, a line at a time.
    pub async fn flows(&self) -> Result<impl Stream<Item = Result<api::FlowLine, ClientError>> + use<>, ClientError> {
        let body = self.send(Method::GET, "/v1/flows", Body::empty()).await?;
        let lines = futures::stream::unfold((body.into_data_stream(), Vec::new()), |(mut body, mut rest)| async move {
            loop {
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let flow = serde_json::from_slice(&line).map_err(ClientError::from);
                    return Some((flow, (body, rest)));
                }
                match body.next().await? {
                    Ok(more) => rest.extend_from_slice(&more),
                    Err(error) => return Some((Err(error.into()), (body, Vec::new()))),
                }
            }
        });
        Ok(lines)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        decode(self.send(Method::GET, path, Body::empty()).await?).await
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Body, ClientError> {
        let unreachable = |error| ClientError::Unreachable { path: self.path.clone(), error };
        let stream = UnixStream::connect(&self.path).await.map_err(unreachable)?;
        let http = |error: hyper::Error| ClientError::Http(axum::Error::new(error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "agent")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(axum::Error::new)?;
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        let body = Body::new(response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let text = collect(body).await?;
        let message = serde_json::from_slice::<api::Failure>(&text)
            .map_or_else(|_| String::from_utf8_lossy(&text).into_owned(), |failure| failure.message);
        Err(ClientError::Refused { status, message })
    }
}

async fn collect(body: Body) -> Result<Bytes, axum::Error> {
    axum::body::to_bytes(body, LONGEST).await
}

async fn decode<T: DeserializeOwned>(body: Body) -> Result<T, ClientError> {
    Ok(serde_json::from_slice(&collect(body).await?)?)
}
