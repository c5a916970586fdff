//! Streams into containers over WebSocket, by the `channel.k8s.io` subprotocols of `kubectl exec` and `attach`.
//!
//! Each message begins with the number of its channel. Version 5 adds the closing of a channel by the client, so that
//! standard input can end; version 4 has no way to say so.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts as _, Request};
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::SplitStream;
use futures::{SinkExt as _, StreamExt as _};
use http::header::UPGRADE;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::path::ResourcePath;
use super::query::Query;
use super::{App, logs};
use crate::api::json::Json as _;
use crate::api::status::ApiError;
use crate::runtime::{AttachRequest, ExecRequest, ExecSession, RuntimeError};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The time that output may still come after the command has ended: what it left running may hold the pipe open for
/// ever.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// `exec`: a command beside the container's own.
pub(super) async fn exec(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let target = logs::container(app, path, query)?;
    let command: Vec<_> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    let exec = ExecRequest { target, command, stdin: query.flag("stdin"), tty: query.flag("tty") };
    let runtime = Arc::clone(&app.runtime);
    upgraded(request, move || runtime.exec(exec)).await
}

/// `attach`: the container's own command.
pub(super) async fn attach(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let attach = AttachRequest { target: logs::container(app, path, query)?, stdin: query.flag("stdin") };
    let runtime = Arc::clone(&app.runtime);
    upgraded(request, move || runtime.attach(attach)).await
}

type Opening = BoxFuture<'static, Result<ExecSession, RuntimeError>>;

/// Makes a WebSocket of a request, and carries over it what is opened.
async fn upgraded(request: Request, open: impl FnOnce() -> Opening + Send + 'static) -> Result<Response, ApiError> {
    let upgrade = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if upgrade.to_ascii_lowercase().starts_with("spdy") {
        let message = "this API streams over WebSocket only, not SPDY: use kubectl 1.31 or newer \
                       (1.29 and 1.30 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true)";
        return Err(ApiError::bad_request(message));
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(format!("Upgrade request required: {error}")))?;
    let upgrade = upgrade.protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    if upgrade.selected_protocol().is_none() {
        return Err(ApiError::bad_request("the subprotocol must be v5.channel.k8s.io or v4.channel.k8s.io"));
    }
    Ok(upgrade.on_upgrade(move |socket| session(socket, open())))
}

async fn session(mut socket: WebSocket, opening: Opening) {
    let session = match opening.await {
        Ok(session) => session,
        Err(error) => {
            let status = failure(&error.to_string(), "InternalError", None);
            let _ = socket.send(message(ERROR, &status.to_string().into_bytes())).await;
            let _ = socket.send(end()).await;
            return;
        }
    };
    let (mut sink, stream) = socket.split();
    let (sender, mut receiver) = mpsc::channel::<Message>(16);
    let writer = tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
    });
    let stdout = tokio::spawn(pump(STDOUT, session.stdout, sender.clone()));
    let stderr = session.stderr.map(|stderr| tokio::spawn(pump(STDERR, stderr, sender.clone())));
    let mut input = tokio::spawn(feed(stream, session.stdin, session.resize));
    // A client that goes away ends the session; dropping the pipes tells the command.
    let code = tokio::select! {
        code = session.exit => code.unwrap_or(-1),
        _ = &mut input => {
            stdout.abort();
            if let Some(stderr) = stderr {
                stderr.abort();
            }
            return;
        }
    };
    let drain = async {
        let _ = stdout.await;
        if let Some(stderr) = stderr {
            let _ = stderr.await;
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain).await;
    let _ = sender.send(message(ERROR, exit_status(code).to_string().as_bytes())).await;
    let _ = sender.send(end()).await;
    drop(sender);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, writer).await;
    input.abort();
}

/// The message after the last.
fn end() -> Message {
    Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::default() }))
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    }
    failure(&format!("command terminated with non-zero exit code: exit status {code}"), "NonZeroExitCode", Some(code))
}

fn failure(message: &str, reason: &str, exit_code: Option<i32>) -> Value {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": 500,
    });
    if let Some(code) = exit_code {
        status["details"] = json!({ "causes": [{ "reason": "ExitCode", "message": code.to_string() }] });
    }
    status
}

async fn pump(channel: u8, mut reader: impl AsyncRead + Unpin, sender: mpsc::Sender<Message>) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        if sender.send(message(channel, &buffer[..length])).await.is_err() {
            break;
        }
    }
}

type Input = Option<Box<dyn AsyncWrite + Send + Unpin>>;

/// Hands on what the client sends, until it goes away.
async fn feed(mut stream: SplitStream<WebSocket>, mut stdin: Input, resize: Option<mpsc::Sender<(u16, u16)>>) {
    while let Some(Ok(message)) = stream.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match data.split_first() {
            Some((&STDIN, input)) => write(&mut stdin, input).await,
            Some((&CLOSE, [STDIN, ..])) => close(&mut stdin).await,
            Some((&RESIZE, size)) => {
                if let (Some(resize), Ok(size)) = (&resize, serde_json::from_slice::<Value>(size)) {
                    let side = |name: &str| u16::try_from(size.int(name)).unwrap_or_default();
                    let _ = resize.try_send((side("/Width"), side("/Height")));
                }
            }
            _ => {}
        }
    }
}

async fn write(stdin: &mut Input, data: &[u8]) {
    if let Some(writer) = stdin
        && (writer.write_all(data).await.is_err() || writer.flush().await.is_err())
    {
        *stdin = None;
    }
}

async fn close(stdin: &mut Input) {
    if let Some(mut writer) = stdin.take() {
        let _ = writer.shutdown().await;
    }
}
