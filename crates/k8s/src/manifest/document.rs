//! The objects of one file.

use std::sync::Arc;

use ringfence_model::Object;
use serde_json::Value;

use super::Manifests;
use super::parse::{Problem, parse};
use super::tree::{Node, Position};
use crate::convert::{Kind, namespace_of};
use crate::diagnostic::{Diagnostic, Location, Severity};
use crate::json::{at, text};
use crate::path::{FieldPath, Segment};
use crate::{strict, validate};

/// One object of a file.
#[derive(Debug)]
pub struct Document {
    /// The place where it begins.
    pub location: Location,
    /// Kind, namespace and name: `NetworkPolicy shop/allow-web`.
    pub title: String,
    /// The object as it is written.
    pub value: Value,
    /// The converted object, for kinds that policy depends on.
    pub object: Option<Object>,
    /// An API server would accept it, as far as its kind is known.
    pub valid: bool,
    tree: Node,
}

impl Document {
    /// The place of a field, or of the innermost enclosing one that is written.
    pub fn locate(&self, path: &FieldPath) -> Location {
        located(&self.location.file, self.tree.locate(path))
    }
}

fn located(file: &Arc<str>, position: Position) -> Location {
    Location { file: Arc::clone(file), line: position.line, column: position.column }
}

/// Reads all documents of a file.
pub(super) fn read(file: &Arc<str>, text: &str, into: &mut Manifests) {
    let problem = |problem: Problem| Diagnostic {
        location: Some(located(file, problem.position)),
        ..Diagnostic::new(Severity::Error, problem.message)
    };
    for parsed in parse(text) {
        match parsed {
            Ok(parsed) => {
                into.diagnostics.extend(parsed.problems.into_iter().map(problem));
                Reader { file, into }.document(parsed.root, None);
            }
            Err(error) => into.diagnostics.push(problem(error)),
        }
    }
}

struct Reader<'a> {
    file: &'a Arc<str>,
    into: &'a mut Manifests,
}

impl Reader<'_> {
    /// An object, or a list of objects. `kind` is what the items of a list are where they do not say.
    fn document(&mut self, tree: Node, kind: Option<(&str, &str)>) {
        let mut value = tree.value();
        if !value.is_object() {
            let message = "not a Kubernetes object: expected a map with apiVersion and kind";
            return self.about(&tree, &value, FieldPath::default(), Severity::Error, message.to_owned());
        }
        for (i, field) in ["apiVersion", "kind"].into_iter().enumerate() {
            if let (Value::Null, Some(kind)) = (&value[field], kind) {
                value[field] = if i == 0 { kind.0.into() } else { kind.1.into() };
            }
            if text(&value[field]).is_empty() {
                let message = format!("not a Kubernetes object: {field} is missing");
                return self.about(&tree, &value, FieldPath::default(), Severity::Error, message);
            }
        }
        let (api_version, kind) = (text(&value["apiVersion"]).to_owned(), text(&value["kind"]).to_owned());
        match kind.strip_suffix("List") {
            Some(item) if tree.get("items").is_some() => self.list(&tree, &value, (&api_version, item)),
            _ => self.object(tree, value, &api_version, &kind),
        }
    }

    fn list(&mut self, tree: &Node, value: &Value, (api_version, item): (&str, &str)) {
        // A plain `List` says nothing of its items.
        let kind = (!item.is_empty()).then_some((api_version, item));
        if !value["items"].is_array() && !value["items"].is_null() {
            let path = FieldPath::from_iter([Segment::Field("items".to_owned())]);
            return self.about(tree, value, path, Severity::Error, "expected a list".to_owned());
        }
        for item in tree.get("items").map(Node::items).unwrap_or_default() {
            self.document(item.clone(), kind);
        }
    }

    fn object(&mut self, tree: Node, value: Value, api_version: &str, kind: &str) {
        let before = self.into.diagnostics.len();
        let mismatches = strict::check(&value);
        let Some(mismatches) = mismatches else { return self.unknown_kind(&tree, &value, api_version, kind) };
        for mismatch in &mismatches {
            let message = match mismatch {
                strict::Mismatch::UnknownField(_) => mismatch.to_string(),
                strict::Mismatch::WrongType { cause, .. } => cause.clone(),
            };
            self.about(&tree, &value, mismatch.path().clone(), Severity::Error, message);
        }
        for error in validate::object(&value).unwrap_or_default() {
            if !mismatches.iter().any(|mismatch| error.path.starts_with(mismatch.path())) {
                self.about(&tree, &value, error.path.clone(), Severity::Error, error.body());
            }
        }
        let valid = self.into.diagnostics.len() == before;
        let object = Kind::of(api_version, kind).map(|kind| {
            let (object, diagnostics) = kind.convert(&value);
            for diagnostic in diagnostics.into_iter().filter(|_| valid) {
                let location = Some(located(self.file, tree.locate(&diagnostic.path)));
                self.into.diagnostics.push(Diagnostic { location, ..diagnostic });
            }
            object
        });
        if object.is_none() {
            *self.into.left_aside.entry(format!("{api_version} {kind}")).or_default() += 1;
        }
        self.duplicate(&tree, &value, object.as_ref());
        let location = located(self.file, tree.position);
        self.into.documents.push(Document { location, title: title(&value), value, object, valid, tree });
    }

    /// Says so if the same object was there before: the later one wins, as when both are applied.
    fn duplicate(&mut self, tree: &Node, value: &Value, object: Option<&Object>) {
        let Some(key) = object.map(Object::key) else { return };
        let location = located(self.file, tree.position);
        let Some(location) = self.into.places.insert(key, location) else { return };
        let message = format!("the same object is in {location}; this one replaces it");
        self.about(tree, value, FieldPath::default(), Severity::Warning, message);
    }

    fn unknown_kind(&mut self, tree: &Node, value: &Value, api_version: &str, kind: &str) {
        *self.into.left_aside.entry(format!("{api_version} {kind}")).or_default() += 1;
        let message = if kind.ends_with("NetworkPolicy") {
            format!("{kind} of {api_version} is not supported by this version: verdicts do not heed it")
        } else {
            format!("{kind} of {api_version} is not a kind that policy depends on; it is left aside")
        };
        self.about(tree, value, FieldPath::default(), Severity::Warning, message);
    }

    fn about(&mut self, tree: &Node, value: &Value, path: FieldPath, severity: Severity, message: String) {
        let location = Some(located(self.file, tree.locate(&path)));
        let object = text(&value["kind"]);
        let object = (!object.is_empty()).then(|| title(value));
        self.into.diagnostics.push(Diagnostic { location, object, path, ..Diagnostic::new(severity, message) });
    }
}

/// `NetworkPolicy shop/allow-web`, `Namespace shop`.
fn title(value: &Value) -> String {
    let kind = text(&value["kind"]);
    let name = match text(at(value, &["metadata", "name"])) {
        "" => "(no name)",
        name => name,
    };
    let policy = Kind::of(text(&value["apiVersion"]), kind).is_some_and(|kind| !kind.resource().namespaced);
    let cluster_wide = policy || matches!(kind, "ClusterRole" | "ClusterRoleBinding");
    if cluster_wide { format!("{kind} {name}") } else { format!("{kind} {}/{name}", namespace_of(value)) }
}
