//! Pod.

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::ListMerge::{By, Port};
use super::{BASE, DefaultContext, Kind, ListMerge, META_LISTS, Subresource, typed};
use crate::api::columns::{self, Column};
use crate::api::json::{self, Json as _};
use crate::api::pod_row;
use crate::api::validation;

/// Lists of a pod's specification, also within templates.
pub(super) const POD_LISTS: &[(&str, ListMerge)] = &[
    ("spec.containers", By("name")),
    ("spec.initContainers", By("name")),
    ("spec.ephemeralContainers", By("name")),
    ("spec.volumes", By("name")),
    ("spec.imagePullSecrets", By("name")),
    ("spec.hostAliases", By("ip")),
    ("spec.topologySpreadConstraints", By("topologyKey")),
    ("containers.ports", Port("containerPort")),
    ("containers.env", By("name")),
    ("containers.volumeMounts", By("mountPath")),
    ("containers.volumeDevices", By("devicePath")),
    ("initContainers.ports", Port("containerPort")),
    ("initContainers.env", By("name")),
    ("initContainers.volumeMounts", By("mountPath")),
    ("initContainers.volumeDevices", By("devicePath")),
    ("ephemeralContainers.ports", Port("containerPort")),
    ("ephemeralContainers.env", By("name")),
    ("ephemeralContainers.volumeMounts", By("mountPath")),
    ("ephemeralContainers.volumeDevices", By("devicePath")),
];

pub(super) const POD: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::Attach,
        Subresource::Binding,
        Subresource::Eviction,
        Subresource::Exec,
        Subresource::Log,
        Subresource::Status,
    ],
    resource: "pods",
    stored: "pods",
    generation: true,
    graceful: true,
    columns: &[
        columns::NAME,
        Column::text("Ready"),
        Column::text("Status"),
        Column::text("Restarts"),
        columns::AGE,
        Column::wide("IP"),
        Column::wide("Node"),
        Column::wide("Nominated Node"),
        Column::wide("Readiness Gates"),
    ],
    row: pod_row::cells,
    default: default_pod,
    validate_update: validation::pod_update,
    normalise: typed::<core::Pod>,
    merge_keys: &[
        META_LISTS,
        POD_LISTS,
        &[("status.conditions", By("type")), ("status.podIPs", By("ip")), ("status.hostIPs", By("ip"))],
    ],
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
    ],
    ..BASE
};

fn default_pod(object: &mut Value, context: &DefaultContext<'_>) {
    let spec = json::object(object, "spec");
    default_pod_spec(spec);
    json::default_empty(spec, "serviceAccountName", "default");
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    json::default(spec, "enableServiceLinks", true);
    json::default(spec, "priority", 0);
    json::default(spec, "preemptionPolicy", "PreemptLowerPriority");
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        tolerate(spec, taint);
    }
    if context.old.is_none() {
        let class = quality_of_service(spec);
        let status = json::object(object, "status");
        json::default(status, "phase", "Pending");
        json::default(status, "qosClass", class);
    }
}

/// Pods stay for five minutes on a node that is in trouble, unless they say otherwise.
fn tolerate(spec: &mut Value, taint: &str) {
    let tolerated = |toleration: &Value| {
        let effect = toleration.text("/effect");
        (effect.is_empty() || effect == "NoExecute")
            && (toleration["key"] == taint || toleration.text("/key").is_empty())
    };
    if !spec.list("/tolerations").iter().any(tolerated) {
        json::default(spec, "tolerations", json!([]));
        if let Some(tolerations) = spec["tolerations"].as_array_mut() {
            let toleration =
                json!({ "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 });
            tolerations.push(toleration);
        }
    }
}

/// The class of service that requests and limits make.
fn quality_of_service(spec: &Value) -> &'static str {
    let containers = || spec.list("/containers").iter().chain(spec.list("/initContainers"));
    let amount = |container: &Value, side: &str, name: &str| {
        let text = container.text(&format!("/resources/{side}/{name}")).to_owned();
        (!text.is_empty() && text != "0").then_some(text)
    };
    let names = ["cpu", "memory"];
    let sides = ["requests", "limits"];
    if !containers()
        .any(|container| names.iter().any(|name| sides.iter().any(|side| amount(container, side, name).is_some())))
    {
        return "BestEffort";
    }
    let guaranteed = containers().all(|container| {
        names.iter().all(|name| {
            let limit = amount(container, "limits", name);
            limit.is_some() && amount(container, "requests", name).is_none_or(|request| Some(request) == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// Defaults of a pod's specification, in a pod or a template.
pub(super) fn default_pod_spec(spec: &mut Value) {
    json::default_empty(spec, "restartPolicy", "Always");
    json::default_empty(spec, "dnsPolicy", "ClusterFirst");
    json::default_empty(spec, "schedulerName", "default-scheduler");
    json::default(spec, "securityContext", json!({}));
    json::default(spec, "terminationGracePeriodSeconds", 30);
    let host = spec.flag("/hostNetwork");
    for containers in ["containers", "initContainers"] {
        json::each(spec, containers, |container| default_container(container, host));
    }
    json::each(spec, "volumes", default_volume);
}

fn default_container(container: &mut Value, host: bool) {
    json::default(container, "resources", json!({}));
    json::default_empty(container, "terminationMessagePath", "/dev/termination-log");
    json::default_empty(container, "terminationMessagePolicy", "File");
    let policy = if always_pulled(container.text("/image")) { "Always" } else { "IfNotPresent" };
    json::default_empty(container, "imagePullPolicy", policy);
    json::each(container, "ports", |port| {
        json::default_empty(port, "protocol", "TCP");
        if host {
            let number = port["containerPort"].clone();
            json::default_empty(port, "hostPort", number);
        }
    });
    json::each(container, "env", |variable| {
        if variable.pointer("/valueFrom/fieldRef").is_some() {
            json::default_empty(&mut variable["valueFrom"]["fieldRef"], "apiVersion", "v1");
        }
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(probe).is_some_and(Value::is_object) {
            default_probe(&mut container[probe]);
        }
    }
}

fn default_probe(probe: &mut Value) {
    for (field, default) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        json::default_empty(probe, field, default);
    }
    if probe.get("httpGet").is_some_and(Value::is_object) {
        json::default_empty(&mut probe["httpGet"], "path", "/");
        json::default_empty(&mut probe["httpGet"], "scheme", "HTTP");
    }
}

fn default_volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|members| members.len() == 1) {
        volume["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if volume.get(source).is_some_and(Value::is_object) {
            json::default(&mut volume[source], "defaultMode", 420);
        }
    }
}

/// Images without a tag, or with the tag `latest`, are pulled anew.
fn always_pulled(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains('@') {
        return false;
    }
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}
