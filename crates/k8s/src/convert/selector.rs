//! Label selectors.

use std::collections::BTreeSet;
use std::fmt;

use ringfence_model::{Name, Requirement, Selector};
use serde_json::Value;

use super::reader::unknown_field;
use crate::diagnostic::Reason;
use crate::json::{entries, get, items, text, type_name};
use crate::path::{FieldPath, Path};

/// A value that could not be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// The field, seen from the object.
    pub path: FieldPath,
    /// The cause.
    pub cause: String,
    /// The kind of problem.
    pub reason: Reason,
}

impl NotUnderstood {
    pub(super) fn new(path: &Path<'_>, cause: impl Into<String>) -> Self {
        Self { path: path.to_field_path(), cause: cause.into(), reason: Reason::Invalid }
    }

    pub(super) fn unknown_field(path: &Path<'_>, field: &str) -> Self {
        Self::new(&path.field(field), format!("unknown field {field:?}")).because(Reason::UnknownField)
    }

    /// Says what kind of trouble it is.
    pub(super) fn because(mut self, reason: Reason) -> Self {
        self.reason = reason;
        self
    }

    pub(super) fn wrong_type(path: &Path<'_>, value: &Value, expected: &str) -> Self {
        Self::new(path, format!("expected {expected}, found {}", type_name(value)))
    }
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.cause)
    }
}

/// A label selector; null is everything.
pub fn selector(value: &Value) -> Result<Selector, NotUnderstood> {
    read(value, &Path::ROOT)
}

pub(super) fn read(value: &Value, path: &Path<'_>) -> Result<Selector, NotUnderstood> {
    object(value, path, &["matchLabels", "matchExpressions"])?;
    let labels_path = path.field("matchLabels");
    let labels = get(value, "matchLabels");
    if !labels.is_object() && !labels.is_null() {
        return Err(NotUnderstood::wrong_type(&labels_path, labels, "an object"));
    }
    let equal = entries(labels).iter().map(|(key, value)| {
        let value = label_value(value, &labels_path.key(key))?;
        Ok(Requirement::In { key: key.as_str().into(), values: BTreeSet::from([value]) })
    });
    let expressions_path = path.field("matchExpressions");
    let expressions = list(get(value, "matchExpressions"), &expressions_path)?;
    let others =
        expressions.iter().enumerate().map(|(i, expression)| requirement(expression, &expressions_path.index(i)));
    equal.chain(others).collect()
}

fn requirement(value: &Value, path: &Path<'_>) -> Result<Requirement, NotUnderstood> {
    object(value, path, &["key", "operator", "values"])?;
    let (key_path, values_path) = (path.field("key"), path.field("values"));
    let key = match get(value, "key") {
        Value::String(key) if !key.is_empty() => Name::from(key.as_str()),
        _ => return Err(NotUnderstood::new(&key_path, "the key is missing")),
    };
    let values = list(get(value, "values"), &values_path)?;
    let values: BTreeSet<Name> = (values.iter().enumerate())
        .map(|(i, value)| label_value(value, &values_path.index(i)))
        .collect::<Result<_, _>>()?;
    let operator = text(get(value, "operator"));
    match (operator, values.is_empty()) {
        ("In", false) => Ok(Requirement::In { key, values }),
        ("NotIn", false) => Ok(Requirement::NotIn { key, values }),
        ("Exists", true) => Ok(Requirement::Exists { key }),
        ("DoesNotExist", true) => Ok(Requirement::DoesNotExist { key }),
        ("In" | "NotIn", true) => Err(NotUnderstood::new(&values_path, format!("operator {operator} needs values"))),
        ("Exists" | "DoesNotExist", false) => {
            Err(NotUnderstood::new(&values_path, format!("operator {operator} takes no values")))
        }
        _ => Err(NotUnderstood::new(&path.field("operator"), format!("unknown operator {operator:?}"))),
    }
}

fn label_value(value: &Value, path: &Path<'_>) -> Result<Name, NotUnderstood> {
    match value {
        Value::String(_) | Value::Null => Ok(text(value).into()),
        _ => Err(NotUnderstood::wrong_type(path, value, "a string")),
    }
}

/// Makes sure that `value` is an object, or null, with no field but `known`.
pub(super) fn object(value: &Value, path: &Path<'_>, known: &[&str]) -> Result<(), NotUnderstood> {
    if !value.is_object() && !value.is_null() {
        return Err(NotUnderstood::wrong_type(path, value, "an object"));
    }
    match unknown_field(value, known) {
        Some(field) => Err(NotUnderstood::unknown_field(path, field)),
        None => Ok(()),
    }
}

/// The items of a list; null has none.
pub(super) fn list<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v [Value], NotUnderstood> {
    match value {
        Value::Array(_) | Value::Null => Ok(items(value)),
        _ => Err(NotUnderstood::wrong_type(path, value, "a list")),
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "calls read better with a bare json!(…)")]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: Value, expect: &str) {
        let found = selector(&value).map_or_else(|error| error.to_string(), |selector| selector.to_string());
        assert_eq!(found, expect, "{value}");
    }

    #[test]
    fn empty_missing_and_null_select_everything() {
        for value in [json!(null), json!({}), json!({"matchLabels": null}), json!({"matchExpressions": []})] {
            check(value, "<everything>");
        }
    }

    #[test]
    fn requirements() {
        check(
            json!({"matchLabels": {"app": "web", "empty": null}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist", "values": []},
                {"key": "env", "operator": "NotIn", "values": ["dev"]},
                {"key": "team", "operator": "Exists"},
            ]}),
            "app=web,empty=,tier in (a,b),env notin (dev),team,!old",
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let expression = |expression: Value, expect: &str| check(json!({"matchExpressions": [expression]}), expect);
        check(json!({"matchLabel": {"a": "b"}}), "matchLabel: unknown field \"matchLabel\"");
        check(json!({"matchLabels": {"a": 1}}), "matchLabels[a]: expected a string, found a number");
        check(json!("app=web"), ": expected an object, found a string");
        expression(
            json!({"key": "a", "operator": "Gt", "values": ["1"]}),
            "matchExpressions[0].operator: unknown operator \"Gt\"",
        );
        expression(json!({"key": "a", "operator": "In"}), "matchExpressions[0].values: operator In needs values");
        expression(
            json!({"key": "a", "operator": "Exists", "values": [""]}),
            "matchExpressions[0].values: operator Exists takes no values",
        );
        expression(json!({"operator": "Exists"}), "matchExpressions[0].key: the key is missing");
        expression(json!(null), "matchExpressions[0].key: the key is missing");
    }
}
