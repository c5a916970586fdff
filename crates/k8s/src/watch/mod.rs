//! Everything policy depends on, as it changes in a live cluster.
//!
//! Each kind has a list-then-watch loop of its own (see `loop`), and this stream merges them. Nothing is held back: an
//! event is there as soon as the API server's line has been read. A reader that wants to take bursts together uses
//! [`ready_chunks`](futures::StreamExt::ready_chunks), which never waits for more than is there.
//!
//! A cluster has as many of these streams as nodes. So lists are asked from what the server has at hand, not from its
//! storage; and as that may be old, [`Progress`] says how old it may be.

mod arrival;
mod ask;
mod backoff;
mod intake;
mod line;
mod list;
mod r#loop;
mod refusal;
#[cfg(test)]
mod tests;

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

/// The age that a list may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Floor {
    /// Whatever the server has at hand: nothing was ever carried out.
    Any,
    /// Not older than a version, up to which everything may have been carried out.
    NotOlderThan(String),
    /// The newest list: something was carried out, and its version is unknown.
    Newest,
}

/// Remembers how far the streams have come, so that those after a restart do not go back.
pub trait Progress: Send + Sync {
    /// The age that the first list of a kind may have, by the plural name of the kind.
    fn floor(&self, plural: &str) -> Floor;

    /// Records that everything of a kind up to a version is about to be delivered.
    fn reached(&self, plural: &str, version: &str);
}

/// Remembers nothing: every stream begins with what the server has at hand.
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
    /// The namespace they are in; none: all.
    pub namespace: Option<String>,
    /// Selector of labels, as in a query; none: all.
    pub labels: Option<String>,
    /// Selector of fields, as in a query; none: all.
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
pub enum News<T> {
    /// All there are: at the beginning, and after a gap. Those not among them are gone.
    Reset(Vec<T>),
    /// One is new or has changed.
    Put(T),
    /// One is gone; as it was last.
    Gone(T),
    /// The server cannot be reached or refuses, with the cause. Sent again when the cause changes. Attempts go on.
    Disconnected(String),
    /// The kind is being watched: at the beginning, and again after `Disconnected`.
    Connected,
}

/// Follows objects of one kind; `read` takes from each what is worth knowing. The stream never ends.
pub fn follow<T, P, R>(
    client: &Client,
    subject: &Subject,
    progress: P,
    read: R,
) -> impl Stream<Item = News<T>> + Send + use<T, P, R>
where
    T: Send + 'static,
    P: Progress + 'static,
    R: Fn(&Value) -> T + Send + Sync + 'static,
{
    stream_of(Loop::new(client.clone(), subject, Box::new(progress), Arc::new(read), Signals::default()))
}

fn stream_of<T: Send + 'static>(start: Loop<T>) -> impl Stream<Item = News<T>> + Send {
    stream::unfold(start, |mut state| async { Some((state.next().await, state)) })
}

/// A change of the world, or of what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An object is new or has changed.
    Apply {
        /// The object.
        object: Object,
        /// The problems of the object.
        diagnostics: Vec<Diagnostic>,
    },
    /// An object is gone.
    Delete(ObjectKey),
    /// All objects of a kind: at the beginning, and after a gap in the watch. Those not among them are gone.
    Reset {
        /// The kind.
        kind: Kind,
        /// All objects of that kind there are.
        objects: Vec<Object>,
        /// The problems of the objects.
        diagnostics: Vec<Diagnostic>,
    },
    /// Every kind has been listed. Comes once, after the first [`Event::Reset`] of the last kind.
    InSync,
    /// The API server cannot be reached or refuses, so the state of the kind becomes stale. Sent again when the cause
    /// changes. Attempts go on.
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
            stream_of(start).map(move |news| event(kind, news)).boxed()
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

fn event(kind: Kind, news: News<(Object, Vec<Diagnostic>)>) -> Event {
    match news {
        News::Reset(all) => {
            let (objects, diagnostics): (_, Vec<_>) = all.into_iter().unzip();
            Event::Reset { kind, objects, diagnostics: diagnostics.concat() }
        }
        News::Put((object, diagnostics)) => Event::Apply { object, diagnostics },
        News::Gone((object, _)) => Event::Delete(object.key()),
        News::Disconnected(error) => Event::Disconnected { kind, error },
        News::Connected => Event::Connected { kind },
    }
}
