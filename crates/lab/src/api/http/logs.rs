//! Logs of containers.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::App;
use super::path::ResourcePath;
use super::query::Query;
use crate::api::json::Json as _;
use crate::api::status::ApiError;
use crate::runtime::{ContainerRef, LogRequest, RuntimeError};

pub(super) async fn logs(app: &App, path: &ResourcePath, query: &Query) -> Result<Response, ApiError> {
    let target = container(app, path, query)?;
    let tail = query.number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let request = LogRequest {
        target: target.clone(),
        follow: query.flag("follow"),
        tail_lines: tail,
        previous: query.flag("previous"),
        since: since(query)?,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
    };
    let reader = match app.runtime.logs(request).await {
        Ok(reader) => reader,
        Err(error) => return Err(refused(app, path, &target, error)),
    };
    let body = Body::from_stream(ReaderStream::new(reader));
    Ok(([(CONTENT_TYPE, "text/plain")], body).into_response())
}

/// From when on lines are asked for.
fn since(query: &Query) -> Result<Option<Timestamp>, ApiError> {
    let seconds = query.number("sinceSeconds")?.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let bad = |name: &str, value: &str| ApiError::bad_request(format!("{name}: {value:?} is not a time of RFC 3339"));
    match (seconds, query.get("sinceTime")) {
        (Some(_), Some(_)) => Err(ApiError::bad_request("at most one of sinceTime or sinceSeconds may be specified")),
        (Some(seconds), None) => Ok(Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok()),
        (None, Some(time)) => time.parse().map(Some).map_err(|_error| bad("sinceTime", time)),
        (None, None) => Ok(None),
    }
}

/// The container a stream is asked of: the one named, or the only (or default) one.
pub(super) fn container(app: &App, path: &ResourcePath, query: &Query) -> Result<ContainerRef, ApiError> {
    let pod = app.registry.get(path.target())?;
    let all: Vec<_> = ["/spec/containers", "/spec/initContainers"]
        .iter()
        .flat_map(|list| pod.list(list))
        .map(|container| container.text("/name").to_owned())
        .collect();
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let name = match query.get("container").or(default) {
        Some(name) if all.iter().any(|known| known == name) => name.to_owned(),
        Some(name) => {
            let message = format!("container {name} is not valid for pod {}", path.name());
            return Err(ApiError::bad_request(message));
        }
        None => all.first().cloned().unwrap_or_default(),
    };
    let (namespace, pod) = (path.namespace().to_owned(), path.name().to_owned());
    Ok(ContainerRef { namespace, pod, container: Some(name) })
}

/// Refusals of the kubelet. A container that has not started yet is told by what it waits for.
fn refused(app: &App, path: &ResourcePath, target: &ContainerRef, error: RuntimeError) -> ApiError {
    let message = match error {
        RuntimeError::Failed(message) => return ApiError::internal(message),
        RuntimeError::NotFound { .. } | RuntimeError::NotRunning { .. } => error.to_string(),
    };
    let name = target.container.as_deref().unwrap_or_default();
    let waiting = app.registry.get(path.target()).ok().and_then(|pod| waiting_for(&pod, name));
    ApiError::bad_request(match waiting {
        Some(reason) => format!("container {name:?} in pod {:?} is waiting to start: {reason}", path.name()),
        None => message,
    })
}

/// The reason why a container has not started; nothing if it has, or if nobody has looked at the pod yet.
fn waiting_for(pod: &Value, container: &str) -> Option<String> {
    let lists = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let mut statuses = lists.iter().flat_map(|list| pod.list(list));
    let status = statuses.find(|status| status["name"] == container)?;
    let reason = status.pointer("/state/waiting/reason")?.as_str()?;
    Some(if reason.contains("Image") { "trying and failing to pull image".to_owned() } else { reason.to_owned() })
}
