//! Manifests from files: YAML or JSON, many documents, whole directories; every object and field with its place.
//!
//! Nothing is skipped in silence and nothing hides anything else: what cannot be read, is of a kind that policy does
//! not depend on, or would be refused by an API server is a [`Diagnostic`], and the rest is loaded.

mod document;
mod parse;
mod render;
mod scalar;
mod source;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use ringfence_model::{Labels, Name, Namespace, Object, ObjectKey, World};

pub use document::Document;

use crate::convert::NAMESPACE_NAME_LABEL;
use crate::diagnostic::{Diagnostic, Location, Severity};

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The objects, in the order of files and of documents in them.
    pub documents: Vec<Document>,
    /// The diagnostics, in the same order.
    pub diagnostics: Vec<Diagnostic>,
    /// The number of objects of each kind (`apps/v1 Deployment`) that policy does not depend on.
    pub left_aside: BTreeMap<String, usize>,
    /// The place of the last object of each name.
    places: HashMap<ObjectKey, Location>,
    /// The files, by name.
    sources: BTreeMap<Arc<str>, String>,
}

/// Loads files, directories with everything below them, and `-`, the standard input.
///
/// Never fails: what cannot be read is an error among the diagnostics.
pub fn load<I>(paths: I) -> Manifests
where
    I: IntoIterator,
    I::Item: Into<PathBuf>,
{
    let mut manifests = Manifests::default();
    for path in paths {
        for source in source::read(&path.into()) {
            match source {
                Ok((name, text)) => manifests.add(&name, text),
                Err(diagnostic) => manifests.diagnostics.push(*diagnostic),
            }
        }
    }
    manifests
}

impl Manifests {
    /// Loads a text as if it were a file of that name.
    pub fn from_text(name: &str, text: impl Into<String>) -> Self {
        let mut manifests = Self::default();
        manifests.add(name, text.into());
        manifests
    }

    fn add(&mut self, name: &str, text: String) {
        let file = Arc::<str>::from(name);
        document::read(&file, &text, self);
        self.sources.insert(file, text);
    }

    /// The number of errors, and that of warnings.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self.diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
        (errors, self.diagnostics.len() - errors)
    }

    /// The world these objects make when applied in their order. Namespaces that objects are in but that are not
    /// among them exist, with nothing but the label with their name. Objects that an API server would refuse are in
    /// it too: they fail closed.
    pub fn world(&self) -> World {
        let mut world: World = self.documents.iter().filter_map(|document| document.object.clone()).collect();
        let pods = world.pods.keys().map(|key| Name::clone(&key.namespace));
        let policies = world.policies.keys().filter_map(|id| id.namespace.clone());
        let missing: Vec<_> = pods.chain(policies).filter(|name| !world.namespaces.contains_key(name)).collect();
        for name in missing {
            let labels = Labels::from_iter([(NAMESPACE_NAME_LABEL, Name::clone(&name))]);
            world.apply(Object::Namespace(Namespace { name, labels, terminating: false }));
        }
        world
    }

    /// The text of a file that was loaded.
    pub fn source(&self, file: &str) -> Option<&str> {
        self.sources.get(file).map(String::as_str)
    }
}
