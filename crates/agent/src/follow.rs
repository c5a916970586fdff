//! Follows the objects of a kind that no policy names: what is known of each, and how the watch stands.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _};
use kube::ResourceExt as _;
use ringfence_api as api;
use ringfence_k8s::watch::Update;
use serde::Deserialize;
use serde_json::Value;

use crate::core::{Gone, Handle, Message};

/// Namespace and name of an object.
pub(crate) type Key = (String, String);

/// Takes from an object what is worth knowing; nothing from one that cannot be read.
pub(crate) fn read<K: kube::Resource + for<'de> Deserialize<'de>, V: Default>(
    worth: fn(&K) -> V,
) -> impl Fn(&Value) -> (Key, V) {
    move |object| match K::deserialize(object) {
        Ok(object) => ((object.namespace().unwrap_or_default(), object.name_any()), worth(&object)),
        Err(error) => {
            let text = |field| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            let key = (text("namespace"), text("name"));
            tracing::warn!(namespace = key.0, name = key.1, %error, "an object cannot be read");
            (key, V::default())
        }
    }
}

/// The known objects of a kind.
pub(crate) struct Known<V> {
    objects: BTreeMap<Key, V>,
    state: api::Watch,
}

/// Objects that may be different after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Different {
    Nothing,
    One(Key),
    All,
}

/// Objects that are different now.
pub(crate) struct Change<'a, V> {
    /// The object it is about; none if all of them may be different.
    pub(crate) key: Option<&'a Key>,
    /// All objects.
    pub(crate) objects: &'a BTreeMap<Key, V>,
}

impl<V> Known<V> {
    /// Nothing yet.
    pub(crate) fn new(kind: &str) -> Self {
        let state = api::Watch { kind: kind.into(), synced: false, connected: true, objects: 0, error: None };
        Self { objects: BTreeMap::new(), state }
    }

    /// All objects.
    #[cfg(test)]
    pub(crate) fn objects(&self) -> &BTreeMap<Key, V> {
        &self.objects
    }

    /// State of the watch.
    #[cfg(test)]
    pub(crate) fn state(&self) -> &api::Watch {
        &self.state
    }

    /// Takes in an update.
    pub(crate) fn take(&mut self, update: Update<(Key, V)>) -> Different {
        if let Update::Disconnected(error) = update {
            tracing::debug!(kind = self.state.kind, error, "the watch is interrupted");
            (self.state.connected, self.state.error) = (false, Some(error));
            return Different::Nothing;
        }
        (self.state.connected, self.state.error) = (true, None);
        let changed = match update {
            Update::Reset(objects) => {
                self.objects = objects.into_iter().collect();
                self.state.synced = true;
                Different::All
            }
            Update::Apply((key, object)) => {
                self.objects.insert(key.clone(), object);
                Different::One(key)
            }
            Update::Delete((key, _)) => {
                self.objects.remove(&key);
                Different::One(key)
            }
            Update::Connected | Update::Disconnected(_) => Different::Nothing,
        };
        self.state.objects = self.objects.len();
        changed
    }
}

/// Follows the objects, for ever, and tells the planning thread how the watch stands.
pub(crate) async fn keep<V>(
    updates: impl Stream<Item = Update<(Key, V)>> + Send,
    known: &mut Known<V>,
    core: &Handle,
    tell: impl Fn(Change<'_, V>) -> Result<(), Gone>,
) -> Result<(), Gone> {
    let mut updates = std::pin::pin!(updates);
    let mut told = None;
    while let Some(update) = updates.next().await {
        match known.take(update) {
            Different::Nothing => {}
            Different::One(key) => tell(Change { key: Some(&key), objects: &known.objects })?,
            Different::All => tell(Change { key: None, objects: &known.objects })?,
        }
        if told.as_ref() != Some(&known.state) {
            told = Some(known.state.clone());
            core.tell(Message::Watched(known.state.clone()))?;
        }
    }
    Ok(())
}
