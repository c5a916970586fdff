//! The changes of the recent past, for watches that start in it and lists that go on in it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Key, Object, Scope};

/// The number of changes are remembered. A client that was away for longer lists again.
const CAPACITY: usize = 16_384;

/// Type of an event about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

/// One committed write.
#[derive(Debug)]
pub(crate) struct Change {
    /// The revision it made.
    pub(crate) revision: u64,
    /// Key of the object.
    pub(crate) key: Key,
    /// The type of event.
    pub(crate) event: EventType,
    /// The object after it; its last state if it was deleted.
    pub(crate) object: Object,
    /// The object before it, if there was one.
    pub(crate) old: Option<Object>,
}

/// The revision asked for is no longer (or not yet) known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted;

/// The recent changes in order.
pub(super) struct History {
    changes: VecDeque<Arc<Change>>,
    /// The revision of the last forgotten change: later ones can be told from the history.
    compacted: u64,
}

impl History {
    /// An empty history that begins after a revision.
    pub(super) fn new(compacted: u64) -> Self {
        Self { changes: VecDeque::new(), compacted }
    }

    pub(super) fn push(&mut self, change: Arc<Change>) {
        if self.changes.len() == CAPACITY
            && let Some(forgotten) = self.changes.pop_front()
        {
            self.compacted = forgotten.revision;
        }
        self.changes.push_back(change);
    }

    /// The changes in a scope after a revision. A revision from the future is one of another life of the store, so
    /// that who asks for it has to list again.
    pub(super) fn since(&self, revision: u64, latest: u64, scope: &Scope) -> Result<Vec<Arc<Change>>, Compacted> {
        if revision < self.compacted || revision > latest {
            return Err(Compacted);
        }
        let start = self.changes.partition_point(|change| change.revision <= revision);
        Ok(self.changes.range(start..).filter(|change| scope.contains(&change.key)).cloned().collect())
    }
}
