//! The object store: all kinds in one ordered map, one revision counter, changes pushed to watchers as they commit.
//!
//! Objects are plain JSON. The store knows nothing of kinds but the name of their collection; what an object must look
//! like is the business of [`crate::api`]. Every write happens inside [`Store::change`], under the lock, so that a
//! decision (conflict, allocation, existence of the namespace) and its effect are one.

mod history;
pub(crate) mod journal;
mod paging;
pub(crate) mod selector;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use self::history::History;
pub(crate) use self::history::{Change, Compacted, EventType};
use self::journal::Journal;
use self::watch::Watchers;
pub(crate) use self::watch::{Signal, Watch};

/// A stored object; shared, never changed in place.
pub(crate) type Object = Arc<Value>;

/// Where an object is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The collection, as `plural` or `plural.group`.
    pub(crate) resource: &'static str,
    /// The namespace; empty for objects of the cluster.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &'static str, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }
}

/// Which objects a list or watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// One collection, or all of them.
    pub(crate) resource: Option<&'static str>,
    /// One namespace, or all of them.
    pub(crate) namespace: Option<String>,
}

impl Scope {
    /// All objects of a collection.
    pub(crate) fn all(resource: &'static str) -> Self {
        Self { resource: Some(resource), namespace: None }
    }

    /// The objects of a collection in one namespace.
    pub(crate) fn within(resource: &'static str, namespace: &str) -> Self {
        Self { resource: Some(resource), namespace: Some(namespace.to_owned()) }
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.resource.is_none_or(|resource| resource == key.resource)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// What a write decided.
pub(crate) enum Action {
    /// Store this value. Storing what is stored already makes no new revision.
    Put(Value),
    /// Remove the object; this is its last state.
    Remove(Value),
    /// Store nothing and answer this (dry run, or nothing to do).
    Answer(Value),
}

/// All objects, ordered by collection, namespace and name.
#[derive(Default)]
pub(crate) struct Objects(BTreeMap<Key, Object>);

impl Objects {
    pub(crate) fn get(&self, key: &Key) -> Option<&Object> {
        self.0.get(key)
    }

    /// The objects of a scope in key order.
    pub(crate) fn scan<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (&'a Key, &'a Object)> {
        let start = Key::new(scope.resource.unwrap_or(""), scope.namespace.clone().unwrap_or_default(), "");
        // Past the scope's range only where the scope names the collection: the keys are ordered by it.
        let inside = move |key: &Key| match (scope.resource, &scope.namespace) {
            (Some(resource), Some(namespace)) => key.resource == resource && key.namespace == *namespace,
            (Some(resource), None) => key.resource == resource,
            (None, _) => true,
        };
        let range = if scope.resource.is_some() { self.0.range(start..) } else { self.0.range(Key::new("", "", "")..) };
        range.take_while(move |(key, _)| inside(key)).filter(move |(key, _)| scope.contains(key))
    }
}

struct Inner {
    revision: u64,
    objects: Objects,
    history: History,
    watchers: Watchers,
    journal: Option<Journal>,
}

/// The store of all objects.
pub(crate) struct Store {
    inner: Mutex<Inner>,
}

impl Default for Store {
    fn default() -> Self {
        Self::with(1, Objects::default(), None)
    }
}

impl Store {
    fn with(revision: u64, objects: Objects, journal: Option<Journal>) -> Self {
        let inner =
            Inner { revision, objects, history: History::new(revision), watchers: Watchers::default(), journal };
        Self { inner: Mutex::new(inner) }
    }

    /// A store that is kept in a file, and starts with what the file holds.
    pub(crate) fn open(
        path: &std::path::Path,
        collection: impl Fn(&str) -> Option<&'static str>,
    ) -> std::io::Result<Self> {
        let (journal, revision, objects) = Journal::open(path, collection)?;
        Ok(Self::with(revision, Objects(objects), Some(journal)))
    }

    /// The object at a key.
    pub(crate) fn get(&self, key: &Key) -> Option<Object> {
        self.inner.lock().objects.get(key).cloned()
    }

    /// The latest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.inner.lock().revision
    }

    /// The objects of a scope and the revision they are of.
    pub(crate) fn list(&self, scope: &Scope) -> (Vec<Object>, u64) {
        let inner = self.inner.lock();
        (inner.objects.scan(scope).map(|(_, object)| Arc::clone(object)).collect(), inner.revision)
    }

    /// Changes the object at a key by what `decide` says of it, which sees all other objects as well.
    pub(crate) fn change<E>(
        &self,
        key: &Key,
        decide: impl FnOnce(Option<&Object>, &Objects) -> Result<Action, E>,
    ) -> Result<Object, E> {
        let mut inner = self.inner.lock();
        let old = inner.objects.get(key).cloned();
        match decide(old.as_ref(), &inner.objects)? {
            Action::Answer(value) => Ok(Arc::new(value)),
            Action::Put(mut value) => {
                if let Some(old) = &old {
                    value["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                    if value == **old {
                        return Ok(Arc::clone(old));
                    }
                }
                let object = inner.stamp(value);
                inner.objects.0.insert(key.clone(), Arc::clone(&object));
                let event = if old.is_some() { EventType::Modified } else { EventType::Added };
                inner.commit(key, event, &object, old);
                Ok(object)
            }
            Action::Remove(value) => {
                let object = inner.stamp(value);
                inner.objects.0.remove(key);
                inner.commit(key, EventType::Deleted, &object, old);
                Ok(object)
            }
        }
    }

    /// Follows the changes of a scope after a revision; of what comes from now on, without one.
    pub(crate) fn watch(&self, scope: &Scope, from: Option<u64>) -> Result<Watch, Compacted> {
        let mut inner = self.inner.lock();
        let backlog = match from {
            Some(revision) => inner.history.since(revision, inner.revision, scope)?,
            None => Vec::new(),
        };
        let revision = inner.revision;
        Ok(inner.watchers.add(scope.clone(), backlog, revision))
    }

    /// The objects of a scope, and every change to them after.
    pub(crate) fn list_and_watch(&self, scope: &Scope) -> (Vec<Object>, Watch) {
        let mut inner = self.inner.lock();
        let objects = inner.objects.scan(scope).map(|(_, object)| Arc::clone(object)).collect();
        let revision = inner.revision;
        (objects, inner.watchers.add(scope.clone(), Vec::new(), revision))
    }

    /// Tells every watcher the revision up to which it has seen everything.
    pub(crate) fn progress(&self) {
        let mut inner = self.inner.lock();
        let revision = inner.revision;
        inner.watchers.progress(revision);
    }

    /// Forgets the history, as if it had grown too long: watches from before now are refused.
    #[cfg(test)]
    pub(crate) fn compact(&self) {
        let mut inner = self.inner.lock();
        inner.history = History::new(inner.revision);
    }
}

impl Inner {
    fn stamp(&mut self, mut value: Value) -> Object {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        Arc::new(value)
    }

    fn commit(&mut self, key: &Key, event: EventType, object: &Object, old: Option<Object>) {
        let change =
            Arc::new(Change { revision: self.revision, key: key.clone(), event, object: Arc::clone(object), old });
        if let Some(journal) = &mut self.journal {
            journal.append(&change, &self.objects.0);
        }
        self.watchers.send(&change);
        self.history.push(change);
    }
}
