//! Index of policies by the labels in their subject selectors, for policies about the same namespaces.
//!
//! Two pods of one namespace are selected by the same policies, except for those whose subject refers to a label in
//! which the two differ. So the policies of one pod lead to those of the other without matching all policies.

use std::collections::BTreeSet;

use foldhash::HashMap;

use super::policy::Policy;
use super::strings::{Condition, Sym};

/// Numbers of policies.
#[derive(Debug, Default)]
pub(super) struct SubjectIndex {
    all: Vec<u32>,
    /// By the label keys in the pod selectors of their subjects.
    asking: HashMap<Sym, Vec<u32>>,
}

impl SubjectIndex {
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

    /// The policies with this label key in their subject.
    pub(super) fn asking(&self, key: Sym) -> &[u32] {
        self.asking.get(&key).map_or(&[], Vec::as_slice)
    }
}

fn keys(policy: &Policy) -> BTreeSet<Sym> {
    policy.subject.pods.iter().map(Condition::key).collect()
}
