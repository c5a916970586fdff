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

/// Key of an object in the store.
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

/// Scope of a list or watch.
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

/// Decision of a write.
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

impl Objects {
    fn entries(&self, scope: &Scope) -> Vec<(Key, Object)> {
        self.scan(scope).map(|(key, object)| (key.clone(), Arc::clone(object))).collect()
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

    /// As [`Self::list`], with the keys.
    pub(crate) fn entries(&self, scope: &Scope) -> Vec<(Key, Object)> {
        self.inner.lock().objects.entries(scope)
    }

    /// The objects of a scope, and every change to them after.
    pub(crate) fn list_and_watch(&self, scope: &Scope) -> (Vec<(Key, Object)>, Watch) {
        let mut inner = self.inner.lock();
        let objects = inner.objects.entries(scope);
        let revision = inner.revision;
        (objects, inner.watchers.add(scope.clone(), Vec::new(), revision))
    }

    /// Tells every watcher the revision up to which it has seen everything.
    pub(crate) fn progress(&self) {
        let mut inner = self.inner.lock();
        let revision = inner.revision;
        inner.watchers.progress(revision);
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde_json::json;

    use super::*;

    fn put(store: &Store, name: &str, value: u64) -> Object {
        let key = Key::new("configmaps", "default", name);
        let put = |_: Option<&Object>, _: &Objects| {
            Ok::<_, Infallible>(Action::Put(json!({ "metadata": { "name": name }, "value": value })))
        };
        store.change(&key, put).unwrap()
    }

    fn remove(store: &Store, name: &str) {
        let key = Key::new("configmaps", "default", name);
        let remove = |old: Option<&Object>, _: &Objects| Ok::<_, Infallible>(Action::Remove((**old.unwrap()).clone()));
        store.change(&key, remove).unwrap();
    }

    fn names(objects: Vec<(Key, Object)>) -> Vec<String> {
        objects.into_iter().map(|(key, object)| format!("{}={}", key.name, object["value"])).collect()
    }

    #[test]
    fn storing_the_same_again_makes_no_revision() {
        let store = Store::default();
        let first = put(&store, "a", 1);
        let again = put(&store, "a", 1);
        assert_eq!(first, again);
        assert_ne!(put(&store, "a", 2)["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    }

    #[test]
    fn a_list_of_the_past_is_the_present_less_what_came_since() {
        let store = Store::default();
        let scope = Scope::all("configmaps");
        put(&store, "a", 1);
        put(&store, "b", 1);
        let then = store.revision();
        put(&store, "a", 2);
        remove(&store, "b");
        put(&store, "c", 1);
        assert_eq!(names(store.list_at(&scope, then, None).unwrap()), ["a=1", "b=1"]);
        let after = Key::new("configmaps", "default", "a");
        assert_eq!(names(store.list_at(&scope, then, Some(&after)).unwrap()), ["b=1"]);
        assert_eq!(names(store.entries(&scope)), ["a=2", "c=1"]);
    }

    #[test]
    fn a_watch_goes_on_from_a_revision_or_is_told_that_it_is_gone() {
        let store = Store::default();
        let scope = Scope::within("configmaps", "default");
        put(&store, "a", 0);
        let then = store.revision();
        put(&store, "a", 1);
        let mut watch = store.watch(&scope, Some(then)).unwrap();
        assert_eq!(watch.backlog.len(), 1);
        put(&store, "a", 2);
        assert!(matches!(watch.receiver.try_recv(), Ok(Signal::Change(change)) if change.object["value"] == 2));
        for value in 0..20_000 {
            put(&store, "b", value);
        }
        assert!(store.watch(&scope, Some(then)).is_err(), "forgotten");
        assert!(store.watch(&scope, Some(store.revision() + 1)).is_err(), "not yet");
        assert!(store.watch(&scope, Some(store.revision())).is_ok());
    }

    #[tokio::test]
    async fn a_watcher_that_does_not_keep_up_is_cut_off() {
        let store = Store::default();
        let mut watch = store.watch(&Scope::default(), None).unwrap();
        for value in 0..10_000 {
            put(&store, "a", value);
        }
        let mut seen = 0;
        while watch.receiver.recv().await.is_some() {
            seen += 1;
        }
        assert!(seen < 10_000);
    }

    #[test]
    fn a_journal_brings_back_objects_and_revisions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        let collection = |name: &str| (name == "configmaps").then_some("configmaps");
        let (first, revision) = {
            let store = Store::open(&path, collection).unwrap();
            put(&store, "gone", 1);
            let first = put(&store, "a", 1);
            remove(&store, "gone");
            (first, store.revision())
        };
        // A line that was being written when the process died.
        let mut broken = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut broken, b"{\"revision\": 99, \"resou").unwrap();
        let store = Store::open(&path, collection).unwrap();
        assert_eq!(store.revision(), revision);
        assert_eq!(store.entries(&Scope::default()), [(Key::new("configmaps", "default", "a"), first)]);
        assert!(store.watch(&Scope::default(), Some(revision)).is_ok());
        assert!(store.watch(&Scope::default(), Some(revision - 1)).is_err());
    }

    #[test]
    fn a_journal_is_rewritten_before_it_is_mostly_past() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        let collection = |name: &str| (name == "configmaps").then_some("configmaps");
        let store = Store::open(&path, collection).unwrap();
        for value in 0..30_000 {
            put(&store, "a", value);
        }
        let lines = std::io::BufRead::lines(std::io::BufReader::new(std::fs::File::open(&path).unwrap())).count();
        assert!(lines < 21_000, "{lines} lines");
        let (before, revision) = (store.entries(&Scope::default()), store.revision());
        drop(store);
        let store = Store::open(&path, collection).unwrap();
        assert_eq!((store.entries(&Scope::default()), store.revision()), (before, revision));
    }
}
