//! A kernel map whose whole content is set at once. Only the difference is written.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use crate::typed_map::{MapBytes, TypedMap};
use crate::{ApplyError, Error};

/// A pinned kernel map, and its content as far as it is known.
#[derive(Debug)]
pub(crate) struct SyncedMap<K, V> {
    table: TypedMap<K, V>,
    /// None before the first read, and after a write that failed.
    held: Option<HashMap<K, V>>,
}

impl<K: MapBytes + Eq + Hash, V: MapBytes + PartialEq> SyncedMap<K, V> {
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { table: TypedMap::open(directory, name)?, held: None })
    }

    /// Returns the content of the kernel map.
    pub(crate) fn held(&mut self) -> Result<&HashMap<K, V>, ApplyError> {
        if self.held.is_none() {
            self.held = Some(self.table.dump()?.into_iter().collect());
        }
        Ok(self.held.get_or_insert_default())
    }

    /// Makes the map hold exactly these elements. Returns true if anything differed. Old elements are deleted before
    /// new ones are written, so a full map can be changed too.
    pub(crate) fn set(&mut self, wanted: HashMap<K, V>) -> Result<bool, ApplyError> {
        let (map, size) = (self.table.name(), self.table.capacity());
        if wanted.len() > size {
            return Err(ApplyError::NoCapacity { map, needed: wanted.len(), available: size });
        }
        let held = self.held()?;
        let gone: Vec<K> = held.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        let differs = |(key, value): &(&K, &V)| held.get(key) != Some(value);
        let new: Vec<(K, V)> = wanted.iter().filter(differs).map(|(key, value)| (*key, *value)).collect();
        if gone.is_empty() && new.is_empty() {
            return Ok(false);
        }
        self.held = None;
        self.table.delete_all(&gone)?;
        self.table.put_all(&new)?;
        self.held = Some(wanted);
        Ok(true)
    }
}
