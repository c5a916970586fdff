//! Strict decoding, as kubectl asks the API server for: fields that a kind does not have are errors.
//!
//! A value is decoded to the generated type of its kind and encoded again; what is lost on the way is unknown.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::Kind;
use crate::crd::{self, Channel};
use crate::json::text;
use crate::path::{FieldPath, Path, Segment};

/// Most nulls that are replaced in one object.
const NULLS_MAX: usize = 64;

/// A deviation of an object from the shape of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A field that the kind does not have.
    #[error("unknown field {:?}", .0.to_string())]
    UnknownField(FieldPath),
    /// A field of the wrong type. The object cannot be decoded at all.
    #[error("{path}: {cause}")]
    WrongType {
        /// The field.
        path: FieldPath,
        /// The expected and the actual value.
        cause: String,
    },
}

impl Mismatch {
    /// The field.
    pub fn path(&self) -> &FieldPath {
        match self {
            Self::UnknownField(path) | Self::WrongType { path, .. } => path,
        }
    }
}

/// Compares an object with the shape of its kind; `None` for kinds whose shape is not known here.
pub fn check(object: &Value) -> Option<Vec<Mismatch>> {
    let api_version = text(object.get("apiVersion")?);
    let kind = text(object.get("kind")?);
    let compare = match (api_version, kind) {
        ("v1", "ConfigMap") => compare::<ConfigMap>,
        ("v1", "Event") => compare::<Event>,
        ("v1", "Namespace") => compare::<Namespace>,
        ("v1", "Node") => compare::<Node>,
        ("v1", "Pod") => compare::<Pod>,
        ("v1", "Service") => compare::<Service>,
        ("v1", "ServiceAccount") => compare::<ServiceAccount>,
        ("apps/v1", "DaemonSet") => compare::<DaemonSet>,
        ("apps/v1", "Deployment") => compare::<Deployment>,
        ("apps/v1", "ReplicaSet") => compare::<ReplicaSet>,
        ("apps/v1", "StatefulSet") => compare::<StatefulSet>,
        ("batch/v1", "CronJob") => compare::<CronJob>,
        ("batch/v1", "Job") => compare::<Job>,
        ("coordination.k8s.io/v1", "Lease") => compare::<Lease>,
        ("discovery.k8s.io/v1", "EndpointSlice") => compare::<EndpointSlice>,
        ("networking.k8s.io/v1", "NetworkPolicy") => compare::<NetworkPolicy>,
        _ => {
            let kind = Kind::of(api_version, kind)?;
            return crd::schema(kind, Channel::Experimental).map(|schema| defined(object, schema));
        }
    };
    Some(compare(object))
}

/// Compares an object with the schema of its definition. Fields of the wrong type are for validation to find: API
/// servers decode these kinds whatever their fields hold.
fn defined(object: &Value, schema: &Value) -> Vec<Mismatch> {
    let mut unknown = Vec::new();
    crd::unknown_fields(object, schema, &Path::ROOT, &mut unknown);
    let metadata = serde_json::json!({ "metadata": object.get("metadata") });
    let metadata = compare::<Metadata>(&metadata);
    metadata.into_iter().chain(unknown.into_iter().map(Mismatch::UnknownField)).collect()
}

/// The metadata of every object.
#[derive(Serialize, serde::Deserialize)]
struct Metadata {
    #[serde(default)]
    metadata: Option<ObjectMeta>,
}

/// Compares an object with a type.
pub fn compare<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<Mismatch> {
    let typed: T = match decode(object) {
        Ok(typed) => typed,
        Err(mismatch) => return vec![mismatch],
    };
    let mut lost = Vec::new();
    match serde_json::to_value(&typed) {
        Ok(kept) => collect(object, &kept, &Path::ROOT, &mut lost),
        Err(error) => lost.push(Mismatch::WrongType { path: FieldPath::default(), cause: error.to_string() }),
    }
    lost
}

/// Decodes a value. Null inside a list or map is the zero value of its type, as for the API server; the generated types
/// refuse it there, so it is replaced by what they expect, one by one.
fn decode<T: DeserializeOwned>(object: &Value) -> Result<T, Mismatch> {
    let mut patched: Option<Value> = None;
    for _ in 0..NULLS_MAX {
        let (pointer, mismatch) = match serde_path_to_error::deserialize(patched.as_ref().unwrap_or(object)) {
            Ok(typed) => return Ok(typed),
            Err(error) => {
                let path: FieldPath = error.path().iter().filter_map(segment).collect();
                (pointer(&path), Mismatch::WrongType { path, cause: error.into_inner().to_string() })
            }
        };
        let Mismatch::WrongType { cause, .. } = &mismatch else { return Err(mismatch) };
        let zero = match cause.rsplit_once("expected ").map(|(_, expected)| expected) {
            Some("a string") => Value::String(String::new()),
            Some("a boolean") => Value::Bool(false),
            Some(expected) if expected.starts_with(['i', 'u', 'f']) => Value::from(0),
            Some(_) => Value::Object(serde_json::Map::new()),
            None => return Err(mismatch),
        };
        match patched.get_or_insert_with(|| object.clone()).pointer_mut(&pointer) {
            Some(place) if place.is_null() => *place = zero,
            _ => return Err(mismatch),
        }
    }
    Err(Mismatch::WrongType { path: FieldPath::default(), cause: format!("more than {NULLS_MAX} nulls in lists") })
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &FieldPath) -> String {
    let step = |segment: &Segment| match segment {
        Segment::Field(name) | Segment::Key(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        Segment::Index(index) => format!("/{index}"),
    };
    path.segments().iter().map(step).collect()
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<Segment> {
    match segment {
        serde_path_to_error::Segment::Seq { index } => Some(Segment::Index(*index)),
        serde_path_to_error::Segment::Map { key } => Some(Segment::Field(key.clone())),
        serde_path_to_error::Segment::Enum { variant } => Some(Segment::Field(variant.clone())),
        serde_path_to_error::Segment::Unknown => None,
    }
}

fn collect(written: &Value, kept: &Value, path: &Path<'_>, lost: &mut Vec<Mismatch>) {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            for (key, value) in written.iter().filter(|(_, value)| !value.is_null()) {
                let path = path.field(key);
                match kept.get(key) {
                    Some(kept) => collect(value, kept, &path, lost),
                    None => lost.push(Mismatch::UnknownField(path.to_field_path())),
                }
            }
        }
        (Value::Array(written), Value::Array(kept)) => {
            for (i, (written, kept)) in written.iter().zip(kept).enumerate() {
                collect(written, kept, &path.index(i), lost);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_pod(spec: &Value) -> Vec<String> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": null},
            "spec": spec});
        check(&pod).unwrap().iter().map(Mismatch::to_string).collect()
    }

    #[test]
    fn unknown_fields_are_named_by_path() {
        let containers = json!([{"name": "c", "image": "i", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
            "ports": [{"containerPort": 80}], "command": [], "env": null}]);
        assert_eq!(
            check_pod(&json!({"containers": containers, "nodeSelector": {}, "hostname": ""})),
            Vec::<String>::new()
        );
        let found = check_pod(&json!({"containers": [{"name": "c", "imagee": "i"}], "hostNetworking": true}));
        assert_eq!(found, ["unknown field \"spec.containers[0].imagee\"", "unknown field \"spec.hostNetworking\""]);
    }

    #[test]
    fn wrong_types_are_named_by_path() {
        let found = check_pod(&json!({"containers": [{"name": "c", "ports": [{"containerPort": "http"}]}]}));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("spec.containers[0].ports[0].containerPort: invalid type: string"), "{found:?}");
    }

    #[test]
    fn other_kinds_are_not_judged() {
        assert_eq!(check(&json!({"apiVersion": "example.com/v1", "kind": "Pod"})), None);
        assert_eq!(check(&json!("text")), None);
    }
}
