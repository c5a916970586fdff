//! Everything policy depends on, as it changes in a live cluster.
//!
//! Each kind has a list-then-watch loop of its own (see `loop`), and this stream merges them. Nothing is held back: an
//! event is there as soon as the API server's line has been read. A reader that wants to take bursts together uses
//! [`ready_chunks`](futures::StreamExt::ready_chunks), which never waits for more than is there.

mod arrival;
mod backoff;
mod r#loop;
mod raw;

use std::collections::BTreeSet;

use futures::stream::{self, Stream, StreamExt as _};
use kube::Client;
use ringfence_model::{Object, ObjectKey};

use crate::convert::Kind;
use crate::diagnostic::Diagnostic;
use r#loop::Loop;

/// A change of the world, or of what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An object is new or has changed.
    Apply {
        /// The object.
        object: Object,
        /// What was not understood in it.
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
        /// What was not understood in them.
        diagnostics: Vec<Diagnostic>,
    },
    /// Every kind has been listed. Comes once, after the first [`Event::Reset`] of the last kind.
    InSync,
    /// The API server cannot be reached or refuses; what is known of the kind grows old. Comes again when the cause
    /// changes. Attempts go on.
    Disconnected {
        /// The kind.
        kind: Kind,
        /// Why.
        error: String,
    },
    /// The kind is being watched: at the beginning, and again after [`Event::Disconnected`].
    Connected {
        /// The kind.
        kind: Kind,
    },
}

/// Watches every kind that policy depends on. The stream never ends.
pub fn objects(client: &Client) -> impl Stream<Item = Event> + Send + use<> {
    kinds(client, &Kind::ALL)
}

/// Watches some kinds. The stream never ends.
pub fn kinds(client: &Client, kinds: &[Kind]) -> impl Stream<Item = Event> + Send + use<> {
    let kinds: BTreeSet<_> = kinds.iter().copied().collect();
    let loops: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let start = Loop::new(client.clone(), *kind);
            stream::unfold(start, |mut state| async { Some((state.next().await, state)) }).boxed()
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
