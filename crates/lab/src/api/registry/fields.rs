//! Reading what a client sent as its kind: unknown fields are refused, warned of or dropped.

use serde_json::Value;

use crate::api::kinds::Kind;
use crate::api::status::ApiError;

/// Treatment of fields that the kind does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

/// The object as its kind reads it, and warnings.
pub(super) fn decode(
    kind: &Kind,
    mut value: Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    if !value.is_object() {
        return Err(ApiError::bad_request("the body of the request must be an object"));
    }
    identify(kind, &mut value)?;
    let cannot = |detail: &str| {
        let message = format!("{0} in version {1:?} cannot be handled as a {0}: {detail}", kind.kind, kind.version);
        ApiError::bad_request(message)
    };
    if validation == FieldValidation::Ignore {
        return (kind.normalise)(value).map(|value| (value, Vec::new())).map_err(|error| cannot(&error));
    }
    let known = (kind.normalise)(value.clone()).map_err(|error| cannot(&error))?;
    let mut unknown = Vec::new();
    collect_unknown(&value, &known, "", &mut unknown);
    let unknown: Vec<_> = unknown.into_iter().map(|path| format!("unknown field {path:?}")).collect();
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        return Err(cannot(&format!("strict decoding error: {}", unknown.join(", "))));
    }
    Ok((known, unknown))
}

/// Fills in kind and version, which must not be others.
fn identify(kind: &Kind, value: &mut Value) -> Result<(), ApiError> {
    let expected = [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())];
    for (field, expected) in expected {
        match value.get(field).and_then(Value::as_str).unwrap_or_default() {
            "" => value[field] = expected.into(),
            given if given == expected => {}
            given => {
                let message =
                    format!("the {field} in the data ({given}) does not match the expected {field} ({expected})");
                return Err(ApiError::bad_request(message));
            }
        }
    }
    Ok(())
}

fn collect_unknown(given: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => collect_unknown(value, known, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                collect_unknown(given, known, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}
