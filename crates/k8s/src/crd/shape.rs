//! The shape of objects by schema: what is dropped, what is filled in, which fields there are.

use serde_json::{Map, Value};

use crate::json::{get, items};
use crate::path::{FieldPath, Path};

/// Fields that objects of every kind have, whatever their schema says.
pub(crate) const COMMON: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops the fields that a schema does not have, and nulls, which API servers take for missing.
pub fn prune(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| known(schema, name).is_some() && !value.is_null());
            for (name, value) in fields {
                if let Some(schema) = known(schema, name) {
                    descend(name, value, schema, prune);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| prune(item, get(schema, "items"))),
        _ => {}
    }
}

/// Fills in what a schema says of fields that are missing.
pub fn defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            fill(fields, schema);
            for (name, value) in fields {
                if let Some(schema) = known(schema, name) {
                    descend(name, value, schema, defaults);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| defaults(item, get(schema, "items"))),
        _ => {}
    }
}

/// The fields of a value that a schema does not have.
pub(crate) fn unknown_fields(value: &Value, schema: &Value, path: &Path<'_>, found: &mut Vec<FieldPath>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = path.field(name);
                match known(schema, name) {
                    None => found.push(path.to_field_path()),
                    Some(schema) if is_free(schema) => {}
                    Some(schema) => unknown_fields(value, schema, &path, found),
                }
            }
        }
        Value::Array(list) => {
            for (i, item) in list.iter().enumerate() {
                unknown_fields(item, get(schema, "items"), &path.index(i), found);
            }
        }
        _ => {}
    }
}

fn fill(fields: &mut Map<String, Value>, schema: &Value) {
    for (name, schema) in get(schema, "properties").as_object().into_iter().flatten() {
        let default = get(schema, "default");
        if !default.is_null() && fields.get(name).is_none_or(Value::is_null) {
            fields.insert(name.clone(), default.clone());
        }
    }
}

fn descend(name: &str, value: &mut Value, schema: &Value, go: fn(&mut Value, &Value)) {
    // Metadata is every kind's own, and is no business of a schema.
    if !COMMON.contains(&name) && !is_free(schema) {
        go(value, schema);
    }
}

/// The schema of a field, if there is such a field.
pub(crate) fn known<'s>(schema: &'s Value, field: &str) -> Option<&'s Value> {
    schema.get("properties").and_then(|fields| fields.get(field)).or_else(|| schema.get("additionalProperties"))
}

/// True if a schema does not define the fields of its objects.
fn is_free(schema: &Value) -> bool {
    get(schema, "type") == "object"
        && get(schema, "properties").is_null()
        && get(schema, "additionalProperties").is_null()
}

/// The names of the fields that must be there.
pub(crate) fn required(schema: &Value) -> impl Iterator<Item = &str> {
    items(get(schema, "required")).iter().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::convert::Kind;
    use crate::crd::{Channel, schema};

    #[test]
    fn what_a_channel_does_not_have_is_dropped() {
        let schema = |channel| schema(Kind::ClusterNetworkPolicy, channel).unwrap();
        let policy = json!({
            "apiVersion": "x", "kind": "y", "metadata": {"name": "p", "labels": {"a": "b"}}, "other": 1,
            "spec": {"tier": "Admin", "egress": [{"to": [{"nodes": {"matchLabels": {"a": "b"}}}], "protocols": null,
            "log": true}]},
        });
        let mut pruned = policy.clone();
        prune(&mut pruned, schema(Channel::Experimental));
        let rule = json!({"to": [{"nodes": {"matchLabels": {"a": "b"}}}]});
        assert_eq!(pruned["spec"], json!({"tier": "Admin", "egress": [rule]}));
        assert_eq!((&pruned["metadata"], &pruned["other"]), (&policy["metadata"], &Value::Null));
        prune(&mut pruned, schema(Channel::Standard));
        assert_eq!(pruned["spec"]["egress"], json!([{"to": [{}]}]));
        let mut unknown = Vec::new();
        unknown_fields(&policy, schema(Channel::Standard), &Path::ROOT, &mut unknown);
        let unknown: Vec<_> = unknown.iter().map(FieldPath::to_string).collect();
        assert_eq!(unknown, ["other", "spec.egress[0].to[0].nodes", "spec.egress[0].log"]);
    }

    #[test]
    fn protocols_of_the_older_kinds_are_filled_in() {
        let schema = schema(Kind::AdminNetworkPolicy, Channel::Standard).unwrap();
        let mut policy = json!({"spec": {"ingress": [{"ports": [{"portNumber": {"port": 80}},
            {"portRange": {"protocol": "UDP"}}]}]}});
        defaults(&mut policy, schema);
        let ports = json!([{"portNumber": {"port": 80, "protocol": "TCP"}}, {"portRange": {"protocol": "UDP"}}]);
        assert_eq!(policy["spec"]["ingress"][0]["ports"], ports);
    }
}
