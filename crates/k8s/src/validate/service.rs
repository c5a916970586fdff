//! Service, `v1`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::metadata::{check_labels, unchanged};
use super::{Errors, FieldError, Naming, metadata, names};
use crate::address::parse_ip;
use crate::json::{get, text};
use crate::path::Path;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const HEADLESS: &str = "None";

/// Validates a Service.
pub fn service(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(object, true, Naming::Label1035, &mut errors);
    let path = Path::ROOT.field("spec");
    let spec = errors.object(get(object, "spec"), &path).unwrap_or(&Value::Null);
    check_type(spec, &path, &mut errors);
    check_labels(get(spec, "selector"), &path.field("selector"), &mut errors);
    check_addresses(spec, &path, &mut errors);
    check_ports(spec, &path, &mut errors);
    for (field, supported) in [
        ("sessionAffinity", ["ClientIP", "None"].as_slice()),
        ("externalTrafficPolicy", &["Cluster", "Local"]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
        ("ipFamilyPolicy", &["SingleStack", "PreferDualStack", "RequireDualStack"]),
    ] {
        errors.one_of(get(spec, field), &path.field(field), supported);
    }
    errors.into_vec()
}

/// Validates that an update leaves alone what may never change.
pub fn service_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (new, old, path) = (get(new, "spec"), get(old, "spec"), Path::ROOT.field("spec"));
    let external = |spec| text(get(spec, "type")) == "ExternalName";
    if !external(new) && !external(old) && !text(get(old, "clusterIP")).is_empty() {
        unchanged(get(new, "clusterIP"), get(old, "clusterIP"), &path.field("clusterIP"), &mut errors);
    }
    errors.into_vec()
}

fn check_type(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = errors.one_of(get(spec, "type"), &path.field("type"), &TYPES);
    let name_path = path.field("externalName");
    let name = errors.string(get(spec, "externalName"), &name_path).unwrap_or_default();
    if kind != Some("ExternalName") {
        return;
    }
    if name.is_empty() {
        errors.required(&name_path, "a Service of type ExternalName needs it");
    } else {
        errors.all_invalid(&name_path, name, names::dns_subdomain(name.trim_end_matches('.')));
    }
}

fn check_addresses(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let address = |text: &str, path: &Path<'_>, errors: &mut Errors| {
        if !text.is_empty() && text != HEADLESS && parse_ip(text).is_none() {
            errors.invalid(path, text, "must be empty, 'None', or an IP address, such as 10.9.8.7 or 2001:db8::1");
        }
    };
    let (first_path, all_path) = (path.field("clusterIP"), path.field("clusterIPs"));
    let first = errors.string(get(spec, "clusterIP"), &first_path).unwrap_or_default();
    // The API server copies the first address to the list before it looks at either.
    let all = errors.list(get(spec, "clusterIPs"), &all_path);
    if all.is_empty() {
        address(first, &all_path.index(0), errors);
    }
    if text(get(spec, "type")) == "ExternalName" && !first.is_empty() {
        errors.forbidden(&first_path, "may not be given when `type` is 'ExternalName'");
    }
    if matches!(text(get(spec, "type")), "NodePort" | "LoadBalancer") && first == HEADLESS {
        errors.invalid(&all_path.index(0), first, "may not be 'None' for this type of Service");
    }
    for (i, value) in all.iter().enumerate() {
        let path = all_path.index(i);
        let value = errors.string(value, &path).unwrap_or_default();
        address(value, &path, errors);
        if i == 0 && !first.is_empty() && value != first {
            errors.invalid(&all_path, value, "the first must be the same as `clusterIP`");
        }
    }
    let families_path = path.field("ipFamilies");
    for (i, family) in errors.list(get(spec, "ipFamilies"), &families_path).iter().enumerate() {
        errors.one_of(family, &families_path.index(i), &["IPv4", "IPv6"]);
    }
}

fn check_ports(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let path = path.field("ports");
    let ports = errors.list(get(spec, "ports"), &path);
    let portless = text(get(spec, "clusterIP")) == HEADLESS || text(get(spec, "type")) == "ExternalName";
    if ports.is_empty() && !portless {
        errors.required(&path, "");
    }
    let (mut seen_names, mut seen_ports) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        errors.object(port, &path);
        check_port_name(port, ports.len() > 1, &mut seen_names, &path, errors);
        let protocol = errors.one_of(get(port, "protocol"), &path.field("protocol"), &PROTOCOLS).unwrap_or("TCP");
        let number = errors.integer(get(port, "port"), &path.field("port")).unwrap_or_default();
        if let Some(detail) = names::port_number(number) {
            errors.invalid(&path.field("port"), number, detail);
        }
        check_target(get(port, "targetPort"), number, &path.field("targetPort"), errors);
        check_node_port(spec, port, &path.field("nodePort"), errors);
        if !seen_ports.insert((protocol, number)) {
            errors.duplicate(&path, port.clone());
        }
    }
}

fn check_port_name<'v>(
    port: &'v Value,
    needed: bool,
    seen: &mut BTreeSet<&'v str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.field("name");
    match errors.string(get(port, "name"), &path).unwrap_or_default() {
        "" if needed => errors.required(&path, "a Service with several ports must name them"),
        "" => {}
        name => {
            errors.all_invalid(&path, name, names::dns_label(name));
            if !seen.insert(name) {
                errors.duplicate(&path, name);
            }
        }
    }
}

/// Without a `targetPort` the API server uses the port.
fn check_target(target: &Value, port: i64, path: &Path<'_>, errors: &mut Errors) {
    let number = match target {
        Value::String(name) if !name.is_empty() => {
            return errors.all_invalid(path, name, names::service_name(name));
        }
        Value::Null | Value::String(_) => port,
        number => match errors.integer(number, path) {
            None => return,
            Some(0) => port,
            Some(number) => number,
        },
    };
    if let Some(detail) = names::port_number(number) {
        errors.invalid(path, number, detail);
    }
}

fn check_node_port(spec: &Value, port: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(number) = errors.integer(get(port, "nodePort"), path).filter(|number| *number != 0) else { return };
    if !matches!(text(get(spec, "type")), "NodePort" | "LoadBalancer") {
        errors.forbidden(path, "may only be given when `type` is 'NodePort' or 'LoadBalancer'");
    }
    if let Some(detail) = names::port_number(number) {
        errors.invalid(path, number, detail);
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "calls read better with a bare json!(…)")]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, expect: &[(&str, &str)]) {
        let object = json!({"metadata": {"name": "s"}, "spec": spec});
        let found = service(&object);
        let found: Vec<_> = found.iter().map(|e| (e.path.to_string(), e.kind.title())).collect();
        let expect: Vec<_> = expect.iter().map(|(path, title)| ((*path).to_owned(), *title)).collect();
        assert_eq!(found, expect, "{object}");
    }

    #[test]
    fn ports() {
        check(json!({"ports": [{"port": 80, "targetPort": "http"}], "selector": {"app": "web"}}), &[]);
        check(json!({"clusterIP": "None"}), &[]);
        check(json!({}), &[("spec.ports", "Required value")]);
        check(
            json!({"ports": [{"port": 0}]}),
            &[("spec.ports[0].port", "Invalid value"), ("spec.ports[0].targetPort", "Invalid value")],
        );
        check(
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "a"}, {"port": 81, "nodePort": 30000}]}),
            &[
                ("spec.ports[1].name", "Duplicate value"),
                ("spec.ports[1]", "Duplicate value"),
                ("spec.ports[2].name", "Required value"),
                ("spec.ports[2].nodePort", "Forbidden"),
            ],
        );
        check(json!({"ports": [{"port": 80, "targetPort": 70000}]}), &[("spec.ports[0].targetPort", "Invalid value")]);
    }

    #[test]
    fn kinds_and_addresses() {
        let ports = json!([{"port": 80}]);
        check(json!({"type": "Magic", "ports": ports}), &[("spec.type", "Unsupported value")]);
        check(json!({"type": "ExternalName"}), &[("spec.externalName", "Required value")]);
        check(json!({"clusterIP": "nowhere", "ports": ports}), &[("spec.clusterIPs[0]", "Invalid value")]);
        check(json!({"ports": ports, "selector": {"a b": ""}}), &[("spec.selector", "Invalid value")]);
        let old = json!({"spec": {"clusterIP": "10.0.0.1"}});
        assert_eq!(service_update(&json!({"spec": {"clusterIP": "10.0.0.2"}}), &old).len(), 1);
        assert_eq!(service_update(&old, &old), []);
    }
}
