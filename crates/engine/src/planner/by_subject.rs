//! Policies whose subjects are about the same namespaces, found by the labels their subjects ask for.
//!
//! Two pods of one namespace are selected by the same policies, those aside whose subjects ask for a label in which the
//! two differ. So what selects one is found by what selects the other, without a look at all policies.

use std::collections::BTreeSet;

use foldhash::HashMap;

use super::policy::Policy;
use super::strings::{Condition, Sym};

/// Numbers of policies.
#[derive(Debug, Default)]
pub(super) struct BySubject {
    all: Vec<u32>,
    /// By the keys of labels that the pod selectors of their subjects speak of.
    asking: HashMap<Sym, Vec<u32>>,
}

impl BySubject {
    pub(super) fn insert(&mut self, number: u32, policy: &Policy) {
        self.all.push(number);
        for key in keys(policy) {
            self.asking.entry(key).or_default().push(number);
        }
    }

    pub(super) fn remove(&mut self, number: u32, policy: &Policy) {
        self.all.retain(|other| *other != number);
        for key in keys(policy) {
            let Some(asking) = self.asking.get_mut(&key) else { continue };
            asking.retain(|other| *other != number);
            if asking.is_empty() {
                self.asking.remove(&key);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.all.iter().copied()
    }

    /// Those that speak of a label with this key.
    pub(super) fn asking(&self, key: Sym) -> &[u32] {
        self.asking.get(&key).map_or(&[], Vec::as_slice)
    }
}

fn keys(policy: &Policy) -> BTreeSet<Sym> {
    policy.subject.pods.iter().map(Condition::key).collect()
}
