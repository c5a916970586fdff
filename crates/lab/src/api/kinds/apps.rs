//! Deployment, ReplicaSet and StatefulSet.

use k8s_openapi::api::apps::v1 as apps;
use serde_json::{Value, json};

use super::ListMerge::By;
use super::pod::{POD_LISTS, default_pod_spec};
use super::{BASE, DefaultContext, Kind, META_LISTS, Subresource, typed};
use crate::api::columns::{self, Column};
use crate::api::json::{self, Json as _};
use crate::api::validation;

pub(super) const DEPLOYMENT: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Scale, Subresource::Status],
    resource: "deployments.apps",
    stored: "deployments.apps",
    generation: true,
    columns: &[
        columns::NAME,
        Column::text("Ready"),
        Column::text("Up-to-date"),
        Column::text("Available"),
        columns::AGE,
        Column::wide("Containers"),
        Column::wide("Images"),
        Column::wide("Selector"),
    ],
    row: deployment_row,
    default: default_deployment,
    validate_update: validation::workload_update,
    normalise: typed::<apps::Deployment>,
    merge_keys: &[META_LISTS, POD_LISTS, &[("status.conditions", By("type"))]],
    ..BASE
};

pub(super) const REPLICA_SET: Kind = Kind {
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short: &["rs"],
    resource: "replicasets.apps",
    stored: "replicasets.apps",
    columns: &[
        columns::NAME,
        Column::text("Desired"),
        Column::text("Current"),
        Column::text("Ready"),
        columns::AGE,
        Column::wide("Containers"),
        Column::wide("Images"),
        Column::wide("Selector"),
    ],
    row: replica_set_row,
    default: default_replica_set,
    normalise: typed::<apps::ReplicaSet>,
    fields: &["status.replicas"],
    ..DEPLOYMENT
};

pub(super) const STATEFUL_SET: Kind = Kind {
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short: &["sts"],
    resource: "statefulsets.apps",
    stored: "statefulsets.apps",
    columns: &[columns::NAME, Column::text("Ready"), columns::AGE, Column::wide("Containers"), Column::wide("Images")],
    row: stateful_set_row,
    default: default_stateful_set,
    normalise: typed::<apps::StatefulSet>,
    ..DEPLOYMENT
};

fn deployment_row(object: &Value) -> Vec<Value> {
    let (names, images) = columns::containers(&object["spec"]["template"]);
    vec![
        columns::name(object),
        format!("{}/{}", object.int("/status/readyReplicas"), object.int("/spec/replicas")).into(),
        object.int("/status/updatedReplicas").into(),
        object.int("/status/availableReplicas").into(),
        columns::age(object),
        names.into(),
        images.into(),
        columns::label_selector(&object["spec"]["selector"]),
    ]
}

fn replica_set_row(object: &Value) -> Vec<Value> {
    let (names, images) = columns::containers(&object["spec"]["template"]);
    vec![
        columns::name(object),
        object.int("/spec/replicas").into(),
        object.int("/status/replicas").into(),
        object.int("/status/readyReplicas").into(),
        columns::age(object),
        names.into(),
        images.into(),
        columns::label_selector(&object["spec"]["selector"]),
    ]
}

fn stateful_set_row(object: &Value) -> Vec<Value> {
    let (names, images) = columns::containers(&object["spec"]["template"]);
    vec![
        columns::name(object),
        format!("{}/{}", object.int("/status/readyReplicas"), object.int("/spec/replicas")).into(),
        columns::age(object),
        names.into(),
        images.into(),
    ]
}

fn default_deployment(object: &mut Value, context: &DefaultContext<'_>) {
    default_replica_set(object, context);
    let spec = json::object(object, "spec");
    json::default(spec, "revisionHistoryLimit", 10);
    json::default(spec, "progressDeadlineSeconds", 600);
    let strategy = json::object(spec, "strategy");
    json::default_empty(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = json::object(strategy, "rollingUpdate");
        json::default(rolling, "maxUnavailable", "25%");
        json::default(rolling, "maxSurge", "25%");
    }
}

fn default_replica_set(object: &mut Value, _: &DefaultContext<'_>) {
    let spec = json::object(object, "spec");
    json::default(spec, "replicas", 1);
    let template = json::object(spec, "template");
    json::default(template, "metadata", json!({}));
    default_pod_spec(json::object(template, "spec"));
}

fn default_stateful_set(object: &mut Value, context: &DefaultContext<'_>) {
    default_replica_set(object, context);
    let spec = json::object(object, "spec");
    json::default_empty(spec, "podManagementPolicy", "OrderedReady");
    json::default(spec, "revisionHistoryLimit", 10);
    let strategy = json::object(spec, "updateStrategy");
    json::default_empty(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        json::default(json::object(strategy, "rollingUpdate"), "partition", 0);
    }
}
