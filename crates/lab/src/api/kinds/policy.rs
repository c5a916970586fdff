//! The cluster-wide policies, as their definitions of the experimental channel have them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use ringfence_k8s::convert;
use ringfence_k8s::crd::{self, Channel, GROUP};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ListMerge::{By, Set};
use super::{BASE, DefaultContext, Kind, META_LISTS, Subresource, typed};
use crate::api::columns::{self, Column};
use crate::api::json::Json as _;

/// The channel whose definitions the lab has.
pub(crate) const CHANNEL: Channel = Channel::Experimental;

const LISTS: &[&[(&str, super::ListMerge)]] =
    &[META_LISTS, &[("status.conditions", By("type")), ("networks", Set), ("domainNames", Set)]];

pub(super) const CLUSTER_NETWORK_POLICY: Kind = Kind {
    group: GROUP,
    version: "v1alpha2",
    kind: "ClusterNetworkPolicy",
    plural: "clusternetworkpolicies",
    singular: "clusternetworkpolicy",
    short: &["cnp"],
    namespaced: false,
    subresources: &[Subresource::Status],
    resource: "clusternetworkpolicies.policy.networking.k8s.io",
    stored: "clusternetworkpolicies.policy.networking.k8s.io",
    generation: true,
    columns: &[columns::NAME, Column::text("Tier"), Column::text("Priority"), columns::AGE],
    row: |object| vec![columns::name(object), object.text("/spec/tier").into(), priority(object), columns::age(object)],
    default: |object, context| fill(convert::Kind::ClusterNetworkPolicy, object, context),
    normalise: |object| fit(convert::Kind::ClusterNetworkPolicy, object),
    schema: || crd::schema(convert::Kind::ClusterNetworkPolicy, CHANNEL),
    merge_keys: LISTS,
    ..BASE
};

pub(super) const ADMIN_NETWORK_POLICY: Kind = Kind {
    version: "v1alpha1",
    kind: "AdminNetworkPolicy",
    plural: "adminnetworkpolicies",
    singular: "adminnetworkpolicy",
    short: &["anp"],
    resource: "adminnetworkpolicies.policy.networking.k8s.io",
    stored: "adminnetworkpolicies.policy.networking.k8s.io",
    columns: &[columns::NAME, Column::text("Priority"), columns::AGE],
    row: |object| vec![columns::name(object), priority(object), columns::age(object)],
    default: |object, context| fill(convert::Kind::AdminNetworkPolicy, object, context),
    normalise: |object| fit(convert::Kind::AdminNetworkPolicy, object),
    schema: || crd::schema(convert::Kind::AdminNetworkPolicy, CHANNEL),
    ..CLUSTER_NETWORK_POLICY
};

pub(super) const BASELINE_ADMIN_NETWORK_POLICY: Kind = Kind {
    kind: "BaselineAdminNetworkPolicy",
    plural: "baselineadminnetworkpolicies",
    singular: "baselineadminnetworkpolicy",
    short: &["banp"],
    resource: "baselineadminnetworkpolicies.policy.networking.k8s.io",
    stored: "baselineadminnetworkpolicies.policy.networking.k8s.io",
    columns: columns::NAME_AGE,
    row: columns::name_age,
    default: |object, context| fill(convert::Kind::BaselineAdminNetworkPolicy, object, context),
    normalise: |object| fit(convert::Kind::BaselineAdminNetworkPolicy, object),
    schema: || crd::schema(convert::Kind::BaselineAdminNetworkPolicy, CHANNEL),
    ..ADMIN_NETWORK_POLICY
};

fn priority(object: &Value) -> Value {
    object.pointer("/spec/priority").map_or_else(|| "".into(), |priority| priority.to_string().into())
}

fn fill(kind: convert::Kind, object: &mut Value, _: &DefaultContext<'_>) {
    if let Some(schema) = crd::schema(kind, CHANNEL) {
        crd::defaults(object, schema);
    }
}

/// Metadata of every object.
#[derive(Serialize, Deserialize)]
struct Metadata {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// Drops what neither the schema nor metadata has. Fields of wrong types stay, for validation to name.
fn fit(kind: convert::Kind, mut object: Value) -> Result<Value, String> {
    if let Some(schema) = crd::schema(kind, CHANNEL) {
        crd::prune(&mut object, schema);
    }
    let metadata = serde_json::json!({ "metadata": object["metadata"].as_object().cloned().unwrap_or_default() });
    object["metadata"] = typed::<Metadata>(metadata)?["metadata"].take();
    Ok(object)
}
