//! Pod, `v1`, and the pod templates of workloads.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, FieldError, Naming, metadata, names};
use crate::json::{at, entries, get, items, text};
use crate::path::Path;

pub(super) const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const PROBE_ACTIONS: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];

/// Validates a Pod.
pub fn pod(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(object, true, Naming::Subdomain, &mut errors);
    let path = Path::ROOT.field("spec");
    check_spec(get(object, "spec"), &path, &mut errors);
    for field in ["containers", "initContainers"] {
        let path = path.field(field);
        for (i, container) in items(at(object, &["spec", field])).iter().enumerate() {
            check_image_spaces(container, &path.index(i), &mut errors);
        }
    }
    errors.into_vec()
}

/// Of pods alone: the API server lets templates pass.
fn check_image_spaces(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let image = text(get(container, "image"));
    if image.trim() != image {
        errors.invalid(&path.field("image"), image, "may not begin or end with a space");
    }
}

pub(super) fn check_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let spec = errors.object(spec, path).unwrap_or(&Value::Null);
    let mut seen = BTreeSet::new();
    let containers_path = path.field("containers");
    let containers = errors.list(get(spec, "containers"), &containers_path);
    if containers.is_empty() {
        errors.required(&containers_path, "");
    }
    let init_path = path.field("initContainers");
    let init = errors.list(get(spec, "initContainers"), &init_path);
    for (list, path) in [(containers, &containers_path), (init, &init_path)] {
        for (i, container) in list.iter().enumerate() {
            check_container(container, spec, &mut seen, &path.index(i), errors);
        }
    }
    for (i, container) in init.iter().enumerate() {
        let path = init_path.index(i);
        errors.one_of(get(container, "restartPolicy"), &path.field("restartPolicy"), &RESTART_POLICIES);
    }
    errors.one_of(get(spec, "restartPolicy"), &path.field("restartPolicy"), &RESTART_POLICIES);
    let dns_policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    errors.one_of(get(spec, "dnsPolicy"), &path.field("dnsPolicy"), &dns_policies);
    errors.integer(get(spec, "terminationGracePeriodSeconds"), &path.field("terminationGracePeriodSeconds"));
    errors.boolean(get(spec, "hostNetwork"), &path.field("hostNetwork"));
    check_names(spec, path, errors);
    metadata::check_labels(get(spec, "nodeSelector"), &path.field("nodeSelector"), errors);
}

/// Names of other objects, and of the pod in DNS.
fn check_names(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (field, check) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let path = path.field(field);
        if let Some(name) = errors.string(get(spec, field), &path).filter(|name| !name.is_empty()) {
            errors.all_invalid(&path, name, check(name));
        }
    }
}

fn check_container<'v>(
    container: &'v Value,
    spec: &Value,
    seen: &mut BTreeSet<&'v str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    errors.object(container, path);
    let name_path = path.field("name");
    match errors.string(get(container, "name"), &name_path).unwrap_or_default() {
        "" => errors.required(&name_path, ""),
        name => {
            errors.all_invalid(&name_path, name, names::dns_label(name));
            if !seen.insert(name) {
                errors.duplicate(&name_path, name);
            }
        }
    }
    let image_path = path.field("image");
    let image = errors.string(get(container, "image"), &image_path).unwrap_or_default();
    if image.is_empty() {
        errors.required(&image_path, "");
    }
    errors.one_of(
        get(container, "imagePullPolicy"),
        &path.field("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    check_ports(get(container, "ports"), spec, &path.field("ports"), errors);
    check_environment(get(container, "env"), &path.field("env"), errors);
    for field in ["command", "args"] {
        let path = path.field(field);
        for (i, word) in errors.list(get(container, field), &path).iter().enumerate() {
            errors.string(word, &path.index(i));
        }
    }
    for probe in PROBES {
        check_probe(get(container, probe), &path.field(probe), errors);
    }
}

fn check_ports(ports: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let host_network = get(spec, "hostNetwork").as_bool() == Some(true);
    let mut seen = BTreeSet::new();
    for (i, port) in errors.list(ports, path).iter().enumerate() {
        let path = path.index(i);
        errors.object(port, &path);
        let name_path = path.field("name");
        if let Some(name) = errors.string(get(port, "name"), &name_path).filter(|name| !name.is_empty()) {
            let wrong = names::service_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.duplicate(&name_path, name);
            }
            errors.all_invalid(&name_path, name, wrong);
        }
        errors.one_of(get(port, "protocol"), &path.field("protocol"), &PROTOCOLS);
        let (number_path, host_path) = (path.field("containerPort"), path.field("hostPort"));
        let number = errors.integer(get(port, "containerPort"), &number_path).unwrap_or_default();
        match names::port_number(number) {
            Some(_) if number == 0 => errors.required(&number_path, ""),
            Some(detail) => errors.invalid(&number_path, number, detail),
            None => {}
        }
        let Some(host) = errors.integer(get(port, "hostPort"), &host_path).filter(|host| *host != 0) else { continue };
        if let Some(detail) = names::port_number(host) {
            errors.invalid(&host_path, host, detail);
        } else if host_network && host != number {
            errors.invalid(&host_path, host, "must be the same as `containerPort` when `hostNetwork` is true");
        }
    }
}

fn check_environment(variables: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in errors.list(variables, path).iter().enumerate() {
        let path = path.index(i);
        errors.object(variable, &path);
        let name_path = path.field("name");
        let name = errors.string(get(variable, "name"), &name_path).unwrap_or_default();
        if name.is_empty() {
            errors.required(&name_path, "");
        } else if !name.chars().all(|c| c.is_ascii_graphic() && c != '=' || c == ' ') {
            errors.invalid(&name_path, name, "must consist of printable ASCII characters other than '='");
        }
        let value_path = path.field("value");
        let value = errors.string(get(variable, "value"), &value_path).unwrap_or_default();
        if !value.is_empty() && !get(variable, "valueFrom").is_null() {
            errors.invalid(&path.field("valueFrom"), "", "may not be given when `value` is not empty");
        }
    }
}

fn check_probe(probe: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(probe) = errors.object(probe, path) else { return };
    let actions = PROBE_ACTIONS.iter().filter(|action| !get(probe, action).is_null());
    for (i, action) in actions.clone().enumerate() {
        let path = path.field(action);
        if i > 0 {
            errors.forbidden(&path, "may not have more than one kind of action");
        }
        let port_path = path.field("port");
        match (*action, get(get(probe, action), "port")) {
            ("exec", _) => {}
            (_, Value::String(name)) => errors.all_invalid(&port_path, name, names::service_name(name)),
            (_, number) => {
                let number = errors.integer(number, &port_path).unwrap_or_default();
                if let Some(detail) = names::port_number(number) {
                    errors.invalid(&port_path, number, detail);
                }
            }
        }
    }
    if actions.count() == 0 {
        errors.required(path, "must have a kind of action");
    }
    for (field, value) in entries(probe).iter().filter(|(field, _)| text_is_count(field)) {
        errors.not_negative(value, &path.field(field));
    }
}

fn text_is_count(field: &str) -> bool {
    field.ends_with("Seconds") || field.ends_with("Threshold")
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "calls read better with a bare json!(…)")]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, expect: &[&str]) {
        let object = json!({"metadata": {"name": "p"}, "spec": spec});
        let found: Vec<_> = pod(&object).iter().map(|e| format!("{}: {}", e.path, e.kind.title())).collect();
        assert_eq!(found, expect, "{object}");
    }

    fn container(change: Value, expect: &[&str]) {
        let mut container = json!({"name": "c", "image": "nginx"});
        for (key, value) in entries(&change) {
            container[key] = value.clone();
        }
        let expect: Vec<_> = expect.iter().map(|e| format!("spec.containers[0].{e}")).collect();
        check(json!({"containers": [container]}), &expect.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn containers_have_names_and_images() {
        container(json!({}), &[]);
        check(json!({"containers": []}), &["spec.containers: Required value"]);
        check(json!(null), &["spec.containers: Required value"]);
        container(json!({"name": "", "image": ""}), &["name: Required value", "image: Required value"]);
        container(json!({"name": "A"}), &["name: Invalid value"]);
        let twice = json!([{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]);
        check(json!({"containers": twice}), &["spec.containers[1].name: Duplicate value"]);
    }

    #[test]
    fn ports() {
        container(json!({"ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}]}), &[]);
        container(json!({"ports": [{}]}), &["ports[0].containerPort: Required value"]);
        container(json!({"ports": [{"containerPort": 70000}]}), &["ports[0].containerPort: Invalid value"]);
        container(
            json!({"ports": [{"containerPort": 80, "protocol": "tcp"}]}),
            &["ports[0].protocol: Unsupported value"],
        );
        container(json!({"ports": [{"containerPort": 80, "name": "http_"}]}), &["ports[0].name: Invalid value"]);
        let twice = json!({"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]});
        container(twice, &["ports[1].name: Duplicate value"]);
    }

    #[test]
    fn policies_and_probes() {
        check(
            json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Sometimes"}),
            &["spec.restartPolicy: Unsupported value"],
        );
        container(json!({"imagePullPolicy": "Maybe"}), &["imagePullPolicy: Unsupported value"]);
        container(json!({"env": [{"name": "A B"}, {"value": "x"}]}), &["env[1].name: Required value"]);
        container(json!({"readinessProbe": {}}), &["readinessProbe: Required value"]);
        container(json!({"readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1}}), &[]);
        container(
            json!({"livenessProbe": {"tcpSocket": {"port": 0}}}),
            &["livenessProbe.tcpSocket.port: Invalid value"],
        );
    }

    #[test]
    fn init_containers_have_a_restart_policy() {
        let spec = |policy: &str| {
            json!({
                "initContainers": [{"name": "i", "image": "i", "restartPolicy": policy}],
                "containers": [{"name": "c", "image": "i"}],
            })
        };
        check(spec("Always"), &[]);
        check(spec("Sometimes"), &["spec.initContainers[0].restartPolicy: Unsupported value"]);
    }
}
