//! Reading JSON the way the API server's decoder does: null, missing and empty are the same.

use std::sync::LazyLock;

use serde_json::{Map, Value};

static NULL: Value = Value::Null;
static NO_FIELDS: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// A field of an object; null if it is missing or `value` is not an object.
pub(crate) fn get<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&NULL)
}

/// A field at the end of a way of fields.
pub(crate) fn at<'a>(value: &'a Value, way: &[&str]) -> &'a Value {
    way.iter().fold(value, |value, key| get(value, key))
}

/// The items of a list; none if it is anything else.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The entries of an object; none if it is anything else.
pub(crate) fn entries(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or(&NO_FIELDS)
}

/// The text of a string; empty if it is anything else.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The name of a JSON type, for messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
