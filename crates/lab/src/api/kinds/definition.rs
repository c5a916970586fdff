//! CustomResourceDefinition. The lab has those of the cluster-wide policies and no others: its kinds are data.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use ringfence_k8s::crd;
use serde_json::{Value, json};

use super::ListMerge::By;
use super::policy::CHANNEL;
use super::{BASE, DefaultContext, Kind, META_LISTS, Subresource, typed};
use crate::api::columns::{self, Column};
use crate::api::json::Json as _;
use crate::api::status::Cause;

pub(super) const CUSTOM_RESOURCE_DEFINITION: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &[Subresource::Status],
    resource: "customresourcedefinitions.apiextensions.k8s.io",
    stored: "customresourcedefinitions.apiextensions.k8s.io",
    generation: true,
    columns: &[columns::NAME, Column::text("Created At")],
    row: |object| vec![columns::name(object), object.text("/metadata/creationTimestamp").into()],
    allocate: check_known,
    normalise: typed::<CustomResourceDefinition>,
    merge_keys: &[META_LISTS, &[("status.conditions", By("type"))]],
    ..BASE
};

/// The definitions of the kinds the lab has.
pub(crate) fn definitions() -> impl Iterator<Item = Value> {
    crd::KINDS.into_iter().filter_map(|kind| crd::definition(kind, CHANNEL))
}

/// Status of a definition whose kind the API server serves.
pub(crate) fn established(definition: &Value, now: &str) -> Value {
    let names = &definition["spec"]["names"];
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({ "type": kind, "status": "True", "reason": reason,
        "message": message, "lastTransitionTime": now })
    };
    json!({
        "acceptedNames": names,
        "storedVersions": [definition["spec"]["versions"][0]["name"]],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    })
}

/// A definition must say what the lab does.
fn check_known(object: &mut Value, _: &DefaultContext<'_>) -> Result<(), Cause> {
    let known = definitions().find(|known| known["metadata"]["name"] == object["metadata"]["name"]);
    let Some(known) = known else {
        let detail = "the lab has only the definitions of ClusterNetworkPolicy, AdminNetworkPolicy and \
                      BaselineAdminNetworkPolicy, and takes no others";
        return Err(Cause::forbidden("metadata.name", detail));
    };
    let known = typed::<CustomResourceDefinition>(known).unwrap_or_default();
    if known["spec"] != object["spec"] {
        let detail = format!(
            "the lab serves this kind as defined in {} {CHANNEL}, and no other way",
            known["metadata"]["annotations"][crd::BUNDLE]
        );
        return Err(Cause::forbidden("spec", &detail));
    }
    Ok(())
}
