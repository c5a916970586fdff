//! Makes the requests of the tour without kubectl.

use std::time::Duration;

use anyhow::Context as _;
use http::Request as HttpRequest;
use http::header::{ACCEPT, CONTENT_TYPE};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::ListParams;
use kube::{Api, Client};
use ringfence_k8s::convert::{self, Resource};
use ringfence_k8s::exec::{self, ExecError, Output};
use serde_json::{Value, json};

use super::expect::Outcome;
use super::request::{Listing, Names, PatchStyle, Pod, Request};

/// The time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

const MERGE_PATCH: &str = "application/merge-patch+json";

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Name and address of a pod, once it has both.
pub(super) async fn locate(client: &Client, pod: Pod) -> Option<(String, String)> {
    let api: Api<KubePod> = Api::namespaced(client.clone(), pod.namespace());
    let found = match pod {
        Pod::Named(_, name) => api.get_opt(name).await.ok()?,
        Pod::Nginx(_) => {
            let list = api.list(&ListParams::default().labels("app=nginx")).await.ok()?;
            list.items.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none())
        }
    }?;
    let address = found.status?.pod_ip?;
    Some((found.metadata.name?, address))
}

/// Makes a request; what the API refuses is an outcome, not an error.
pub(super) async fn perform(client: &Client, request: &Request, names: &Names) -> Outcome {
    let ended = tokio::time::timeout(REQUEST_TIMEOUT, attempt(client, request, names)).await;
    match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome { code: 1, stdout: String::new(), stderr: format!("{error:#}") },
        Err(_) => {
            Outcome { code: -1, stdout: String::new(), stderr: format!("did not end within {REQUEST_TIMEOUT:?}") }
        }
    }
}

async fn attempt(client: &Client, request: &Request, names: &Names) -> anyhow::Result<Outcome> {
    match request {
        Request::GetNodes => table(client, "/api/v1/nodes", false, false).await,
        Request::GetPods(listing) => pods(client, *listing).await,
        Request::Curl { from, to } => exec(client, *from, Request::curl(*to, names), names).await,
        Request::CreateNamespace(name) => {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            send(client, "POST", "/api/v1/namespaces", &body, format!("namespace/{name} created")).await
        }
        Request::CreateDeployment(namespace) => {
            let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
            send(client, "POST", &path, &deployment(), "deployment.apps/nginx created".to_owned()).await
        }
        Request::Expose(namespace) => {
            let path = format!("/api/v1/namespaces/{namespace}/services");
            send(client, "POST", &path, &service(), "service/nginx exposed".to_owned()).await
        }
        Request::Run(pod) => {
            let name = names.name(*pod);
            let path = format!("/api/v1/namespaces/{}/pods", pod.namespace());
            send(client, "POST", &path, &plain_pod(name), format!("pod/{name} created")).await
        }
        Request::Apply(manifest) => {
            let Policy { path, called, name, body } = policy(&manifest.text(names))?;
            send(client, "POST", &path, &body, format!("{called}/{name} created")).await
        }
        Request::Delete(manifest) => {
            let Policy { path, called, name, .. } = policy(&manifest.text(names))?;
            send(client, "DELETE", &format!("{path}/{name}"), &json!({}), format!("{called} \"{name}\" deleted")).await
        }
        Request::Patch { name, style, patch } => {
            let resource = convert::Kind::ClusterNetworkPolicy.resource();
            let said = format!("{}/{name} patched", called(resource));
            let media_type = match style {
                PatchStyle::Merge => MERGE_PATCH,
                PatchStyle::Json => "application/json-patch+json",
            };
            let path = format!("{}/{name}", path_of(resource, ""));
            send_as(client, ("PATCH", media_type), &path, &serde_json::from_str(patch)?, said).await
        }
        Request::LabelNamespace { namespace, label } => {
            let said = format!("namespace/{namespace} labeled");
            send(client, "PATCH", &format!("/api/v1/namespaces/{namespace}"), &labels(*label), said).await
        }
        Request::LabelPod { pod, label } => {
            let name = names.name(*pod);
            let path = format!("/api/v1/namespaces/{}/pods/{name}", pod.namespace());
            send(client, "PATCH", &path, &labels(*label), format!("pod/{name} labeled")).await
        }
    }
}

fn deployment() -> Value {
    let template = json!({
        "metadata": {"labels": {"app": "nginx"}},
        "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nginx", "labels": {"app": "nginx"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "nginx"}}, "template": template},
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "nginx", "labels": {"app": "nginx"}},
        "spec": {"selector": {"app": "nginx"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]},
    })
}

fn plain_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"run": name}},
        "spec": {"containers": [{"name": name, "image": "nginx"}]},
    })
}

fn labels((key, value): (&str, &str)) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}

/// A policy of a manifest of the tour.
struct Policy {
    /// Of the policies of its kind, in its namespace if it has one.
    path: String,
    /// Its kind, as kubectl writes it.
    called: String,
    name: String,
    body: Value,
}

fn policy(text: &str) -> anyhow::Result<Policy> {
    let body: Value = serde_saphyr::from_str(text).context("a manifest of the tour")?;
    let field = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind =
        convert::Kind::of(&field("/apiVersion"), &field("/kind")).context("a manifest of the tour has no kind")?;
    let resource = kind.resource();
    let path = path_of(resource, &field("/metadata/namespace"));
    Ok(Policy { path, called: called(resource), name: field("/metadata/name"), body })
}

fn path_of(resource: Resource, namespace: &str) -> String {
    let version = resource.api_version();
    match namespace {
        "" => format!("/apis/{version}/{}", resource.plural),
        namespace => format!("/apis/{version}/namespaces/{namespace}/{}", resource.plural),
    }
}

fn called(resource: Resource) -> String {
    format!("{}.{}", resource.kind.to_lowercase(), resource.group)
}

async fn send(client: &Client, method: &str, path: &str, body: &Value, said: String) -> anyhow::Result<Outcome> {
    let media_type = if method == "PATCH" { MERGE_PATCH } else { "application/json" };
    send_as(client, (method, media_type), path, body, said).await
}

async fn send_as(
    client: &Client,
    (method, media_type): (&str, &str),
    path: &str,
    body: &Value,
    said: String,
) -> anyhow::Result<Outcome> {
    let request = HttpRequest::builder().method(method).uri(path).header(CONTENT_TYPE, media_type);
    let request = request.body(serde_json::to_vec(body)?)?;
    client.request_text(request).await?;
    Ok(Outcome { code: 0, stdout: said, stderr: String::new() })
}

async fn pods(client: &Client, listing: Listing) -> anyhow::Result<Outcome> {
    let path = match listing.namespace {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/pods"),
        None => "/api/v1/pods".to_owned(),
    };
    table(client, &path, listing.wide, listing.labels).await
}

/// The server's table as kubectl prints it.
async fn table(client: &Client, path: &str, wide: bool, labels: bool) -> anyhow::Result<Outcome> {
    let request = HttpRequest::builder().uri(path).header(ACCEPT, TABLE).body(Vec::new())?;
    let answer: Value = serde_json::from_str(&client.request_text(request).await?)?;
    Ok(Outcome { code: 0, stdout: render(&answer, wide, labels), stderr: String::new() })
}

/// Columns as wide as their widest cell, three spaces between them.
fn render(table: &Value, wide: bool, labels: bool) -> String {
    let empty = Vec::new();
    let array = |value: &'_ Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let columns = table.get("columnDefinitions").and_then(Value::as_array).unwrap_or(&empty);
    let shown: Vec<usize> =
        (0..columns.len()).filter(|i| wide || columns[*i]["priority"].as_i64() == Some(0)).collect();
    let heading = |i: &usize| columns[*i]["name"].as_str().unwrap_or_default().to_uppercase();
    let mut lines: Vec<Vec<String>> = vec![shown.iter().map(heading).collect()];
    for row in array(table, "rows") {
        let cells = array(&row, "cells");
        let cell = |i: &usize| cells.get(*i).map(text_of).unwrap_or_default();
        lines.push(shown.iter().map(cell).collect());
        if labels && let Some(line) = lines.last_mut() {
            line.push(labels_of(&row));
        }
    }
    if labels && let Some(line) = lines.first_mut() {
        line.push("LABELS".to_owned());
    }
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(padded).collect()
}

fn text_of(cell: &Value) -> String {
    cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)
}

fn labels_of(row: &Value) -> String {
    let labels = row.pointer("/object/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", text_of(value)));
    pairs.collect::<Vec<_>>().join(",")
}

async fn exec(client: &Client, pod: Pod, command: Vec<String>, names: &Names) -> anyhow::Result<Outcome> {
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    match exec::exec(client, pod.namespace(), names.name(pod), None, &command).await {
        Ok(Output { code, stdout, stderr }) => Ok(Outcome { code, stdout, stderr }),
        // As kubectl says it.
        Err(ExecError::NotStarted(stderr)) => Ok(Outcome { code: 1, stdout: String::new(), stderr }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_k8s::validate;

    use crate::demo::tour::{CLUSTER_POLICIES, MANIFESTS, NAMESPACES};

    #[test]
    fn tables_look_like_kubectl_s() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Restarts", "priority": 0}, {"name": "IP", "priority": 1},
            ],
            "rows": [{"cells": ["a-long-name", 0, "10.0.0.1"], "object": {"metadata": {"labels": {"a": "b",
            "c": "d"}}}}],
        });
        assert_eq!(render(&table, false, false), "NAME          RESTARTS\na-long-name   0\n");
        let wide = "NAME          RESTARTS   IP         LABELS\na-long-name   0          10.0.0.1   a=b,c=d\n";
        assert_eq!(render(&table, true, true), wide);
    }

    #[test]
    fn manifests_are_policies_called_as_their_files() {
        for manifest in MANIFESTS {
            let Policy { path, called, name, body } = policy(manifest.text).unwrap();
            assert_eq!(format!("{name}.yaml"), manifest.file);
            let in_cluster = CLUSTER_POLICIES.contains(&name.as_str());
            if in_cluster {
                assert_eq!(path, "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies");
                assert_eq!(called, "clusternetworkpolicy.policy.networking.k8s.io");
                assert_eq!(validate::object(&body), Some(Vec::new()));
            } else {
                let namespace = body["metadata"]["namespace"].as_str().unwrap();
                assert!(NAMESPACES.contains(&namespace));
                assert_eq!(path, format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"));
            }
        }
    }
}
