//! Lease.

use k8s_openapi::api::coordination::v1::Lease;

use super::{BASE, Kind, typed};
use crate::api::columns::{self, Column};
use crate::api::json::Json as _;

pub(super) const LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    resource: "leases.coordination.k8s.io",
    stored: "leases.coordination.k8s.io",
    columns: &[columns::NAME, Column::text("Holder"), columns::AGE],
    row: |object| vec![columns::name(object), object.text("/spec/holderIdentity").into(), columns::age(object)],
    normalise: typed::<Lease>,
    ..BASE
};
