//! Validation as the API server does it: the same field paths and kinds of errors, in our own words.
//!
//! Objects are checked as they are written: what the API server would default may be missing. Fields of the wrong JSON
//! type are errors too, so that nothing here depends on decoding first.

mod config_map;
mod error;
mod metadata;
pub mod names;
mod namespace;
mod network_policy;
mod pod;
mod selector;
mod service;
mod structural;
mod workload;

use serde_json::Value;

pub use config_map::config_map;
pub use error::{ErrorKind, FieldError, status};
pub use metadata::{Naming, annotations, labels, object_meta, object_meta_update};
pub use namespace::namespace;
pub use network_policy::network_policy;
pub use pod::pod;
pub use selector::label_selector;
pub use service::{service, service_update};
pub use workload::{deployment, replica_set, stateful_set, workload_update};

pub(crate) use error::Errors;

use crate::convert::Kind;
use crate::crd::{self, Channel};
use crate::json;

/// Validates an object of a kind that has rules here; `None` for other kinds.
///
/// Kinds with a definition are validated against the experimental channel, which has every field.
pub fn object(object: &Value) -> Option<Vec<FieldError>> {
    let api_version = json::text(json::get(object, "apiVersion"));
    let kind = json::text(json::get(object, "kind"));
    if let Some(schema) = Kind::of(api_version, kind).and_then(|kind| crd::schema(kind, Channel::Experimental)) {
        return Some(structural::object(object, schema));
    }
    let check = match (api_version, kind) {
        ("v1", "Namespace") => namespace,
        ("v1", "Pod") => pod,
        ("v1", "Service") => service,
        ("v1", "ConfigMap") => config_map,
        ("apps/v1", "Deployment") => deployment,
        ("apps/v1", "ReplicaSet") => replica_set,
        ("apps/v1", "StatefulSet") => stateful_set,
        ("networking.k8s.io/v1", "NetworkPolicy") => network_policy,
        _ => return None,
    };
    Some(check(object))
}
