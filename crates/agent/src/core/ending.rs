//! Policies in force of namespaces that are being deleted.
//!
//! Before Kubernetes 1.33, and wherever somebody deletes by hand, the policies of a namespace may be gone before its
//! pods are. So NetworkPolicies that go while their namespace is being deleted stand until its pods on this node are
//! gone. An agent that starts in between cannot know them: it closes the pods of such a namespace that has no policy
//! left.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_model::{Name, Object, ObjectKey, PolicyId};

use super::state::Core;

/// NetworkPolicies whose objects are gone, and namespaces of which nothing is left.
#[derive(Debug, Default)]
pub(super) struct Ending {
    policies: BTreeSet<PolicyId>,
    unguarded: BTreeSet<Name>,
}

impl Ending {
    /// The object of a policy is there.
    pub(super) fn is_there(&mut self, id: &PolicyId) {
        self.policies.remove(id);
    }

    /// The object of a policy is gone.
    pub(super) fn is_gone(&mut self, id: &PolicyId) {
        self.policies.insert(id.clone());
    }

    /// True if the policies that the pods of a namespace had are not known.
    pub(super) fn is_unguarded(&self, namespace: &Name) -> bool {
        self.unguarded.contains(namespace)
    }

    /// The namespaces of which policies stand, and how many.
    pub(super) fn standing(&self) -> BTreeMap<&Name, usize> {
        let mut counts = BTreeMap::new();
        for namespace in self.policies.iter().filter_map(|id| id.namespace.as_ref()) {
            *counts.entry(namespace).or_default() += 1;
        }
        counts
    }

    /// The namespaces whose pods are closed.
    pub(super) fn unguarded(&self) -> impl Iterator<Item = &Name> {
        self.unguarded.iter()
    }
}

impl Core {
    /// Closes the pods of namespaces that were being deleted, and had no policy left, before this agent saw any.
    pub(super) fn close_unguarded(&mut self) {
        self.ending.unguarded = self.index.ending_without_policies().into_iter().collect();
        let closed: Vec<_> = self.ending.unguarded.iter().flat_map(|name| self.index.local_pods_of(name)).collect();
        for pod in closed {
            self.plan(Object::Pod(pod));
        }
    }

    /// Lets policies go whose objects are gone, unless their namespace is being deleted and pods of it still run here.
    pub(super) fn release_policies(&mut self) {
        let Self { ending, index, .. } = self;
        ending.unguarded.retain(|namespace| index.is_ending(namespace));
        let stands = |id: &PolicyId| id.namespace.as_ref().is_some_and(|namespace| index.is_ending(namespace));
        let gone: Vec<_> = ending.policies.iter().filter(|id| !stands(id)).cloned().collect();
        for id in gone {
            self.ending.policies.remove(&id);
            self.remove(&ObjectKey::Policy(id));
        }
    }
}
