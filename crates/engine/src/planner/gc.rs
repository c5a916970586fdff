//! Garbage collection of strings, peer selectors, peer sets and namespaces.
//!
//! Strings, peer selectors and peer sets keep their numbers after their last use, because references are compared by
//! number. When there may be as much garbage as live objects, all live objects are marked and the rest is dropped. The
//! effort per event is constant on average.

use foldhash::HashSet;
use std::sync::Arc;

use super::strings::Sym;
use super::{Planner, Scope};

/// A garbage collection does not pay below this number of objects.
const MIN_OBJECTS: usize = 1 << 14;

impl Planner {
    fn object_count(&self) -> usize {
        self.strings.len()
            + self.peer_selectors.len()
            + self.peer_sets.len()
            + self.tables.len()
            + self.namespaces.len()
    }

    /// Collects garbage if there may be as much of it as live objects. Nothing may be marked for a commit.
    pub(super) fn gc_if_due(&mut self) {
        if self.object_count() > 2 * self.objects_after_gc + MIN_OBJECTS {
            self.gc();
        }
    }

    /// Collects garbage at once, for tests. Nothing may be marked, so call it right after a commit.
    #[cfg(feature = "testing")]
    pub fn gc_now(&mut self) {
        self.gc();
    }

    /// Drops all unused objects.
    pub(super) fn gc(&mut self) {
        let live: HashSet<u32> = self.pods.identities.iter().map(|(_, identity)| identity.peer_set).collect();
        self.peer_sets.retain(&live);
        let live: HashSet<u32> =
            self.peer_sets.iter().flat_map(|peer_set| peer_set.content.peer_selectors.iter().copied()).collect();
        self.peer_selectors.retain(&live);
        self.namespaces.retain(|_, namespace| {
            namespace.labels.is_some()
                || !namespace.identities.is_empty()
                || !namespace.policies.is_empty()
                || !namespace.candidates.is_empty()
        });
        let live = self.symbols();
        self.strings.retain(&live);
        self.tables.retain(|table| Arc::strong_count(table) > 1);
        self.objects_after_gc = self.object_count();
    }

    fn symbols(&self) -> HashSet<Sym> {
        let mut live = self.pods.symbols();
        live.extend(self.peer_selectors.symbols());
        live.extend(self.hosts.symbols());
        for (name, namespace) in &self.namespaces {
            live.insert(*name);
            live.extend(namespace.labels.iter().flatten().flat_map(|(key, value)| [*key, *value]));
        }
        for number in self.policies.by_id.values() {
            let policy = &self.policies.slab[*number];
            live.extend(policy.symbols());
            live.extend(policy.id.namespace.as_ref().and_then(|name| self.strings.get(name)));
        }
        if let Scope::Node(name) = &self.scope {
            live.extend(self.strings.get(name));
        }
        live
    }
}
