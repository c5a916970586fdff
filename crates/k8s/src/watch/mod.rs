//! The objects that policy depends on, as they change in a live cluster.
//!
//! Each kind has a list-then-watch loop of its own (see `loop`), and this stream merges them. Nothing is delayed: an
//! event is available as soon as the line of the API server has been read. To process bursts together, callers use
//! [`ready_chunks`](futures::StreamExt::ready_chunks), which does not wait for more.
//!
//! A cluster has one such stream per node. So lists are requested from the cache of the server, not from its storage.
//! That may be old, so [`Progress`] limits its age.

mod backoff;
mod intake;
mod kind_waiter;
mod list;
mod r#loop;
mod request_error;
mod requests;
#[cfg(test)]
mod tests;
mod watch_line;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt as _};
use kube::Client;
use ringfence_model::{Object, ObjectKey};
use serde_json::Value;
use tokio::sync::Notify;

use crate::convert::{Kind, Resource};
use crate::diagnostic::Diagnostic;
pub use backoff::Backoff;
pub use intake::Intake;
use r#loop::{Loop, Signals};

/// The permitted age of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Floor {
    /// Any version that the server has in its cache: nothing has been processed yet.
    Any,
    /// Not older than a version, up to which everything may have been processed.
    NotOlderThan(String),
    /// The newest list: something was processed, and its version is unknown.
    Newest,
}

/// Remembers the versions that streams have reached, so that streams after a restart do not go back.
pub trait Progress: Send + Sync {
    /// The permitted age of the first list of a kind, by the plural name of the kind.
    fn floor(&self, plural: &str) -> Floor;

    /// Records that everything of a kind up to a version is about to be delivered.
    fn reached(&self, plural: &str, version: &str);
}

/// Remembers nothing: every stream begins with the cache of the server.
#[derive(Clone, Copy, Debug)]
pub struct Forgetful;

impl Progress for Forgetful {
    fn floor(&self, _: &str) -> Floor {
        Floor::Any
    }

    fn reached(&self, _: &str, _: &str) {}
}

impl<P: Progress + ?Sized> Progress for Arc<P> {
    fn floor(&self, plural: &str) -> Floor {
        (**self).floor(plural)
    }

    fn reached(&self, plural: &str, version: &str) {
        (**self).reached(plural, version);
    }
}

/// The objects that are followed.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Their kind.
    pub resource: Resource,
    /// Their namespace. None: all namespaces.
    pub namespace: Option<String>,
    /// Label selector, as in a query. None: all objects.
    pub labels: Option<String>,
    /// Field selector, as in a query. None: all objects.
    pub fields: Option<String>,
}

impl From<Resource> for Subject {
    /// All objects of a kind.
    fn from(resource: Resource) -> Self {
        Self { resource, namespace: None, labels: None, fields: None }
    }
}

/// An event about objects of one kind, or about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update<T> {
    /// All objects: at the beginning, and after a gap. Objects that are not among them were deleted.
    Reset(Vec<T>),
    /// An object was added or modified.
    Apply(T),
    /// An object was deleted. Contains its last state.
    Delete(T),
    /// The server cannot be reached or refuses, with the cause. Sent again when the cause changes. The loop keeps
    /// retrying.
    Disconnected(String),
    /// The kind is being watched: at the beginning, and again after `Disconnected`.
    Connected,
}

/// Follows the objects of one kind. `read` extracts from each what the caller needs. The stream never ends.
pub fn follow<T, P, R>(
    client: &Client,
    subject: &Subject,
    progress: P,
    read: R,
) -> impl Stream<Item = Update<T>> + Send + use<T, P, R>
where
    T: Send + 'static,
    P: Progress + 'static,
    R: Fn(&Value) -> T + Send + Sync + 'static,
{
    stream_of(Loop::new(client.clone(), subject, Box::new(progress), Arc::new(read), Signals::default()))
}

fn stream_of<T: Send + 'static>(start: Loop<T>) -> impl Stream<Item = Update<T>> + Send {
    stream::unfold(start, |mut state| async { Some((state.next().await, state)) })
}

/// A change of the world, or of what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An object was added or modified.
    Apply {
        /// The object.
        object: Object,
        /// The problems of the object.
        diagnostics: Vec<Diagnostic>,
    },
    /// An object was deleted.
    Delete(ObjectKey),
    /// All objects of a kind: at the beginning, and after a gap in the watch. Objects that are not among them were
    /// deleted.
    Reset {
        /// The kind.
        kind: Kind,
        /// All objects of that kind there are.
        objects: Vec<Object>,
        /// The problems of the objects.
        diagnostics: Vec<Diagnostic>,
    },
    /// Every kind has been listed. Sent once, after the first [`Event::Reset`] of the last kind.
    InSync,
    /// The API server cannot be reached or refuses, so the state of the kind becomes stale. Sent again when the cause
    /// changes. The loop keeps retrying.
    Disconnected {
        /// The kind.
        kind: Kind,
        /// The cause.
        error: String,
    },
    /// The kind is being watched: at the beginning, and again after [`Event::Disconnected`].
    Connected {
        /// The kind.
        kind: Kind,
    },
}

/// Watches every kind that policy depends on. The stream never ends.
pub fn objects<P: Progress + Clone + 'static>(
    client: &Client,
    progress: &P,
    intake: &Intake,
) -> impl Stream<Item = Event> + Send + use<P> {
    kinds(client, &Kind::ALL, progress, intake)
}

/// Watches some kinds. The stream never ends. Once the server answers about one kind again, the others ask again too.
pub fn kinds<P: Progress + Clone + 'static>(
    client: &Client,
    kinds: &[Kind],
    progress: &P,
    intake: &Intake,
) -> impl Stream<Item = Event> + Send + use<P> {
    let kinds: BTreeSet<_> = kinds.iter().copied().collect();
    let recovered = Arc::new(Notify::new());
    let loops: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let (kind, admit) = (*kind, Arc::clone(&intake.admit));
            let read = move |object: &Value| {
                let (object, diagnostics) = kind.convert(object);
                (admit(object), intake::first_few(diagnostics))
            };
            let relist = if kind == Kind::NetworkPolicy { Arc::clone(&intake.relist) } else { Arc::default() };
            let signals = Signals { relist, recovered: Arc::clone(&recovered) };
            let progress = Box::new(progress.clone());
            let start = Loop::new(client.clone(), &kind.resource().into(), progress, Arc::new(read), signals);
            stream_of(start).map(move |update| event(kind, update)).boxed()
        })
        .collect();
    stream::select_all(loops)
        .scan(kinds, |missing, event| {
            let was_missing = !missing.is_empty();
            if let Event::Reset { kind, .. } = &event {
                missing.remove(kind);
            }
            let in_sync = (was_missing && missing.is_empty()).then_some(Event::InSync);
            futures::future::ready(Some(stream::iter([Some(event), in_sync].into_iter().flatten())))
        })
        .flatten()
}

fn event(kind: Kind, update: Update<(Object, Vec<Diagnostic>)>) -> Event {
    match update {
        Update::Reset(all) => {
            let (objects, diagnostics): (_, Vec<_>) = all.into_iter().unzip();
            Event::Reset { kind, objects, diagnostics: diagnostics.concat() }
        }
        Update::Apply((object, diagnostics)) => Event::Apply { object, diagnostics },
        Update::Delete((object, _)) => Event::Delete(object.key()),
        Update::Disconnected(error) => Event::Disconnected { kind, error },
        Update::Connected => Event::Connected { kind },
    }
}
