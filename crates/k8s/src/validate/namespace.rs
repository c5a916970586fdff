//! Namespace, `v1`.

use serde_json::Value;

use super::{Errors, FieldError, Naming, metadata};

/// Validates a Namespace.
pub fn namespace(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(object, false, Naming::Label, &mut errors);
    errors.into_vec()
}
