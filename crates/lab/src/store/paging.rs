//! Lists at a past revision, which is what the pages after the first are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Compacted, Key, Object, Scope, Store};

impl Store {
    /// The objects of a scope as they were at a revision, from after a key on: the present less the changes since.
    pub(crate) fn list_at(
        &self,
        scope: &Scope,
        revision: u64,
        after: Option<&Key>,
    ) -> Result<Vec<(Key, Object)>, Compacted> {
        let inner = self.inner.lock();
        let changes = inner.history.since(revision, inner.revision, scope)?;
        let mut objects: BTreeMap<Key, Object> = inner.objects.entries(scope).into_iter().collect();
        drop(inner);
        for change in changes.iter().rev() {
            match &change.old {
                Some(old) => objects.insert(change.key.clone(), Arc::clone(old)),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects.into_iter().filter(|(key, _)| after.is_none_or(|after| key > after)).collect())
    }
}
