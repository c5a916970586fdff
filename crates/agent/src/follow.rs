//! Follows the objects of a kind that no policy names: what is known of each, and how the watch stands.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _};
use kube::ResourceExt as _;
use kube::runtime::watcher::{self, Event};

use crate::api;
use crate::core::{Gone, Handle, Message};

/// Namespace and name of an object.
pub(crate) type Key = (String, String);

/// What is known of the objects of a kind.
pub(crate) struct Known<K, V> {
    read: fn(&K) -> V,
    objects: BTreeMap<Key, V>,
    /// A listing that is not whole yet.
    listing: BTreeMap<Key, V>,
    state: api::Watch,
}

/// What may be different after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Different {
    Nothing,
    One(Key),
    All,
}

/// What is different now.
pub(crate) struct Change<'a, V> {
    /// The object it is about; none if all of them may be different.
    pub(crate) key: Option<&'a Key>,
    /// All objects.
    pub(crate) objects: &'a BTreeMap<Key, V>,
}

impl<K: kube::Resource, V> Known<K, V> {
    /// Nothing yet; `read` takes from an object what is worth knowing.
    pub(crate) fn new(kind: &str, read: fn(&K) -> V) -> Self {
        let state = api::Watch { kind: kind.into(), synced: false, connected: true, objects: 0, error: None };
        Self { read, objects: BTreeMap::new(), listing: BTreeMap::new(), state }
    }

    /// All objects.
    #[cfg(test)]
    pub(crate) fn objects(&self) -> &BTreeMap<Key, V> {
        &self.objects
    }

    /// How the watch stands.
    #[cfg(test)]
    pub(crate) fn state(&self) -> &api::Watch {
        &self.state
    }

    /// Takes in an event.
    pub(crate) fn take(&mut self, event: watcher::Result<Event<K>>) -> Different {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(kind = self.state.kind, %error, "the watch is interrupted");
                (self.state.connected, self.state.error) = (false, Some(error.to_string()));
                return Different::Nothing;
            }
        };
        (self.state.connected, self.state.error) = (true, None);
        let changed = match event {
            Event::Init => {
                self.listing.clear();
                Different::Nothing
            }
            Event::InitApply(object) => {
                self.listing.insert(key(&object), (self.read)(&object));
                Different::Nothing
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                self.state.synced = true;
                Different::All
            }
            Event::Apply(object) => {
                self.objects.insert(key(&object), (self.read)(&object));
                Different::One(key(&object))
            }
            Event::Delete(object) => {
                self.objects.remove(&key(&object));
                Different::One(key(&object))
            }
        };
        self.state.objects = self.objects.len();
        changed
    }
}

/// Follows the objects, for ever, and tells the planning thread how the watch stands.
pub(crate) async fn keep<K: kube::Resource, V>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    known: &mut Known<K, V>,
    core: &Handle,
    tell: impl Fn(Change<'_, V>) -> Result<(), Gone>,
) -> Result<(), Gone> {
    let mut events = std::pin::pin!(events);
    let mut told = None;
    while let Some(event) = events.next().await {
        match known.take(event) {
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
