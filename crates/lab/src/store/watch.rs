//! Watchers: every commit is pushed to those it concerns, under the store's lock, so that all see one order.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Change, Scope};

/// Number of events that a watcher may lag before it is cut off. It then watches again from where it was.
const LAG: usize = 8_192;

/// A signal to a watcher.
#[derive(Clone, Debug)]
pub(crate) enum Signal {
    /// Something changed.
    Change(Arc<Change>),
    /// Everything up to this revision has been told.
    Progress(u64),
}

/// A watch: what had happened already, then what happens.
pub(crate) struct Watch {
    /// Changes between the revision asked for and the beginning of the watch.
    pub(crate) backlog: Vec<Arc<Change>>,
    /// Changes since; ends when the watcher has fallen too far behind.
    pub(crate) receiver: mpsc::Receiver<Signal>,
    /// The revision at which the watch began.
    pub(crate) revision: u64,
}

#[derive(Default)]
pub(super) struct Watchers(Vec<(Scope, mpsc::Sender<Signal>)>);

impl Watchers {
    pub(super) fn add(&mut self, scope: Scope, backlog: Vec<Arc<Change>>, revision: u64) -> Watch {
        let (sender, receiver) = mpsc::channel(LAG);
        self.0.push((scope, sender));
        Watch { backlog, receiver, revision }
    }

    pub(super) fn send(&mut self, change: &Arc<Change>) {
        // Who is gone or too slow is forgotten; dropping the sender ends its stream.
        self.0.retain(|(scope, sender)| {
            if scope.contains(&change.key) {
                sender.try_send(Signal::Change(Arc::clone(change))).is_ok()
            } else {
                !sender.is_closed()
            }
        });
    }

    pub(super) fn progress(&mut self, revision: u64) {
        self.0.retain(|(_, sender)| sender.try_send(Signal::Progress(revision)).is_ok());
    }
}
