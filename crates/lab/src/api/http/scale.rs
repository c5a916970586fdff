//! The number of replicas as an `autoscaling/v1` Scale.

use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::Method;
use serde_json::{Value, json};

use super::path::ResourcePath;
use super::query::Query;
use super::{App, body};
use crate::api::columns;
use crate::api::json::Json as _;
use crate::api::patch::Patch;
use crate::api::status::ApiError;

pub(super) async fn serve(
    app: &App,
    path: &ResourcePath,
    query: &Query,
    request: Request,
) -> Result<Response, ApiError> {
    let method = request.method().clone();
    if method == Method::GET {
        return Ok(Json(scale(&*app.registry.get(path.target())?)).into_response());
    }
    let options = query.write_options()?;
    let media_type = body::media_type(request.headers()).to_owned();
    let wanted = match method {
        Method::PUT => Wanted::Value(body::object(request).await?.unwrap_or_default()),
        Method::PATCH => {
            let bytes = body::bytes(request).await?;
            Wanted::Patch(Patch::read(&media_type, &bytes, |bytes| body::parse(bytes, true))?)
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    let written = app.registry.modify(path.target(), None, &options, |old| {
        let wanted = match wanted {
            Wanted::Value(value) => value,
            Wanted::Patch(patch) => patch.apply(path.kind, &scale(old), "unknown")?,
        };
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = wanted["metadata"]["resourceVersion"].clone();
        new["spec"]["replicas"] = wanted.int("/spec/replicas").into();
        Ok(new)
    })?;
    Ok(Json(scale(&written.object)).into_response())
}

/// A request about the scale.
enum Wanted {
    Value(Value),
    Patch(Patch),
}

fn scale(object: &Value) -> Value {
    let selector = match columns::label_selector(&object["spec"]["selector"]) {
        Value::String(text) if text == "<none>" => String::new(),
        Value::String(text) => text,
        _ => String::new(),
    };
    let metadata = &object["metadata"];
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": { "replicas": object.int("/spec/replicas") },
        "status": { "replicas": object.int("/status/replicas"), "selector": selector },
    })
}
