//! A kernel map whose whole content is told at once, and of which only the difference is written.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use crate::table::{Raw, Table};
use crate::{ApplyError, Error};

/// A pinned kernel map, and what it holds as far as that is known.
#[derive(Debug)]
pub(crate) struct Mirror<K, V> {
    table: Table<K, V>,
    /// None until it was read, and after a write that failed.
    held: Option<HashMap<K, V>>,
}

impl<K: Raw + Eq + Hash, V: Raw + PartialEq> Mirror<K, V> {
    pub(crate) fn open(directory: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { table: Table::open(directory, name)?, held: None })
    }

    /// What the kernel holds.
    pub(crate) fn held(&mut self) -> Result<&HashMap<K, V>, ApplyError> {
        if self.held.is_none() {
            self.held = Some(self.table.dump()?.into_iter().collect());
        }
        Ok(self.held.get_or_insert_default())
    }

    /// Makes the map hold exactly this; true if anything differed. What goes does so before what is new comes, so that
    /// also a full map can be changed.
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
