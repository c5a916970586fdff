//! OpenAPI version 3, as far as clients need it: which operations there are and what parameters they take.
//!
//! Fields are validated by the server, so schemas only tell their names and types. The strategic merge patch is left
//! out of what is accepted, so that clients merge by the rules they carry, which know every field's merge key.

mod schemas;

use serde_json::{Map, Value, json};

use super::discovery::{named_groups, versions};
use super::kinds::{KINDS, Kind};
use super::status::ApiError;

/// `/openapi/v3`: where the document of each group is.
pub(crate) fn index() -> Value {
    let of = |group: &'static str| versions(group).into_iter().map(move |version| format!("apis/{group}/{version}"));
    let groups = named_groups().flat_map(of);
    let entry = |name: String| {
        let url = format!("/openapi/v3/{name}?hash={}", env!("CARGO_PKG_VERSION"));
        (name, json!({ "serverRelativeURL": url }))
    };
    let paths: Map<String, Value> = std::iter::once("api/v1".to_owned()).chain(groups).map(entry).collect();
    json!({ "paths": paths })
}

/// `/openapi/v3/NAME`: the operations of a version of a group.
pub(crate) fn document(name: &str) -> Result<Value, ApiError> {
    let (group, version) = match name {
        "api/v1" => ("", "v1"),
        _ => name.strip_prefix("apis/").and_then(|rest| rest.split_once('/')).ok_or_else(ApiError::unknown_path)?,
    };
    let known = group.is_empty() || named_groups().any(|known| known == group);
    if !known || !versions(group).contains(&version) {
        return Err(ApiError::unknown_path());
    }
    let (mut paths, mut components) = (Map::new(), Map::new());
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        let base = if kind.namespaced { format!("/{name}/namespaces/{{namespace}}") } else { format!("/{name}") };
        paths.insert(format!("{base}/{}", kind.plural), collection(kind));
        paths.insert(format!("{base}/{}/{{name}}", kind.plural), object(kind));
        schemas::add_kind(kind, &mut components);
        let schema = &mut components[&schemas::of(kind)];
        schema["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        for field in ["apiVersion", "kind"] {
            schema["properties"][field] = json!({ "type": "string" });
        }
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": { "title": "Ringfence lab", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": components },
    }))
}

fn gvk(kind: &Kind) -> Value {
    json!({ "group": kind.group, "version": kind.version, "kind": kind.kind })
}

fn operation(kind: &Kind, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<_> = parameters
        .iter()
        .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string", "uniqueItems": true } }))
        .collect();
    let reference = json!({ "$ref": format!("#/components/schemas/{}", schemas::of(kind)) });
    json!({
        "operationId": format!("{action}{}{}", kind.version.to_uppercase(), kind.kind),
        "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": { "application/json": { "schema": reference } } } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(kind),
    })
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];

fn collection(kind: &Kind) -> Value {
    let list = ["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"];
    json!({ "get": operation(kind, "list", &list), "post": operation(kind, "post", WRITE) })
}

fn object(kind: &Kind) -> Value {
    let mut patch = operation(kind, "patch", &["dryRun", "fieldManager", "fieldValidation", "force"]);
    let any = json!({ "schema": { "type": "object" } });
    patch["requestBody"] = json!({ "content": {
        "application/apply-patch+yaml": any, "application/json-patch+json": any, "application/merge-patch+json": any,
    } });
    json!({
        "get": operation(kind, "get", &[]),
        "put": operation(kind, "put", WRITE),
        "patch": patch,
        "delete": operation(kind, "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
    })
}
