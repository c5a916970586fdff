//! ConfigMap, `v1`.

use serde_json::Value;

use super::{Errors, FieldError, Naming, metadata, names};
use crate::json::{entries, get};
use crate::path::Path;

/// Most bytes that all values together may have.
const SIZE_MAX: usize = 1024 * 1024;

/// Validates a ConfigMap.
pub fn config_map(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(object, true, Naming::Subdomain, &mut errors);
    let mut size = 0;
    for field in ["data", "binaryData"] {
        let path = Path::ROOT.field(field);
        let Some(data) = errors.object(get(object, field), &path) else { continue };
        for (key, value) in entries(data) {
            let path = path.key(key);
            check_key(key, &path, &mut errors);
            if field == "binaryData" && get(object, "data").get(key).is_some() {
                errors.invalid(&path, key.as_str(), "the key is in `data` too");
            }
            size += errors.string(value, &path).unwrap_or_default().len();
        }
    }
    if size > SIZE_MAX {
        errors.too_long(&Path::ROOT, format!("may not be more than {SIZE_MAX} bytes"));
    }
    errors.boolean(get(object, "immutable"), &Path::ROOT.field("immutable"));
    errors.into_vec()
}

fn check_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if key.is_empty() || key.len() > names::SUBDOMAIN_MAX || !key.bytes().all(alphabet) {
        errors.invalid(path, key, "a key must be 1 to 253 letters, digits, '-', '_' and '.' (such as 'key.name')");
    } else if key == "." || key.starts_with("..") {
        errors.invalid(path, key, "a key may be neither '.' nor begin with '..'");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_file_names() {
        let map = json!({"metadata": {"name": "m"}, "data": {"a.b_c-1": "x", "a/b": "y", "..": "z", "n": 1}});
        let found: Vec<_> = config_map(&map).iter().map(|error| error.path.to_string()).collect();
        assert_eq!(found, ["data[a/b]", "data[..]", "data[n]"]);
    }
}
