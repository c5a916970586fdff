//! Collects what is not understood while an object is read.

use serde_json::Value;

use super::namespace_of;
use super::selector::NotUnderstood;
use crate::diagnostic::{Diagnostic, Severity};
use crate::json::{at, entries, text};
use crate::path::{FieldPath, Path};

/// The diagnostics of one object.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    object: &'a Value,
    kind: &'static str,
    namespaced: bool,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(object: &'a Value, kind: &'static str, namespaced: bool) -> Self {
        Self { object, kind, namespaced, diagnostics: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    /// Reports what could not be understood, and what follows from it.
    pub(super) fn not_understood(&mut self, error: NotUnderstood, message: String, hint: &str) {
        self.report(Severity::Error, error.path, message, hint).reason = error.reason;
    }

    /// Reports something about a field.
    pub(super) fn report(
        &mut self,
        severity: Severity,
        path: FieldPath,
        message: String,
        hint: &str,
    ) -> &mut Diagnostic {
        let name = text(at(self.object, &["metadata", "name"]));
        let object = if self.namespaced {
            format!("{} {}/{name}", self.kind, namespace_of(self.object))
        } else {
            format!("{} {name}", self.kind)
        };
        self.diagnostics.push_mut(Diagnostic::new(severity, message).object(object).path(path).hint(hint))
    }

    /// Reports labels that are no strings.
    pub(super) fn check_labels(&mut self, labels: &Value, path: &Path<'_>) {
        for (key, value) in entries(labels) {
            if !value.is_string() && !value.is_null() {
                let message = format!("the value {value} is not a string; the label is left out");
                self.report(Severity::Error, path.key(key).to_field_path(), message, "put the value in quotes");
            }
        }
    }
}

/// The first field of `value` that is none of `known`. Fields that are null are as good as missing.
pub(super) fn unknown_field<'v>(value: &'v Value, known: &[&str]) -> Option<&'v str> {
    entries(value)
        .iter()
        .find(|(key, value)| !value.is_null() && !known.contains(&key.as_str()))
        .map(|(key, _)| key.as_str())
}
