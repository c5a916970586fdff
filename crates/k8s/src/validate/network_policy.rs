//! NetworkPolicy, `networking.k8s.io/v1`.

use ipnet::IpNet;
use serde_json::Value;

use super::{Errors, FieldError, Naming, metadata, names, selector};
use crate::address::parse_written_cidr;
use crate::json::get;
use crate::path::Path;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const CIDR_HINT: &str = "must be a CIDR block, such as 10.9.8.0/24 or 2001:db8::/64";

/// Validates a NetworkPolicy.
pub fn network_policy(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(object, true, Naming::Subdomain, &mut errors);
    let path = Path::ROOT.field("spec");
    if let Some(spec) = errors.object(get(object, "spec"), &path) {
        check_spec(spec, &path, &mut errors);
    }
    errors.into_vec()
}

fn check_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    selector::check(get(spec, "podSelector"), &path.field("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let path = path.field(direction);
        for (i, rule) in errors.list(get(spec, direction), &path).iter().enumerate() {
            let path = path.index(i);
            errors.object(rule, &path);
            let ports_path = path.field("ports");
            for (i, port) in errors.list(get(rule, "ports"), &ports_path).iter().enumerate() {
                check_port(port, &ports_path.index(i), errors);
            }
            let peers_path = path.field(peers);
            for (i, peer) in errors.list(get(rule, peers), &peers_path).iter().enumerate() {
                check_peer(peer, &peers_path.index(i), errors);
            }
        }
    }
    check_types(get(spec, "policyTypes"), &path.field("policyTypes"), errors);
}

fn check_types(types: &Value, path: &Path<'_>, errors: &mut Errors) {
    let list = errors.list(types, path);
    if list.len() > 2 {
        return errors.invalid(path, types.clone(), "may not have more than two entries");
    }
    for (i, value) in list.iter().enumerate() {
        let path = path.index(i);
        // Null in a list of strings is an empty string to the API server.
        let value = if value.is_null() { &Value::String(String::new()) } else { value };
        errors.one_of(value, &path, &["Egress", "Ingress"]);
    }
}

fn check_port(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    errors.object(port, path);
    errors.one_of(get(port, "protocol"), &path.field("protocol"), &PROTOCOLS);
    let (port_path, end_path) = (path.field("port"), path.field("endPort"));
    let end = errors.integer(get(port, "endPort"), &end_path);
    match get(port, "port") {
        Value::Null => {
            if let Some(end) = end {
                errors.invalid(&end_path, end, "may not be given when `port` is not given");
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                errors.invalid(&end_path, end, "may not be given when `port` is a name");
            }
            errors.all_invalid(&port_path, name, names::service_name(name));
        }
        number => {
            let Some(first) = errors.integer(number, &port_path) else { return };
            if let Some(detail) = names::port_number(first) {
                errors.invalid(&port_path, first, detail);
            }
            let Some(end) = end else { return };
            if end < first {
                errors.invalid(&end_path, end, format!("must be greater than or equal to `port` ({first})"));
            }
            if let Some(detail) = names::port_number(end) {
                errors.invalid(&end_path, end, detail);
            }
        }
    }
}

fn check_peer(peer: &Value, path: &Path<'_>, errors: &mut Errors) {
    errors.object(peer, path);
    let (pods, namespaces, block) = (get(peer, "podSelector"), get(peer, "namespaceSelector"), get(peer, "ipBlock"));
    selector::check(pods, &path.field("podSelector"), errors);
    selector::check(namespaces, &path.field("namespaceSelector"), errors);
    check_block(block, &path.field("ipBlock"), errors);
    let selectors = !pods.is_null() || !namespaces.is_null();
    if !selectors && block.is_null() {
        errors.required(path, "a peer must have a podSelector, a namespaceSelector or an ipBlock");
    }
    if selectors && !block.is_null() {
        errors.forbidden(path, "an ipBlock may not stand together with a podSelector or namespaceSelector");
    }
}

fn check_block(block: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(block) = errors.object(block, path) else { return };
    let cidr_path = path.field("cidr");
    let cidr = match errors.string(get(block, "cidr"), &cidr_path) {
        None | Some("") => return errors.required(&cidr_path, ""),
        Some(text) => check_cidr(text, &cidr_path, errors),
    };
    // Without a `cidr` there is nothing to compare `except` with.
    let Some(cidr) = cidr else { return };
    let path = path.field("except");
    for (i, except) in errors.list(get(block, "except"), &path).iter().enumerate() {
        let path = path.index(i);
        // Null in a list of strings is an empty string to the API server.
        let text = if except.is_null() { Some("") } else { errors.string(except, &path) };
        if let Some(inner) = text.and_then(|text| check_cidr(text, &path, errors))
            && !strictly_inside(inner, cidr)
        {
            errors.invalid(&path, except.clone(), format!("must be a strict subset of `cidr` ({})", cidr.0));
        }
    }
}

/// A CIDR, and its prefix length as written.
type Written = (IpNet, u8);

fn check_cidr(text: &str, path: &Path<'_>, errors: &mut Errors) -> Option<Written> {
    let net = parse_written_cidr(text);
    if net.is_none() {
        errors.invalid(path, text, CIDR_HINT);
    }
    net
}

/// The lengths are compared as written, so an IPv4-mapped CIDR can only exclude another one.
fn strictly_inside((inner, inner_length): Written, (outer, outer_length): Written) -> bool {
    outer.contains(&inner.network()) && inner_length > outer_length
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "calls read better with a bare json!(…)")]
mod tests {
    use serde_json::json;

    use super::*;

    /// The errors of a policy with this `spec`, one a line.
    fn check(spec: Value, expect: &[&str]) {
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        let found: Vec<_> = network_policy(&policy).iter().map(FieldError::to_string).collect();
        assert_eq!(found.len(), expect.len(), "{spec}: {found:#?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.starts_with(expect), "{spec}:\n found {found}\nexpect {expect}");
        }
    }

    fn ports(ports: Value, expect: &[&str]) {
        check(json!({"ingress": [{"ports": ports}]}), expect);
    }

    fn peers(peers: Value, expect: &[&str]) {
        check(json!({"egress": [{"to": peers}]}), expect);
    }

    #[test]
    fn everything_may_be_empty_or_null() {
        for spec in [
            json!(null),
            json!({}),
            json!({"podSelector": null, "ingress": null, "egress": [], "policyTypes": null}),
            json!({"podSelector": {"matchLabels": null, "matchExpressions": []}}),
            json!({"ingress": [{}, null, {"from": [], "ports": null}]}),
            json!({"ingress": [{"ports": [{}, null]}], "policyTypes": ["Ingress", "Ingress"]}),
        ] {
            check(spec, &[]);
        }
    }

    #[test]
    fn names_are_subdomains() {
        let found = network_policy(&json!({"metadata": {"name": "Not_OK"}}));
        assert_eq!(
            (found[0].path.to_string().as_str(), found[0].kind.reason()),
            ("metadata.name", "FieldValueInvalid")
        );
        let found = network_policy(&json!({}));
        assert_eq!(found[0].to_string(), "metadata.name: Required value: name or generateName is required");
    }

    #[test]
    fn port_numbers_and_names() {
        let at = "spec.ingress[0].ports[0]";
        ports(json!([{"port": 1}, {"port": 65535}, {"port": "http"}, {"protocol": "SCTP"}]), &[]);
        ports(json!([{"port": 70000}]), &[&format!("{at}.port: Invalid value: 70000: must be between 1 and 65535")]);
        ports(json!([{"port": 0}]), &[&format!("{at}.port: Invalid value: 0")]);
        ports(json!([{"port": ""}]), &[&format!("{at}.port: Invalid value: \"\": a port name must contain")]);
        ports(json!([{"port": "8080"}]), &[&format!("{at}.port: Invalid value: \"8080\"")]);
        ports(json!([{"port": "--"}]), &[format!("{at}.port: Invalid value").as_str(); 3]);
        ports(json!([{"port": 1.5}]), &[&format!("{at}.port: Invalid value: 1.5: must be a whole number")]);
        ports(
            json!([{"protocol": "tcp"}]),
            &[&format!("{at}.protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"")],
        );
        ports(json!(["http"]), &[&format!("{at}: Invalid value: \"http\": must be an object")]);
    }

    #[test]
    fn end_ports() {
        let at = "spec.ingress[0].ports[0].endPort: Invalid value";
        ports(json!([{"port": 80, "endPort": 80}, {"port": 1, "endPort": 65535}]), &[]);
        ports(
            json!([{"port": "http", "endPort": 80}]),
            &[&format!("{at}: 80: may not be given when `port` is a name")],
        );
        ports(json!([{"endPort": 80}]), &[&format!("{at}: 80: may not be given when `port` is not given")]);
        ports(json!([{"port": 81, "endPort": 80}]), &[&format!("{at}: 80: must be greater than or equal")]);
        ports(json!([{"port": 81, "endPort": 65536}]), &[&format!("{at}: 65536: must be between")]);
        ports(json!([{"port": 81, "endPort": 0}]), &[at, at]);
    }

    #[test]
    fn peers_have_exactly_one_form() {
        let at = "spec.egress[0].to[0]";
        peers(
            json!([{"podSelector": {}}, {"namespaceSelector": {}}, {"podSelector": {}, "namespaceSelector": {}}]),
            &[],
        );
        peers(json!([{}]), &[&format!("{at}: Required value")]);
        peers(json!([{"podSelector": null}]), &[&format!("{at}: Required value")]);
        let both = json!([{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]);
        peers(both, &[&format!("{at}: Forbidden")]);
    }

    #[test]
    fn blocks() {
        let at = "spec.egress[0].to[0].ipBlock";
        let block = |block: Value, expect: &[&str]| peers(json!([{"ipBlock": block}]), expect);
        block(json!({"cidr": "10.0.0.7/8", "except": ["010.1.0.0/16"]}), &[]);
        block(json!({}), &[&format!("{at}.cidr: Required value")]);
        block(json!({"cidr": "10.0.0.1"}), &[&format!("{at}.cidr: Invalid value: \"10.0.0.1\"")]);
        block(json!({"cidr": "bad", "except": ["worse"]}), &[&format!("{at}.cidr: Invalid")]);
        for except in ["10.0.0.0/8", "11.0.0.0/16", "0.0.0.0/0", "fd00::/16", "x", ""] {
            block(
                json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", except]}),
                &[&format!("{at}.except[1]: Invalid value: {except:?}: must be a")],
            );
        }
    }

    #[test]
    fn policy_types() {
        check(json!({"policyTypes": ["Ingress", "Egress", "Ingress"]}), &["spec.policyTypes: Invalid value: ["]);
        check(
            json!({"policyTypes": ["Ingress", "egress"]}),
            &["spec.policyTypes[1]: Unsupported value: \"egress\": supported values: \"Egress\", \"Ingress\""],
        );
    }

    #[test]
    fn selectors() {
        let at = "spec.podSelector.matchExpressions[0]";
        let expression = |expression: Value, expect: &[&str]| {
            check(json!({"podSelector": {"matchExpressions": [expression]}}), expect);
        };
        expression(json!({"key": "a", "operator": "In", "values": ["b"]}), &[]);
        expression(json!({"key": "a", "operator": "NotIn"}), &[&format!("{at}.values: Required value")]);
        expression(json!({"key": "a", "operator": "Exists", "values": ["b"]}), &[&format!("{at}.values: Forbidden")]);
        expression(
            json!({"key": "a", "operator": "in", "values": ["b"]}),
            &[&format!("{at}.operator: Invalid value: \"in\"")],
        );
        expression(json!({"key": "a b", "operator": "Exists"}), &[&format!("{at}.key: Invalid value: \"a b\"")]);
        expression(
            json!({"key": "a", "operator": "In", "values": ["b c"]}),
            &[&format!("{at}.values[0]: Invalid value")],
        );
        check(
            json!({"podSelector": {"matchLabels": {"a b": "c d"}}}),
            &[
                "spec.podSelector.matchLabels: Invalid value: \"a b\"",
                "spec.podSelector.matchLabels: Invalid value: \"c d\"",
            ],
        );
    }
}
