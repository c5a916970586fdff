//! Logs of containers.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
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
    let request =
        LogRequest { target, follow: query.flag("follow"), tail_lines: tail, previous: query.flag("previous") };
    let reader = app.runtime.logs(request).await.map_err(refused)?;
    let body = Body::from_stream(ReaderStream::new(reader));
    Ok(([(CONTENT_TYPE, "text/plain")], body).into_response())
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

/// What the kubelet says no to.
pub(super) fn refused(error: RuntimeError) -> ApiError {
    match error {
        RuntimeError::NotFound { .. } | RuntimeError::NotRunning { .. } => ApiError::bad_request(error.to_string()),
        RuntimeError::Failed(message) => ApiError::internal(message),
    }
}
