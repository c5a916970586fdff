//! `metadata` of every kind.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, FieldError, names};
use crate::json::{entries, get};
use crate::path::Path;

/// Most bytes that all annotations of an object may have together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Finalizers that need no prefix.
const FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

/// The syntax of names of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// DNS labels (RFC 1123).
    Label,
    /// DNS labels that begin with a letter (RFC 1035).
    Label1035,
    /// DNS subdomains (RFC 1123).
    Subdomain,
}

impl Naming {
    fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::Label => names::dns_label(name),
            Self::Label1035 => names::dns_1035_label(name),
            Self::Subdomain => names::dns_subdomain(name),
        }
    }
}

/// Validates `metadata` of an object of any kind.
pub fn object_meta(object: &Value, namespaced: bool, naming: Naming) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check(object, namespaced, naming, &mut errors);
    errors.into_vec()
}

/// Validates that an update leaves alone what may never change.
pub fn object_meta_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let metadata = Path::ROOT.field("metadata");
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        unchanged(
            get(get(new, "metadata"), field),
            get(get(old, "metadata"), field),
            &metadata.field(field),
            &mut errors,
        );
    }
    errors.into_vec()
}

/// Validates a label set at `path`.
pub fn labels(labels: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check_labels(labels, path, &mut errors);
    errors.into_vec()
}

/// Validates annotations at `path`.
pub fn annotations(annotations: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check_annotations(annotations, path, &mut errors);
    errors.into_vec()
}

/// A field that may not change once it is set.
pub(super) fn unchanged(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !old.is_null() && new != old {
        errors.invalid(path, new.clone(), "field is immutable");
    }
}

pub(super) fn check(object: &Value, namespaced: bool, naming: Naming, errors: &mut Errors) {
    let path = Path::ROOT.field("metadata");
    let Some(metadata) = errors.object(get(object, "metadata"), &path) else {
        return errors.required(&path.field("name"), "name or generateName is required");
    };
    check_name(metadata, naming, &path, errors);
    check_namespace(metadata, namespaced, &path, errors);
    check_labels(get(metadata, "labels"), &path.field("labels"), errors);
    check_annotations(get(metadata, "annotations"), &path.field("annotations"), errors);
    check_finalizers(get(metadata, "finalizers"), &path.field("finalizers"), errors);
    check_owners(get(metadata, "ownerReferences"), &path.field("ownerReferences"), errors);
}

fn check_name(metadata: &Value, naming: Naming, path: &Path<'_>, errors: &mut Errors) {
    let (name_path, prefix_path) = (path.field("name"), path.field("generateName"));
    let name = errors.string(get(metadata, "name"), &name_path).unwrap_or_default();
    let prefix = errors.string(get(metadata, "generateName"), &prefix_path).unwrap_or_default();
    if !prefix.is_empty() && name.is_empty() {
        // A generated suffix consists of letters and digits, so one dash at the end is valid.
        let example = format!("{prefix}x");
        errors.all_invalid(&prefix_path, prefix, naming.check(&example));
    }
    if !name.is_empty() {
        errors.all_invalid(&name_path, name, naming.check(name));
    } else if prefix.is_empty() {
        errors.required(&name_path, "name or generateName is required");
    }
}

fn check_namespace(metadata: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let path = path.field("namespace");
    let Some(namespace) = errors.string(get(metadata, "namespace"), &path) else { return };
    if namespace.is_empty() {
        return;
    }
    if namespaced {
        errors.all_invalid(&path, namespace, names::dns_label(namespace));
    } else {
        errors.forbidden(&path, "this kind has no namespace");
    }
}

pub(super) fn check_labels(labels: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(labels) = errors.object(labels, path) else { return };
    for (key, value) in entries(labels) {
        errors.all_invalid(path, key, names::qualified_name(key));
        if let Some(value) = errors.string(value, &path.key(key)) {
            errors.all_invalid(path, value, names::label_value(value));
        }
    }
}

fn check_annotations(annotations: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(annotations) = errors.object(annotations, path) else { return };
    let mut size = 0;
    for (key, value) in entries(annotations) {
        errors.all_invalid(path, key, names::qualified_name(&key.to_ascii_lowercase()));
        size += key.len() + errors.string(value, &path.key(key)).unwrap_or_default().len();
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, format!("may not be more than {ANNOTATIONS_MAX} bytes"));
    }
}

fn check_finalizers(finalizers: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (i, finalizer) in errors.list(finalizers, path).iter().enumerate() {
        let item = path.index(i);
        let text = errors.string(finalizer, &item).unwrap_or_default();
        errors.all_invalid(path, text, names::qualified_name(text));
        if !text.contains('/') && !FINALIZERS.contains(&text) {
            errors.invalid(&item, text, "must be one of Kubernetes' own finalizers or have a prefix");
        }
    }
}

fn check_owners(owners: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut controllers = BTreeSet::new();
    for (i, owner) in errors.list(owners, path).iter().enumerate() {
        errors.object(owner, &path.index(i));
        // The API server leaves the position out of these paths.
        for field in ["apiVersion", "kind", "name", "uid"] {
            let path = path.field(field);
            if errors.string(get(owner, field), &path).unwrap_or_default().is_empty() {
                errors.invalid(&path, "", "must not be empty");
            }
        }
        if errors.boolean(get(owner, "controller"), &path.field("controller")) == Some(true) {
            controllers.insert(i);
        }
    }
    if controllers.len() > 1 {
        errors.invalid(path, owners.clone(), "only one owner may be the controller");
    }
}
