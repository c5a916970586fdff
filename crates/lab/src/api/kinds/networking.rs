//! NetworkPolicy.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{BASE, DefaultContext, Kind, typed};
use crate::api::columns::{self, Column};
use crate::api::json::{self, Json as _};

pub(super) const NETWORK_POLICY: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short: &["netpol"],
    resource: "networkpolicies.networking.k8s.io",
    stored: "networkpolicies.networking.k8s.io",
    generation: true,
    columns: &[columns::NAME, Column::text("Pod-Selector"), columns::AGE],
    row: |object| {
        vec![columns::name(object), columns::label_selector(&object["spec"]["podSelector"]), columns::age(object)]
    },
    default: default_network_policy,
    normalise: typed::<NetworkPolicy>,
    ..BASE
};

fn default_network_policy(object: &mut Value, _: &DefaultContext<'_>) {
    let spec = json::object(object, "spec");
    json::default(spec, "podSelector", json!({}));
    if spec.list("/policyTypes").is_empty() {
        let egress = !spec.list("/egress").is_empty();
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    for direction in ["ingress", "egress"] {
        json::each(spec, direction, |rule| {
            json::each(rule, "ports", |port| json::default(port, "protocol", "TCP"));
        });
    }
}
