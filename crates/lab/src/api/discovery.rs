//! Discovery of the API.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use super::http::REVIEWS;
use super::kinds::{Description, EVICTIONS, KINDS, Kind, Subresource};
use super::status::ApiError;

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The version this API is like.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": concat!("v1.33.0+ringfence.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", architecture()),
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The paths of the root.
pub(crate) fn paths() -> Value {
    let versions =
        |group: &'static str| versions(group).into_iter().map(move |version| format!("/apis/{group}/{version}"));
    let groups = named_groups().flat_map(|group| std::iter::once(format!("/apis/{group}")).chain(versions(group)));
    let fixed = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"];
    let mut paths: Vec<String> = fixed.iter().map(|path| (*path).to_owned()).chain(groups).collect();
    paths.sort();
    json!({ "paths": paths })
}

/// The groups with a name, once each.
pub(crate) fn named_groups() -> impl Iterator<Item = &'static str> {
    let groups = KINDS.iter().map(|kind| kind.group).chain(REVIEWS.iter().map(|(group, ..)| *group)).chain([EVICTIONS]);
    let mut seen = Vec::new();
    groups.filter(|group| !group.is_empty()).filter(move |group| {
        let new = !seen.contains(group);
        seen.push(*group);
        new
    })
}

/// The versions of a group, the preferred one first.
pub(crate) fn versions(group: &str) -> Vec<&'static str> {
    let mut versions = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group) {
        if !versions.contains(&kind.version) {
            versions.push(kind.version);
        }
    }
    // Groups of questions and of evictions have no kinds.
    if versions.is_empty() { vec!["v1"] } else { versions }
}

fn aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|range| {
        let parts: Vec<_> = range.split(';').map(str::trim).collect();
        parts.contains(&"as=APIGroupDiscoveryList") && parts.contains(&"v=v2")
    })
}

/// `/api`
pub(crate) fn core(headers: &HeaderMap) -> Response {
    if aggregated(headers) {
        return discovery_list([""].into_iter());
    }
    let versions = json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] });
    Json(versions).into_response()
}

/// `/apis`
pub(crate) fn groups(headers: &HeaderMap) -> Response {
    if aggregated(headers) {
        return discovery_list(named_groups());
    }
    let groups: Vec<_> = named_groups().map(group_value).collect();
    Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })).into_response()
}

fn group_value(group: &str) -> Value {
    let version = |version| json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    let versions: Vec<_> = versions(group).into_iter().map(version).collect();
    json!({ "name": group, "preferredVersion": versions[0], "versions": versions })
}

/// `/apis/GROUP`
pub(crate) fn group(name: &str) -> Result<Response, ApiError> {
    let name = named_groups().find(|group| *group == name).ok_or_else(ApiError::unknown_path)?;
    let mut group = group_value(name);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Ok(Json(group).into_response())
}

/// The kinds of a version of a group.
fn kinds_of(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| kind.group == group && kind.version == version)
}

fn reviews_of(group: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    REVIEWS.iter().filter(move |(of, ..)| *of == group).map(|(_, plural, kind)| (*plural, *kind))
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub(crate) fn resources(group: &str, version: &str) -> Result<Response, ApiError> {
    let known = group.is_empty() || named_groups().any(|known| known == group);
    if !known || !versions(group).contains(&version) {
        return Err(ApiError::unknown_path());
    }
    let mut resources: Vec<Value> = kinds_of(group, version).flat_map(plain_resource).collect();
    resources.extend(reviews_of(group).map(|(plural, kind)| {
        json!({ "name": plural, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind,
            "verbs": ["create"] })
    }));
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    });
    Ok(Json(list).into_response())
}

fn plain_resource(kind: &'static Kind) -> Vec<Value> {
    let mut main = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": VERBS,
    });
    if !kind.short.is_empty() {
        main["shortNames"] = kind.short.to_vec().into();
    }
    if !kind.categories.is_empty() {
        main["categories"] = kind.categories.to_vec().into();
    }
    let part = |part: &Subresource| {
        let Description { name, verbs, speaks } = part.describe();
        let mut resource = json!({
            "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
            "kind": speaks.map_or(kind.kind, |(_, _, kind)| kind), "verbs": verbs,
        });
        if let Some((group, version, _)) = speaks.filter(|(group, ..)| !group.is_empty()) {
            resource["group"] = group.into();
            resource["version"] = version.into();
        }
        resource
    };
    std::iter::once(main).chain(kind.subresources.iter().map(part)).collect()
}

/// All resources of groups in one answer.
fn discovery_list<'a>(groups: impl Iterator<Item = &'a str>) -> Response {
    let items: Vec<_> = groups
        .map(|group| {
            let mut metadata = json!({ "creationTimestamp": null });
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            let versions: Vec<_> =
                versions(group).into_iter().map(|version| aggregated_version(group, version)).collect();
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    let list = json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items });
    ([(CONTENT_TYPE, AGGREGATED)], list.to_string()).into_response()
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let mut resources: Vec<_> = kinds_of(group, version).map(aggregated_resource).collect();
    resources.extend(reviews_of(group).map(|(plural, kind)| {
        json!({
            "resource": plural, "singularResource": kind.to_lowercase(), "scope": "Cluster", "verbs": ["create"],
            "responseKind": { "group": group, "version": "v1", "kind": kind },
        })
    }));
    json!({ "version": version, "freshness": "Current", "resources": resources })
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let part = |part: &Subresource| {
        let Description { name, verbs, speaks } = part.describe();
        let (group, version, name_of) = speaks.unwrap_or((kind.group, kind.version, kind.kind));
        json!({
            "subresource": name, "verbs": verbs,
            "responseKind": { "group": group, "version": version, "kind": name_of },
        })
    };
    let mut resource = json!({
        "resource": kind.plural,
        "singularResource": kind.singular,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "verbs": VERBS,
        "responseKind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
    });
    for (field, names) in [("shortNames", kind.short), ("categories", kind.categories)] {
        if !names.is_empty() {
            resource[field] = names.to_vec().into();
        }
    }
    if !kind.subresources.is_empty() {
        resource["subresources"] = kind.subresources.iter().map(part).collect();
    }
    resource
}
