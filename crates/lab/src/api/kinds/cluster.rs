//! Namespace and Node.

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::ListMerge::{By, Set};
use super::{BASE, DefaultContext, Kind, META_LISTS, Subresource, typed};
use crate::api::columns::{self, Column};
use crate::api::json::{self, Json as _};

pub(super) const NAMESPACE: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short: &["ns"],
    namespaced: false,
    subresources: &[Subresource::Finalize, Subresource::Status],
    resource: "namespaces",
    stored: "namespaces",
    columns: &[columns::NAME, Column::text("Status"), columns::AGE],
    row: |object| vec![columns::name(object), object.text("/status/phase").into(), columns::age(object)],
    default: default_namespace,
    normalise: typed::<core::Namespace>,
    merge_keys: &[META_LISTS, &[("status.conditions", By("type"))]],
    fields: &["status.phase"],
    ..BASE
};

fn default_namespace(object: &mut Value, context: &DefaultContext<'_>) {
    let name = object.text("/metadata/name").to_owned();
    json::object(json::object(object, "metadata"), "labels")["kubernetes.io/metadata.name"] = name.into();
    if context.old.is_none() {
        object["spec"] = json!({ "finalizers": ["kubernetes"] });
        object["status"] = json!({ "phase": "Active" });
    }
}

pub(super) const NODE: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short: &["no"],
    namespaced: false,
    subresources: &[Subresource::Status],
    resource: "nodes",
    stored: "nodes",
    columns: &[
        columns::NAME,
        Column::text("Status"),
        Column::text("Roles"),
        columns::AGE,
        Column::text("Version"),
        Column::wide("Internal-IP"),
        Column::wide("External-IP"),
        Column::wide("OS-Image"),
        Column::wide("Kernel-Version"),
        Column::wide("Container-Runtime"),
    ],
    row: node_row,
    normalise: typed::<core::Node>,
    merge_keys: &[
        META_LISTS,
        &[
            ("status.conditions", By("type")),
            ("status.addresses", By("type")),
            ("spec.taints", By("key")),
            ("spec.podCIDRs", Set),
        ],
    ],
    fields: &["spec.unschedulable"],
    ..BASE
};

fn node_row(node: &Value) -> Vec<Value> {
    let ready = match node.condition("Ready").map(|condition| condition.text("/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let status = if node.flag("/spec/unschedulable") { format!("{ready},SchedulingDisabled") } else { ready.into() };
    let mut roles: Vec<_> =
        node.entries("/metadata/labels").filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let found = node.list("/status/addresses").iter().find(|address| address["type"] == kind);
        columns::or_none(found.map_or("", |address| address.text("/address")))
    };
    let info = |field: &str| {
        let text = node.text(&format!("/status/nodeInfo/{field}"));
        Value::from(if text.is_empty() { "<unknown>" } else { text })
    };
    vec![
        columns::name(node),
        status.into(),
        columns::or_none(&roles.join(",")),
        columns::age(node),
        node.text("/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}
