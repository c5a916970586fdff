//! Label selectors.

use serde_json::Value;

use super::metadata::check_labels;
use super::{Errors, FieldError, names};
use crate::json::{get, text};
use crate::path::Path;

/// Validates a label selector at `path`.
pub fn label_selector(selector: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check(selector, path, &mut errors);
    errors.into_vec()
}

pub(super) fn check(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(selector) = errors.object(selector, path) else { return };
    check_labels(get(selector, "matchLabels"), &path.field("matchLabels"), errors);
    let path = path.field("matchExpressions");
    for (i, expression) in errors.list(get(selector, "matchExpressions"), &path).iter().enumerate() {
        check_expression(expression, &path.index(i), errors);
    }
}

fn check_expression(expression: &Value, path: &Path<'_>, errors: &mut Errors) {
    errors.object(expression, path);
    let (operator_path, values_path, key_path) = (path.field("operator"), path.field("values"), path.field("key"));
    let operator = errors.string(get(expression, "operator"), &operator_path).unwrap_or_default();
    let values = errors.list(get(expression, "values"), &values_path);
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&values_path, "must be given when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&values_path, "may not be given when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&operator_path, other, "must be 'In', 'NotIn', 'Exists' or 'DoesNotExist'"),
    }
    let key = errors.string(get(expression, "key"), &key_path).unwrap_or_default();
    errors.all_invalid(&key_path, key, names::qualified_name(key));
    for (i, value) in values.iter().enumerate() {
        let path = values_path.index(i);
        errors.string(value, &path);
        errors.all_invalid(&path, text(value), names::label_value(text(value)));
    }
}
