//! HTTP on the Unix socket, and the part of it that is served on TCP for probes and Prometheus.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{self, Bytes};
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{get, post};
use futures::stream::{self, Stream};
use ringfence_api::{self as api, Failure, path};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::oneshot;

use crate::bridge;
use crate::cni_cache::Told;
use crate::core::{Gone, Handle, Message, Question};
use crate::flows::{self, Flows};
use crate::interfaces;
use crate::metrics::{self, Meters};

/// Body of a request, if it can be read.
type Body<T> = Result<Json<T>, JsonRejection>;

/// Longest a wait for an endpoint may take.
const MAX_WAIT: Duration = Duration::from_mins(10);

/// State that requests are answered from.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) core: Handle,
    pub(crate) flows: Flows,
    pub(crate) meters: Arc<Meters>,
}

impl Server {
    /// Everything, for the Unix socket.
    pub(crate) fn socket(self) -> Router {
        let api = Router::new()
            .route(path::STATUS, get(status))
            .route(path::PLAN, get(plan))
            .route(path::FLOWS, get(flows))
            .route(path::SERVING, get(serving))
            .route(path::WAIT, post(wait))
            .route(path::CHECK, post(check))
            .route(path::RELEASE, post(release))
            .route(path::COLLECT, post(collect))
            .with_state(self.clone());
        api.merge(self.public())
    }

    /// Probes and metrics.
    pub(crate) fn public(self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(scrape))
            .with_state(self)
    }
}

fn failure(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(Failure::new(message))).into_response()
}

fn gone(error: Gone) -> Response {
    failure(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

async fn status(State(server): State<Server>) -> Response {
    match server.core.ask(Question::Status).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => gone(error),
    }
}

async fn plan(State(server): State<Server>) -> Response {
    match server.core.ask(Question::Plan).await {
        Ok(plan) => Json(plan).into_response(),
        Err(error) => gone(error),
    }
}

/// Alive: the planning thread answers.
async fn healthz(State(server): State<Server>) -> Response {
    match server.core.ask(Question::Ready).await {
        Ok(_) => "ok\n".into_response(),
        Err(error) => gone(error),
    }
}

async fn readyz(State(server): State<Server>) -> Response {
    match server.core.ask(Question::Ready).await {
        Ok(Ok(remark)) => format!("{remark}\n").into_response(),
        Ok(Err(why)) => failure(StatusCode::SERVICE_UNAVAILABLE, why),
        Err(error) => gone(error),
    }
}

/// True if pods can be served, whatever else is the matter: the network plugin asks.
async fn serving(State(server): State<Server>) -> Response {
    match server.core.ask(Question::Serving).await {
        Ok(Ok(())) => "ok\n".into_response(),
        Ok(Err(why)) => failure(StatusCode::SERVICE_UNAVAILABLE, why),
        Err(error) => gone(error),
    }
}

async fn scrape(State(server): State<Server>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = metrics::Format::accepted(accept);
    let gauges = match server.core.ask(Question::Gauges).await {
        Ok(gauges) => gauges,
        Err(error) => return gone(error),
    };
    match metrics::text(&server.meters, gauges, format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.media_type())], text).into_response(),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn wait(State(server): State<Server>, request: Body<api::WaitRequest>) -> Response {
    let request = match request {
        Ok(Json(request)) => request,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error.body_text()),
    };
    let patience = Duration::from_millis(request.timeout_ms).min(MAX_WAIT);
    if let Err(error) = place(&server, request.clone()).await {
        return error;
    }
    let asked = server.core.ask(|reply| Question::Wait(request.clone(), reply));
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(addresses)) => ready(addresses),
        Ok(Err(error)) => gone(error),
        Err(_elapsed) => now(&server, request).await,
    }
}

/// Tells the planning thread where the pod is that somebody asks about and has just connected.
async fn place(server: &Server, request: api::WaitRequest) -> Result<(), Response> {
    if request.addresses.is_empty() {
        return Ok(());
    }
    let placed = tokio::task::spawn_blocking(move || {
        let told = Told::now(&request);
        let ports = interfaces::place(&told)?;
        let bridge = ports.bridged().then(bridge::read);
        Ok::<_, ringfence_netns::Error>((told, ports, bridge))
    });
    let failed = |why: String| failure(StatusCode::SERVICE_UNAVAILABLE, format!("the pod's link is not known: {why}"));
    let (told, ports, bridge) = match placed.await {
        Ok(Ok(placed)) => placed,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(error) => return Err(failed(error.to_string())),
    };
    server.core.tell(Message::Placed(told, ports, bridge)).map_err(gone)
}

async fn check(State(server): State<Server>, request: Body<api::WaitRequest>) -> Response {
    match request {
        Ok(Json(request)) => now(&server, request).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, error.body_text()),
    }
}

/// True if a pod's policy is in the kernel at this moment.
async fn now(server: &Server, request: api::WaitRequest) -> Response {
    match server.core.ask(|reply| Question::Check(request, reply)).await {
        Ok(Ok(addresses)) => ready(addresses),
        Ok(Err(why)) => failure(StatusCode::GATEWAY_TIMEOUT, why),
        Err(error) => gone(error),
    }
}

fn ready(addresses: Vec<IpAddr>) -> Response {
    let (api_version, kind) = (api::VERSION.into(), "EndpointReady".into());
    Json(api::WaitReply { api_version, kind, addresses }).into_response()
}

async fn release(State(server): State<Server>, request: Body<api::ReleaseRequest>) -> Response {
    told(&server, request, Question::Release).await
}

async fn collect(State(server): State<Server>, request: Body<api::CollectRequest>) -> Response {
    told(&server, request, Question::Collect).await
}

/// Tells the planning thread something that it answers once it is carried out.
async fn told<T>(
    server: &Server,
    request: Body<T>,
    question: impl FnOnce(T, oneshot::Sender<()>) -> Question,
) -> Response {
    let request = match request {
        Ok(Json(request)) => request,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error.body_text()),
    };
    match server.core.ask(|reply| question(request, reply)).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => gone(error),
    }
}

async fn flows(State(server): State<Server>) -> Response {
    let body = body::Body::from_stream(lines(server.flows.listen()));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Flows as JSON lines for as long as both sides are there.
fn lines(flows: broadcast::Receiver<flows::Line>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(flows, |mut flows| async move {
        let mut line = match flows.recv().await {
            Ok(flow) => serde_json::to_vec(&*flow),
            Err(RecvError::Lagged(lost)) => serde_json::to_vec(&api::FlowsLost::new(lost, api::Loss::SlowReader, None)),
            Err(RecvError::Closed) => return None,
        }
        .ok()?;
        line.push(b'\n');
        Some((Ok(Bytes::from(line)), flows))
    })
}
