//! Field errors, in the words of the API server.

use std::fmt;

use serde_json::{Value, json};

use crate::json;
use crate::path::{FieldPath, Path};

/// The kinds of field errors of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Two items that must differ do not.
    Duplicate,
    /// The field may not be set here.
    Forbidden,
    /// The value breaks a rule.
    Invalid,
    /// The value is none of an enumeration.
    NotSupported,
    /// The field is missing.
    Required,
    /// The value is too long.
    TooLong,
    /// There are too many items or fields.
    TooMany,
    /// The value is of the wrong JSON type.
    TypeInvalid,
}

impl ErrorKind {
    /// The `reason` of a cause in a `Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Required => "FieldValueRequired",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The words kubectl's user reads.
    pub fn title(self) -> &'static str {
        match self {
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Required => "Required value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field.
    pub path: FieldPath,
    /// The kind of error.
    pub kind: ErrorKind,
    /// The value found; none where showing it does not help.
    pub bad_value: Option<Value>,
    /// A description of valid values.
    pub detail: String,
}

impl FieldError {
    /// The message without the path, as in `causes[].message` of a `Status`.
    pub fn body(&self) -> String {
        let mut body = self.kind.title().to_owned();
        if let Some(value) = &self.bad_value {
            // A string's JSON form is its quoted form.
            body = format!("{body}: {value}");
        }
        if !self.detail.is_empty() {
            body = format!("{body}: {}", self.detail);
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_root() {
            return f.write_str(&self.body());
        }
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// The `Status` (422, `Invalid`) that reports `errors` to a client.
///
/// `group` is empty for the core group.
pub fn status(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Value {
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let all = match errors {
        [one] => one.to_string(),
        _ => format!("[{}]", errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join(", ")),
    };
    let causes: Vec<_> = errors
        .iter()
        .map(|error| json!({"reason": error.kind.reason(), "message": error.body(), "field": error.path.to_string()}))
        .collect();
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{qualified} {name:?} is invalid: {all}"),
        "reason": "Invalid",
        "details": {"name": name, "group": group, "kind": kind, "causes": causes},
        "code": 422,
    })
}

/// Collects errors while an object is walked, and reads its fields with the right types.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    /// All that were found, in the order of the walk.
    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    fn push(&mut self, path: &Path<'_>, kind: ErrorKind, bad_value: Option<Value>, detail: impl Into<String>) {
        self.0.push(FieldError { path: path.to_field_path(), kind, bad_value, detail: detail.into() });
    }

    pub(crate) fn invalid(&mut self, path: &Path<'_>, bad_value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, ErrorKind::Invalid, Some(bad_value.into()), detail);
    }

    pub(crate) fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, ErrorKind::Required, None, detail);
    }

    pub(crate) fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, ErrorKind::Forbidden, None, detail);
    }

    pub(crate) fn too_long(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, ErrorKind::TooLong, None, detail);
    }

    pub(crate) fn too_many(&mut self, path: &Path<'_>, found: usize, detail: impl Into<String>) {
        self.push(path, ErrorKind::TooMany, Some(found.into()), detail);
    }

    pub(crate) fn duplicate(&mut self, path: &Path<'_>, bad_value: impl Into<Value>) {
        self.push(path, ErrorKind::Duplicate, Some(bad_value.into()), "");
    }

    pub(crate) fn not_supported(&mut self, path: &Path<'_>, bad_value: impl Into<Value>, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        self.push(path, ErrorKind::NotSupported, Some(bad_value.into()), detail);
    }

    /// The same rule broken in several ways.
    pub(crate) fn all_invalid(&mut self, path: &Path<'_>, bad_value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(path, bad_value, detail);
        }
    }

    /// True if there is an error of one of these kinds.
    pub(crate) fn any(&self, kinds: &[ErrorKind]) -> bool {
        self.0.iter().any(|error| kinds.contains(&error.kind))
    }

    pub(crate) fn wrong_type(&mut self, path: &Path<'_>, value: &Value, expected: &str) {
        let detail = format!("must be {expected}, not {}", json::type_name(value));
        self.push(path, ErrorKind::TypeInvalid, Some(value.clone()), detail);
    }

    /// The value, if it is an object. Null is no error and no object.
    pub(crate) fn object<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> Option<&'v Value> {
        match value {
            Value::Object(_) => Some(value),
            Value::Null => None,
            _ => {
                self.wrong_type(path, value, "an object");
                None
            }
        }
    }

    /// The items, if it is a list.
    pub(crate) fn list<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> &'v [Value] {
        match value {
            Value::Array(items) => items,
            Value::Null => &[],
            _ => {
                self.wrong_type(path, value, "a list");
                &[]
            }
        }
    }

    /// The text, if it is a string.
    pub(crate) fn string<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> Option<&'v str> {
        match value {
            Value::String(text) => Some(text),
            Value::Null => None,
            _ => {
                self.wrong_type(path, value, "a string");
                None
            }
        }
    }

    /// The number, if it is a whole one.
    pub(crate) fn integer(&mut self, value: &Value, path: &Path<'_>) -> Option<i64> {
        let number = value.as_i64();
        if number.is_none() && !value.is_null() {
            self.wrong_type(path, value, "a whole number");
        }
        number
    }

    /// The truth, if it is a boolean.
    pub(crate) fn boolean(&mut self, value: &Value, path: &Path<'_>) -> Option<bool> {
        match value {
            Value::Bool(truth) => Some(*truth),
            Value::Null => None,
            _ => {
                self.wrong_type(path, value, "true or false");
                None
            }
        }
    }

    /// A string that must be one of `supported` where it is given.
    pub(crate) fn one_of<'v>(&mut self, value: &'v Value, path: &Path<'_>, supported: &[&str]) -> Option<&'v str> {
        let text = self.string(value, path)?;
        if !supported.contains(&text) {
            self.not_supported(path, text, supported);
        }
        Some(text)
    }

    /// A number that may not be negative.
    pub(crate) fn not_negative(&mut self, value: &Value, path: &Path<'_>) {
        if let Some(number) = self.integer(value, path).filter(|number| *number < 0) {
            self.invalid(path, number, "must be 0 or more");
        }
    }
}
