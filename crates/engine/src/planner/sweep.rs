//! Sweep: forgets what churn leaves behind.
//!
//! Strings, atoms and classes keep their numbers after their last use, because whatever refers to them is compared by
//! number. Now and then, when there may be as much garbage as there is use, everything in use is marked and the rest
//! forgotten: constant effort per event on average.

use foldhash::HashSet;
use std::sync::Arc;

use super::strings::Sym;
use super::{Planner, Scope};

/// No sweep pays below this many objects.
const LEAST: usize = 1 << 14;

impl Planner {
    fn kept(&self) -> usize {
        self.strings.len() + self.atoms.len() + self.classes.len() + self.blocks.len() + self.namespaces.len()
    }

    /// Sweeps if there may be as much garbage as there is use. Only when nothing is marked.
    pub(super) fn sweep_if_due(&mut self) {
        if self.kept() > 2 * self.swept + LEAST {
            self.sweep();
        }
    }

    /// Sweeps at once, for tests: of its own accord a commit does that only now and then. Nothing may be marked, so
    /// call it right after a commit.
    #[cfg(feature = "testing")]
    pub fn sweep_now(&mut self) {
        self.sweep();
    }

    /// Forgets what nothing uses.
    pub(super) fn sweep(&mut self) {
        let live: HashSet<u32> = self.pods.identities.iter().map(|(_, identity)| identity.class).collect();
        self.classes.retain(&live);
        let live: HashSet<u32> = self.classes.iter().flat_map(|class| class.content.atoms.iter().copied()).collect();
        self.atoms.retain(&live);
        self.namespaces.retain(|_, namespace| {
            namespace.labels.is_some()
                || !namespace.identities.is_empty()
                || !namespace.policies.is_empty()
                || !namespace.candidates.is_empty()
        });
        let live = self.symbols();
        self.strings.retain(&live);
        self.blocks.retain(|block| Arc::strong_count(block) > 1);
        self.swept = self.kept();
    }

    fn symbols(&self) -> HashSet<Sym> {
        let mut live = self.pods.symbols();
        live.extend(self.atoms.symbols());
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
