//! Validation of objects before they are stored.

use ringfence_k8s::validate::{self, FieldError, Naming};
use serde_json::Value;

use super::json::{self, Json as _};
use super::kinds::Kind;
use super::status::Cause;

/// Problems of an object, and of the change to it.
pub(crate) fn object(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let errors =
        validate::object(new).unwrap_or_else(|| validate::object_meta(new, kind.namespaced, Naming::Subdomain));
    let mut causes: Vec<_> = errors.into_iter().map(Cause::from).collect();
    if let Some(old) = old {
        causes.extend((kind.validate_update)(new, old));
    }
    causes
}

impl From<FieldError> for Cause {
    fn from(error: FieldError) -> Self {
        // As the API server calls the object as a whole.
        let field = if error.path.is_root() { "<nil>".to_owned() } else { error.path.to_string() };
        Self { reason: error.kind.reason().to_owned(), message: error.body(), field }
    }
}

/// Fields of a pod that may change after its creation: images, deadline, tolerations.
pub(crate) fn pod_update(new: &Value, old: &Value) -> Vec<Cause> {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
            json::remove(&mut spec, field);
        }
        for containers in ["containers", "initContainers"] {
            json::each(&mut spec, containers, |container| drop(json::remove(container, "image")));
        }
        spec
    };
    if fixed(new) == fixed(old) {
        return Vec::new();
    }
    let detail = "a pod's specification is fixed but for `containers[*].image`, `initContainers[*].image`, \
                  `activeDeadlineSeconds`, `tolerations` and `terminationGracePeriodSeconds`";
    vec![Cause::forbidden("spec", detail)]
}

/// The selector of a Deployment or ReplicaSet never changes.
pub(crate) fn workload_update(new: &Value, old: &Value) -> Vec<Cause> {
    validate::workload_update(new, old).into_iter().map(Cause::from).collect()
}

/// The address of a Service never changes.
pub(crate) fn service_update(new: &Value, old: &Value) -> Vec<Cause> {
    validate::service_update(new, old).into_iter().map(Cause::from).collect()
}

/// True if a label selector of an object (not of a query) selects labels. One that cannot be read selects nothing.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = selector.entries("/matchLabels").all(|(key, value)| label(key) == value.as_str());
    equal
        && selector.list("/matchExpressions").iter().all(|expression| {
            let found = label(expression.text("/key"));
            let among = || found.is_some_and(|found| expression.list("/values").iter().any(|value| value == found));
            match expression.text("/operator") {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
