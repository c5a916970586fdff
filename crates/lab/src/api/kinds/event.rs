//! Event, as `core/v1` stores it and as `events.k8s.io/v1` shows the same objects.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1 as events;
use serde_json::Value;

use super::{BASE, Kind, Renames, typed};
use crate::api::columns::{self, Column};
use crate::api::json::Json as _;

const COLUMNS: &[Column] = &[
    Column::text("Last Seen"),
    Column::text("Type"),
    Column::text("Reason"),
    Column::text("Object"),
    Column::wide("Subobject"),
    Column::wide("Source"),
    Column::text("Message"),
    Column::wide("First Seen"),
    Column::wide("Count"),
    Column::wide("Name"),
];

pub(super) const EVENT: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short: &["ev"],
    resource: "events",
    stored: "events",
    columns: COLUMNS,
    row,
    normalise: typed::<core::Event>,
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    ..BASE
};

const RENAMES: Renames = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
];

pub(super) const EVENT_VIEW: Kind = Kind {
    group: "events.k8s.io",
    resource: "events.events.k8s.io",
    renames: RENAMES,
    row: |view| row(&EVENT_VIEW.to_stored(view.clone())),
    normalise: typed::<events::Event>,
    fields: &[
        "reason",
        "regarding.kind",
        "regarding.name",
        "regarding.namespace",
        "regarding.uid",
        "reportingController",
        "type",
    ],
    ..EVENT
};

fn row(event: &Value) -> Vec<Value> {
    let since = |pointer: &str| columns::since(event.text(pointer));
    let known = |pointer: &str| !event.text(pointer).is_empty();
    let first = if known("/firstTimestamp") { since("/firstTimestamp") } else { since("/eventTime") };
    let last = if known("/series/lastObservedTime") {
        since("/series/lastObservedTime")
    } else if known("/lastTimestamp") {
        since("/lastTimestamp")
    } else {
        first.clone()
    };
    let count = event.int("/series/count").max(event.int("/count")).max(1);
    let object = event.text("/involvedObject/kind").to_lowercase();
    let object = match event.text("/involvedObject/name") {
        "" => object,
        name => format!("{object}/{name}"),
    };
    vec![
        last.into(),
        event.text("/type").into(),
        event.text("/reason").into(),
        object.into(),
        event.text("/involvedObject/fieldPath").into(),
        source(event).into(),
        event.text("/message").trim().into(),
        first.into(),
        count.to_string().into(),
        columns::name(event),
    ]
}

fn source(event: &Value) -> String {
    let or = |old: &'static str, new: &'static str| match event.text(old) {
        "" => event.text(new),
        text => text,
    };
    let component = or("/source/component", "/reportingComponent");
    let instance = or("/source/host", "/reportingInstance");
    if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") }
}
