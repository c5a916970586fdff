//! What is wrong with an object, found before it is stored.

use serde_json::{Value, json};

use super::json::Json as _;
use super::kinds::Kind;
use super::status::Cause;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";

/// Metadata of any kind.
pub(crate) fn metadata(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = object.text("/metadata/name");
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if kind.label_name && !is_label(name) {
        causes.push(Cause::invalid("metadata.name", &json!(name), LABEL));
    } else if !is_subdomain(name) {
        causes.push(Cause::invalid("metadata.name", &json!(name), SUBDOMAIN));
    }
    labels(&object["metadata"]["labels"], "metadata.labels", &mut causes);
    for (key, _) in object.entries("/metadata/annotations") {
        if !is_qualified(key) {
            causes.push(Cause::invalid("metadata.annotations", &json!(key), "must be a qualified name"));
        }
    }
    causes
}

/// Labels under a field.
fn labels(labels: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.entries("") {
        if !is_qualified(key) {
            causes.push(Cause::invalid(field, &json!(key), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"));
        }
        if !is_label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(field, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"));
        }
    }
}

fn bounded(text: &str, limit: usize, inner: impl Fn(u8) -> bool, edge: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= limit
        && bytes.first().is_some_and(|byte| edge(*byte))
        && bytes.last().is_some_and(|byte| edge(*byte))
        && bytes.iter().all(|byte| inner(*byte))
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    bounded(text, 63, |byte| is_lower(byte) || byte == b'-', is_lower)
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| bounded(part, 253, |byte| is_lower(byte) || byte == b'-', is_lower))
}

fn is_label_value(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.is_empty() || bounded(text, 63, inner, |byte| byte.is_ascii_alphanumeric())
}

fn is_qualified(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| is_subdomain(&prefix.to_ascii_lowercase())) && !name.is_empty() && is_label_value(name)
}

/// A pod; what changes after creation is its image, how long it may take, and what it tolerates.
pub(crate) fn pod(pod: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = pod_spec(&pod["spec"], "spec");
    if let Some(old) = old {
        let fixed = |pod: &Value| {
            let mut spec = pod["spec"].clone();
            for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
                super::json::remove(&mut spec, field);
            }
            for containers in ["containers", "initContainers"] {
                super::json::each(&mut spec, containers, |container| drop(super::json::remove(container, "image")));
            }
            spec
        };
        if fixed(pod) != fixed(old) {
            let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
            causes.push(Cause::forbidden("spec", detail));
        }
    }
    causes
}

fn pod_spec(spec: &Value, field: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    if spec.list("/containers").is_empty() {
        causes.push(Cause::required(format!("{field}.containers"), ""));
    }
    let mut names = std::collections::HashSet::new();
    for list in ["containers", "initContainers"] {
        for (index, container) in spec.list(&format!("/{list}")).iter().enumerate() {
            let field = format!("{field}.{list}[{index}]");
            let name = container.text("/name");
            if name.is_empty() {
                causes.push(Cause::required(format!("{field}.name"), ""));
            } else if !is_label(name) {
                causes.push(Cause::invalid(format!("{field}.name"), &json!(name), LABEL));
            } else if !names.insert(name) {
                let message = format!("Duplicate value: {name:?}");
                causes.push(Cause { reason: "FieldValueDuplicate".into(), message, field: format!("{field}.name") });
            }
            if container.text("/image").is_empty() {
                causes.push(Cause::required(format!("{field}.image"), ""));
            }
            for (index, port) in container.list("/ports").iter().enumerate() {
                port_number(&port["containerPort"], &format!("{field}.ports[{index}].containerPort"), &mut causes);
            }
        }
    }
    causes
}

fn port_number(port: &Value, field: &str, causes: &mut Vec<Cause>) {
    match port.as_i64() {
        Some(1..=65_535) => {}
        Some(0) | None => causes.push(Cause::required(field, "")),
        Some(_) => causes.push(Cause::invalid(field, port, "must be between 1 and 65535, inclusive")),
    }
}

/// A Deployment or ReplicaSet.
pub(crate) fn workload(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    if spec.int("/replicas") < 0 {
        let detail = "must be greater than or equal to 0";
        causes.push(Cause::invalid("spec.replicas", &spec["replicas"], detail));
    }
    let selector = &spec["selector"];
    let empty = selector.entries("/matchLabels").next().is_none() && selector.list("/matchExpressions").is_empty();
    if empty {
        causes.push(Cause::required("spec.selector", ""));
    } else if !selects(selector, &spec["template"]["metadata"]["labels"]) {
        let labels = spec.pointer("/template/metadata/labels").cloned().unwrap_or_default();
        let detail = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &labels, detail));
    }
    if let Some(old) = old
        && old["spec"]["selector"] != *selector
    {
        causes.push(Cause::invalid("spec.selector", selector, "field is immutable"));
    }
    labels(&spec["template"]["metadata"]["labels"], "spec.template.metadata.labels", &mut causes);
    causes.extend(pod_spec(&spec["template"]["spec"], "spec.template.spec"));
    if !matches!(spec.text("/template/spec/restartPolicy"), "Always") {
        let message =
            format!("Unsupported value: {}: supported values: \"Always\"", spec["template"]["spec"]["restartPolicy"]);
        let field = "spec.template.spec.restartPolicy".to_owned();
        causes.push(Cause { reason: "FieldValueNotSupported".into(), message, field });
    }
    causes
}

/// Whether a label selector of an object (not of a query) selects labels. One that cannot be read selects nothing.
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

/// A Service.
pub(crate) fn service(service: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &service["spec"];
    let kind = spec.text("/type");
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let message = format!(
            "Unsupported value: {kind:?}: supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
        );
        causes.push(Cause { reason: "FieldValueNotSupported".into(), message, field: "spec.type".into() });
    }
    let ports = spec.list("/ports");
    if ports.is_empty() && kind != "ExternalName" && spec["clusterIP"] != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        port_number(&port["port"], &format!("{field}.port"), &mut causes);
        if ports.len() > 1 && port.text("/name").is_empty() {
            causes.push(Cause::required(format!("{field}.name"), ""));
        }
    }
    if let Some(old) = old
        && old["spec"]["type"] != "ExternalName"
        && kind != "ExternalName"
        && old["spec"]["clusterIP"] != spec["clusterIP"]
    {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &spec["clusterIP"], "may not change once set"));
    }
    causes
}

/// A NetworkPolicy.
pub(crate) fn network_policy(_policy: &Value, _old: Option<&Value>) -> Vec<Cause> {
    Vec::new()
}
