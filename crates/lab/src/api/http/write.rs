//! Creating, changing and deleting objects by request.

use std::borrow::Cow;

use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::path::ResourcePath;
use super::query::Query;
use super::render::Form;
use super::{App, body, warn};
use crate::api::json::Json as _;
use crate::api::kinds::Kind;
use crate::api::patch::Patch;
use crate::api::registry::{DeleteOptions, Propagation, Target, WriteOptions, Written};
use crate::api::status::ApiError;

fn answer(kind: &Kind, headers: &HeaderMap, written: &Written) -> Result<Response, ApiError> {
    let object = kind.shown(&written.object);
    let object = Form::of(headers, None)?.object(kind, &object);
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(warn((code, Json(object)).into_response(), &written.warnings))
}

async fn required(request: Request) -> Result<Value, ApiError> {
    body::object(request).await?.ok_or_else(|| ApiError::bad_request("the body of the request is empty"))
}

pub(super) async fn create(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let namespace = path.one_namespace()?;
    let headers = request.headers().clone();
    let options = query.write_options()?;
    let written = app.registry.create(path.kind, namespace, required(request).await?, &options)?;
    answer(path.kind, &headers, &written)
}

pub(super) async fn update(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers().clone();
    let options = query.write_options()?;
    let value = required(request).await?;
    let written = app.registry.modify(path.target(), path.subresource, &options, |_| Ok(value))?;
    answer(path.kind, &headers, &written)
}

pub(super) async fn patch(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers().clone();
    let options = query.write_options()?;
    let media_type = body::media_type(&headers).to_owned();
    let patch = Patch::read(&media_type, &body::bytes(request).await?, |bytes| body::parse(bytes, true))?;
    let manager = query.get("fieldManager").unwrap_or("unknown");
    if patch.is_apply() && query.get("fieldManager").is_none() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let changed =
        app.registry.modify(path.target(), path.subresource, &options, |old| patch.apply(path.kind, old, manager));
    let written = match changed {
        Err(error) if error.is_not_found() && path.subresource.is_none() && patch.is_apply() => {
            apply_new(app, path, &options, &patch, manager)?
        }
        changed => changed?,
    };
    answer(path.kind, &headers, &written)
}

/// Applying what is not there creates it.
fn apply_new(
    app: &App,
    path: &ResourcePath,
    options: &WriteOptions,
    patch: &Patch,
    manager: &str,
) -> Result<Written, ApiError> {
    let empty = json!({ "metadata": { "name": path.name() } });
    let value = patch.apply(path.kind, &empty, manager)?;
    app.registry.create(path.kind, path.namespace(), value, options)
}

fn delete_options(query: &Query, body: &Value) -> Result<DeleteOptions, ApiError> {
    let propagation = query.get("propagationPolicy").or_else(|| body["propagationPolicy"].as_str());
    let propagation = match propagation {
        None => body["orphanDependents"]
            .as_bool()
            .map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some("Orphan") => Some(Propagation::Orphan),
        Some(other) => {
            let message = format!("propagationPolicy: {other:?} is not Background, Foreground or Orphan");
            return Err(ApiError::bad_request(message));
        }
    };
    let grace = query.get("gracePeriodSeconds").and_then(|text| text.parse().ok());
    let precondition = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace: grace.or_else(|| body["gracePeriodSeconds"].as_i64()),
        propagation,
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
        dry_run: query.dry_run()? || body.list("/dryRun").iter().any(|value| value == "All"),
    })
}

pub(super) async fn delete(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let body = body::object(request).await?.unwrap_or_default();
    let deleted = app.registry.delete(path.target(), &delete_options(query, &body)?)?;
    let object = path.kind.shown(&deleted.object);
    if !deleted.gone {
        return Ok(Json(object).into_response());
    }
    let mut details = json!({ "name": path.name(), "kind": path.kind.plural, "uid": object["metadata"]["uid"] });
    if !path.kind.group.is_empty() {
        details["group"] = path.kind.group.into();
    }
    let status =
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
    Ok(Json(status).into_response())
}

pub(super) async fn delete_collection(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    path.one_namespace()?;
    let body = body::object(request).await?.unwrap_or_default();
    let (filter, options) = (query.filter(path.kind)?, delete_options(query, &body)?);
    let mut deleted = Vec::new();
    for object in app.registry.list(path.kind, path.namespace.as_deref()) {
        let shown = path.kind.shown(&object);
        if !filter.matches(&shown) {
            continue;
        }
        let name = shown.text("/metadata/name");
        match app.registry.delete(Target { name, ..path.target() }, &options) {
            Ok(result) => deleted.push(path.kind.shown(&result.object).into_owned()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let deleted: Vec<_> = deleted.into_iter().map(Cow::Owned).collect();
    let meta = json!({ "resourceVersion": app.registry.store.revision().to_string() });
    Ok(Json(Form::Whole.list(path.kind, meta, &deleted)).into_response())
}

/// Deletes a pod unless a budget forbids it: there are no budgets here.
pub(super) async fn evict(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let eviction = required(request).await?;
    let named = eviction.text("/metadata/name");
    if named != path.name() {
        let message = format!("name in URL does not match name in Eviction object: {named:?}");
        return Err(ApiError::bad_request(message));
    }
    app.registry.delete(path.target(), &delete_options(query, &eviction["deleteOptions"])?)?;
    Ok(done())
}

/// The answer to what makes no object.
fn done() -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    (StatusCode::CREATED, Json(status)).into_response()
}

/// Gives a pod its node.
pub(super) async fn bind(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let options = query.write_options()?;
    let binding = required(request).await?;
    if !options.dry_run {
        app.registry.bind(path.target(), binding.text("/target/name"))?;
    }
    Ok(done())
}
