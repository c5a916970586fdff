//! Labels of namespaces, pods and nodes.

use std::collections::BTreeMap;

use crate::Name;

/// A label set: keys are unique, order does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(BTreeMap<Name, Name>);

impl Labels {
    /// The value of `key`, if the object has it.
    pub fn get(&self, key: &str) -> Option<&Name> {
        self.0.get(key)
    }

    /// Sets `key` to `value`, replacing what was there.
    pub fn insert(&mut self, key: impl Into<Name>, value: impl Into<Name>) {
        self.0.insert(key.into(), value.into());
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Name)> {
        self.0.iter()
    }

    /// True if there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Name>, V: Into<Name>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}
