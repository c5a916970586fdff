//! EndpointSlice.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::{BASE, DefaultContext, Kind, typed};
use crate::api::columns::{self, Column};
use crate::api::json::{self, Json as _};

pub(super) const ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    resource: "endpointslices.discovery.k8s.io",
    stored: "endpointslices.discovery.k8s.io",
    generation: true,
    columns: &[
        columns::NAME,
        Column::text("AddressType"),
        Column::text("Ports"),
        Column::text("Endpoints"),
        columns::AGE,
    ],
    row,
    default: default_endpoint_slice,
    normalise: typed::<EndpointSlice>,
    ..BASE
};

fn default_endpoint_slice(object: &mut Value, _: &DefaultContext<'_>) {
    json::each(object, "ports", |port| {
        json::default(port, "name", "");
        json::default(port, "protocol", "TCP");
    });
}

fn row(slice: &Value) -> Vec<Value> {
    let ports = slice.list("/ports").iter().map(|port| match port.int("/port") {
        0 => match port.text("/name") {
            "" => "*".to_owned(),
            name => name.to_owned(),
        },
        number => number.to_string(),
    });
    let endpoints = slice.list("/endpoints").iter();
    let addresses =
        endpoints.flat_map(|endpoint| endpoint.list("/addresses")).map(|a| a.as_str().unwrap_or("").to_owned());
    vec![
        columns::name(slice),
        slice.text("/addressType").into(),
        few(ports).into(),
        few(addresses).into(),
        columns::age(slice),
    ]
}

/// The first three of a list, and how many more there are.
fn few(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    match items.len() {
        0 => "<unset>".to_owned(),
        1..=3 => items.join(","),
        count => format!("{} + {} more...", items[..3].join(","), count - 3),
    }
}
