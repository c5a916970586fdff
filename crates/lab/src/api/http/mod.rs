//! Requests: from path and method to what is to be done.

mod body;
mod exec;
mod logs;
mod page;
mod path;
mod query;
mod read;
mod render;
mod reviews;
mod scale;
mod watch;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::Method;
use http::header::{HeaderName, HeaderValue};

use self::path::{Path, ResourcePath};
use self::query::Query;
pub(crate) use self::reviews::REVIEWS;
use super::kinds::Subresource;
use super::registry::Registry;
use super::status::ApiError;
use super::{discovery, openapi};
use crate::runtime::PodRuntime;

/// State that requests are served from.
pub(crate) struct App {
    pub(crate) registry: Arc<Registry>,
    pub(crate) runtime: Arc<dyn PodRuntime>,
}

/// Set on requests of connections without a client certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anonymous;

/// The whole API as a service.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new().fallback(handle).with_state(app)
}

async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let path = Path::parse(request.uri().path());
    let open = matches!(path, Path::Health | Path::Version);
    if request.extensions().get::<Anonymous>().is_some() && !open {
        return ApiError::unauthorized().into_response();
    }
    serve(&app, path, request).await.unwrap_or_else(ApiError::into_response)
}

async fn serve(app: &App, path: Path, request: Request) -> Result<Response, ApiError> {
    if let Path::Review { group, resource } = &path {
        return reviews::create(group, resource, request).await;
    }
    if let Path::Resource(path) = path {
        return resource(app, path, request).await;
    }
    match &path {
        Path::Unknown => return Err(ApiError::unknown_path()),
        Path::NotServed { kind, part } => return Err(ApiError::not_served(kind, part)),
        _ => {}
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let headers = request.headers();
    match path {
        Path::Health => Ok("ok".into_response()),
        Path::Version => Ok(axum::Json(discovery::version()).into_response()),
        Path::Root => Ok(axum::Json(discovery::paths()).into_response()),
        Path::Core => Ok(discovery::core(headers)),
        Path::Groups => Ok(discovery::groups(headers)),
        Path::Group(group) => discovery::group(&group),
        Path::GroupVersion { group, version } => discovery::resources(&group, &version),
        Path::OpenApi => Ok(axum::Json(openapi::index()).into_response()),
        Path::OpenApiGroup(name) => openapi::document(&name).map(|document| axum::Json(document).into_response()),
        Path::Resource(_) | Path::Review { .. } | Path::NotServed { .. } | Path::Unknown => {
            Err(ApiError::unknown_path())
        }
    }
}

async fn resource(app: &App, path: ResourcePath, request: Request) -> Result<Response, ApiError> {
    let query = Query::of(request.uri())?;
    // What is only ever created.
    let created = matches!(path.subresource, Some(Subresource::Binding | Subresource::Eviction));
    if created && request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    match path.subresource {
        Some(Subresource::Attach) => return exec::attach(app, &path, &query, request).await,
        Some(Subresource::Eviction) => return write::evict(app, &path, &query, request).await,
        Some(Subresource::Exec) => return exec::exec(app, &path, &query, request).await,
        Some(Subresource::Log) => return logs::logs(app, &path, &query).await,
        Some(Subresource::Scale) => return scale::serve(app, &path, &query, request).await,
        Some(Subresource::Binding) => return write::bind(app, &path, &query, request).await,
        Some(Subresource::Status | Subresource::Finalize) | None => {}
    }
    match (request.method().clone(), path.name.is_some()) {
        (Method::GET | Method::HEAD, _) if query.flag("watch") => watch::watch(app, &path, &query, request.headers()),
        (Method::GET | Method::HEAD, false) => read::list(app, &path, &query, request.headers()),
        (Method::GET | Method::HEAD, true) => read::get(app, &path, request.headers()),
        (Method::POST, false) => write::create(app, &path, &query, request).await,
        (Method::PUT, true) => write::update(app, &path, &query, request).await,
        (Method::PATCH, true) => write::patch(app, &path, &query, request).await,
        (Method::DELETE, true) => write::delete(app, &path, &query, request).await,
        (Method::DELETE, false) => write::delete_collection(app, &path, &query, request).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Adds warnings to a response, as clients show them to their users.
fn warn(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(HeaderName::from_static("warning"), value);
        }
    }
    response
}
