//! Validation of objects against the schema of their definition.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{ErrorKind, Errors, FieldError, Naming, metadata};
use crate::crd::{rules, shape};
use crate::json::{entries, get, items, text};
use crate::path::Path;

/// Mistakes after which an API server does not evaluate rules.
const BLOCKING: [ErrorKind; 5] =
    [ErrorKind::NotSupported, ErrorKind::Required, ErrorKind::TooLong, ErrorKind::TooMany, ErrorKind::TypeInvalid];

/// Validates an object, its metadata too.
pub(super) fn object(object: &Value, schema: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(object, false, Naming::Subdomain, &mut errors);
    // Metadata is every kind's own.
    fields(object, schema, &Path::ROOT, &shape::COMMON, &mut errors);
    lists(object, schema, &Path::ROOT, &mut errors);
    if !errors.any(&BLOCKING) {
        keep(object, schema, &Path::ROOT, &mut errors);
    }
    errors.into_vec()
}

fn check(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let allowed = items(get(schema, "enum"));
    if !allowed.is_empty() && !allowed.contains(value) {
        let names: Vec<_> = allowed.iter().map(text).collect();
        errors.not_supported(path, value.clone(), &names);
    }
    match (text(get(schema, "type")), value) {
        ("object", Value::Object(members)) => {
            let given = members.values().filter(|member| !member.is_null()).count();
            counts(given, "field", ["minProperties", "maxProperties"], schema, path, errors);
            fields(value, schema, path, &[], errors);
        }
        ("array", Value::Array(list)) => {
            for (i, item) in list.iter().enumerate() {
                check(item, get(schema, "items"), &path.index(i), errors);
            }
            counts(list.len(), "item", ["minItems", "maxItems"], schema, path, errors);
        }
        ("string", Value::String(written)) => string(written, schema, path, errors),
        ("integer", Value::Number(number)) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => {
            bounds(value, schema, path, errors);
        }
        (expected, _) => errors.wrong_type(path, value, expected_type(expected)),
    }
}

fn expected_type(word: &str) -> &'static str {
    match word {
        "object" => "an object",
        "array" => "a list",
        "string" => "a string",
        _ => "a whole number",
    }
}

/// The fields of an object but for those to pass over.
fn fields(object: &Value, schema: &Value, path: &Path<'_>, pass: &[&str], errors: &mut Errors) {
    for (name, value) in
        entries(object).iter().filter(|(name, value)| !value.is_null() && !pass.contains(&name.as_str()))
    {
        if let Some(schema) = shape::known(schema, name) {
            check(value, schema, &path.field(name), errors);
        }
    }
    for name in shape::required(schema).filter(|name| !pass.contains(name)) {
        if get(object, name).is_null() && get(get(get(schema, "properties"), name), "default").is_null() {
            errors.required(&path.field(name), "");
        }
    }
}

/// Checks the number of items, properties or characters.
fn counts(found: usize, what: &str, [least, most]: [&str; 2], schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let bound = |word: &str| get(schema, word).as_u64().and_then(|bound| usize::try_from(bound).ok());
    let some = |bound: usize| if bound == 1 { format!("1 {what}") } else { format!("{bound} {what}s") };
    if let Some(least) = bound(least).filter(|least| found < *least) {
        errors.invalid(path, found, format!("must have at least {}", some(least)));
    }
    if let Some(most) = bound(most).filter(|most| found > *most) {
        errors.too_many(path, found, format!("must have at most {}", some(most)));
    }
}

fn string(written: &str, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let length = written.chars().count();
    let bound = |word: &str| get(schema, word).as_u64().and_then(|bound| usize::try_from(bound).ok());
    if let Some(least) = bound("minLength").filter(|least| length < *least) {
        errors.invalid(path, written, format!("must have at least {least} characters"));
    }
    if let Some(most) = bound("maxLength").filter(|most| length > *most) {
        errors.too_long(path, format!("may not have more than {most} characters"));
    }
    if let Some(pattern) = get(schema, "pattern").as_str()
        && !rules::matches(pattern, written)
    {
        errors.invalid(path, written, format!("must match '{pattern}'"));
    }
    if get(schema, "format") == "date-time" && written.parse::<Timestamp>().is_err() {
        errors.invalid(path, written, "must be a time such as 2026-01-31T12:00:00Z");
    }
}

fn bounds(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let number = value.as_f64();
    let bound = |word: &str| get(schema, word);
    if number < bound("minimum").as_f64() {
        errors.invalid(path, value.clone(), format!("must be greater than or equal to {}", bound("minimum")));
    }
    if bound("maximum").as_f64().is_some_and(|most| number > Some(most)) {
        errors.invalid(path, value.clone(), format!("must be less than or equal to {}", bound("maximum")));
    }
}

/// Lists whose items must differ.
fn lists(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if let Some(schema) = shape::known(schema, name) {
                    lists(value, schema, &path.field(name), errors);
                }
            }
        }
        Value::Array(list) => {
            distinct(list, schema, path, errors);
            for (i, item) in list.iter().enumerate() {
                lists(item, get(schema, "items"), &path.index(i), errors);
            }
        }
        _ => {}
    }
}

/// Reports each repeated value once.
fn distinct(list: &[Value], schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let id: fn(&Value, &Value) -> Value = match text(get(schema, "x-kubernetes-list-type")) {
        "set" => |item, _| item.clone(),
        "map" => |item, schema| {
            let keys = items(get(schema, "x-kubernetes-list-map-keys")).iter().filter_map(Value::as_str);
            keys.filter_map(|key| Some((key.to_owned(), item.get(key)?.clone()))).collect()
        },
        _ => return,
    };
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (i, item) in list.iter().enumerate() {
        let id = id(item, schema);
        let times = seen.entry(id.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.duplicate(&path.index(i), id);
        }
    }
}

/// The rules of the schema, from the outside in.
fn keep(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    for entry in items(get(schema, "x-kubernetes-validations")) {
        if !rules::holds(text(get(entry, "rule")), value) {
            // The API server shows the type of what breaks a rule; a plain value says more.
            let shown = if value.is_object() { "object".into() } else { value.clone() };
            errors.invalid(path, shown, text(get(entry, "message")));
        }
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                if let Some(schema) = shape::known(schema, name) {
                    keep(value, schema, &path.field(name), errors);
                }
            }
        }
        Value::Array(list) => {
            for (i, item) in list.iter().enumerate() {
                keep(item, get(schema, "items"), &path.index(i), errors);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate;

    #[track_caller]
    fn check(spec: &Value, expect: &[&str]) {
        let mut whole = json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}});
        for (field, value) in entries(spec) {
            whole[field] = value.clone();
        }
        let policy = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "p"}, "spec": whole,
        });
        let said: Vec<_> = validate::object(&policy).unwrap().iter().map(FieldError::to_string).collect();
        assert_eq!(said, expect, "{spec}");
    }

    #[test]
    fn every_kind_of_mistake() {
        check(&json!({}), &[]);
        check(
            &json!({"tier": null, "priority": -1}),
            &["spec.priority: Invalid value: -1: must be greater than or equal to 0", "spec.tier: Required value"],
        );
        check(
            &json!({"tier": "Root"}),
            &["spec.tier: Unsupported value: \"Root\": supported values: \"Admin\", \"Baseline\""],
        );
        check(
            &json!({"priority": "5"}),
            &["spec.priority: Invalid value: \"5\": must be a whole number, not a string"],
        );
        check(
            &json!({"subject": {"namespaces": null}}),
            &["spec.subject: Invalid value: 0: must have at least 1 field"],
        );
        let rule = |name: &str, peer: Value| json!({"egress": [{"name": name, "action": "Deny", "to": [peer]}]});
        check(
            &rule(&"n".repeat(101), json!({"nodes": {}})),
            &["spec.egress[0].name: Too long: may not have more than 100 characters"],
        );
        check(
            &rule("", json!({"networks": ["10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"]})),
            &["spec.egress[0].to[0].networks[1]: Duplicate value: \"10.0.0.0/8\""],
        );
        check(
            &rule("", json!({"networks": ["10.0.0.0"]})),
            &["spec.egress[0].to[0].networks[0]: Invalid value: \"10.0.0.0\": must be a range of addresses in CIDR \
                 notation"],
        );
        check(
            &json!({"egress": vec![json!({"action": "Deny", "to": [{"nodes": {}}]}); 26]}),
            &["spec.egress: Too many: 26: must have at most 25 items"],
        );
    }

    #[test]
    fn rules_wait_for_a_sound_object() {
        let ports = json!([{"tcp": {"destinationPort": {"range": {"start": 2, "end": 1}}}}]);
        let rule = json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": ports});
        let range = "spec.egress[0].protocols[0].tcp.destinationPort.range: Invalid value: \"object\": start must be \
            less than end";
        check(&json!({"egress": [rule]}), &[range]);
        check(
            &json!({"egress": [rule], "tier": "Root"}),
            &["spec.tier: Unsupported value: \"Root\": supported values: \"Admin\", \"Baseline\""],
        );
    }
}
