//! ConfigMap and ServiceAccount.

use k8s_openapi::api::core::v1 as core;

use super::ListMerge::By;
use super::{BASE, Kind, META_LISTS, typed};
use crate::api::columns::{self, Column};
use crate::api::json::Json as _;

pub(super) const CONFIG_MAP: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short: &["cm"],
    resource: "configmaps",
    stored: "configmaps",
    columns: &[columns::NAME, Column::text("Data"), columns::AGE],
    row: |object| {
        let count = object.entries("/data").count() + object.entries("/binaryData").count();
        vec![columns::name(object), count.into(), columns::age(object)]
    },
    normalise: typed::<core::ConfigMap>,
    ..BASE
};

pub(super) const SERVICE_ACCOUNT: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short: &["sa"],
    resource: "serviceaccounts",
    stored: "serviceaccounts",
    columns: &[columns::NAME, Column::text("Secrets"), columns::AGE],
    row: |object| vec![columns::name(object), object.list("/secrets").len().into(), columns::age(object)],
    normalise: typed::<core::ServiceAccount>,
    merge_keys: &[META_LISTS, &[("secrets", By("name")), ("imagePullSecrets", By("name"))]],
    ..BASE
};
