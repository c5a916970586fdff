//! Reading objects: one, or a list, in pages if asked for.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use serde_json::json;

use super::App;
use super::page::Token;
use super::path::ResourcePath;
use super::query::Query;
use super::render::Form;
use crate::api::status::ApiError;
use crate::store::{Key, Object, Scope};

pub(super) fn get(app: &App, path: &ResourcePath, headers: &HeaderMap) -> Result<Response, ApiError> {
    let form = Form::of(headers, None)?;
    let object = app.registry.get(path.target())?;
    Ok(Json(form.object(path.kind, &path.kind.shown(&object))).into_response())
}

/// The range of objects that a path and its query name.
pub(super) fn scope(path: &ResourcePath) -> Scope {
    Scope { resource: Some(path.kind.stored), namespace: path.namespace.clone() }
}

pub(super) fn list(app: &App, path: &ResourcePath, query: &Query, headers: &HeaderMap) -> Result<Response, ApiError> {
    let form = Form::of(headers, Some(query))?;
    let filter = query.filter(path.kind)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let (objects, revision) = snapshot(app, path, query)?;
    let shown = objects.iter().map(|(key, object)| (key, path.kind.shown(object)));
    let mut shown = shown.filter(|(_, object)| filter.matches(object));
    let mut meta = json!({ "resourceVersion": revision.to_string() });
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let (keys, page): (Vec<_>, Vec<_>) = shown.by_ref().take(limit).unzip();
    let rest = shown.count();
    if let Some(last) = keys.last().filter(|_| rest > 0) {
        meta["continue"] = Token::after(last, revision).write().into();
        if filter.is_empty() {
            meta["remainingItemCount"] = rest.into();
        }
    }
    Ok(Json(form.list(path.kind, meta, &page)).into_response())
}

/// The objects a list is of, at the revision it is of: the latest, unless the client goes on with a list or asks for
/// an exact revision.
fn snapshot(app: &App, path: &ResourcePath, query: &Query) -> Result<(Vec<(Key, Object)>, u64), ApiError> {
    let (scope, store) = (scope(path), &app.registry.store);
    if let Some(text) = query.get("continue") {
        let token = Token::read(text)?;
        let after = token.key(path.kind.stored);
        let objects = store.list_at(&scope, token.revision, Some(&after))?;
        return Ok((objects, token.revision));
    }
    let asked = query.number("resourceVersion")?.filter(|revision| *revision > 0);
    let revision = store.revision();
    match (query.get("resourceVersionMatch"), asked) {
        (Some("Exact"), Some(exact)) => Ok((store.list_at(&scope, exact, None)?, exact)),
        (Some("Exact"), None) => Err(ApiError::bad_request("resourceVersionMatch Exact needs a resourceVersion")),
        _ if asked.is_some_and(|asked| asked > revision) => Err(ApiError::expired()),
        _ => Ok((store.list_at(&scope, revision, None)?, revision)),
    }
}
