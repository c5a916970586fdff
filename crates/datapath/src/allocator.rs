//! Allocator for the map `port_ranges`: the extent of the map that holds each port table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ringfence_engine::PortTable;

/// A contiguous part of the map `port_ranges`, which holds one port table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Extent {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

/// Allocator that stores equal port tables once.
///
/// A packet that found the policy entry before it was removed may still read a freed extent. The extent is therefore
/// not reused before [`PortTableAllocator::reclaim`] is called, and the caller waits for a grace period of the kernel's
/// RCU first.
#[derive(Debug, Default)]
pub(crate) struct PortTableAllocator {
    free: BTreeMap<u32, u32>,
    pending_free: Vec<Extent>,
    tables: HashMap<Arc<PortTable>, (Extent, usize)>,
}

impl PortTableAllocator {
    pub(crate) fn new(size: u32) -> Self {
        Self { free: BTreeMap::from([(0, size)]), ..Self::default() }
    }

    /// Returns the extent of a port table, and true if the table has to be written first. Returns none if there is no
    /// room. Adds one reference.
    pub(crate) fn acquire(&mut self, table: &Arc<PortTable>) -> Option<(Extent, bool)> {
        if let Some((extent, users)) = self.tables.get_mut(table) {
            *users += 1;
            return Some((*extent, false));
        }
        let count = u32::try_from(table.ranges().len()).ok()?;
        let (&start, &length) = self.free.iter().find(|(_, length)| **length >= count)?;
        self.free.remove(&start);
        if length > count {
            self.free.insert(start + count, length - count);
        }
        let extent = Extent { start, count };
        self.tables.insert(Arc::clone(table), (extent, 1));
        Some((extent, true))
    }

    /// Returns the extent of a port table that is stored.
    pub(crate) fn extent(&self, table: &Arc<PortTable>) -> Option<Extent> {
        self.tables.get(table).map(|(extent, _)| *extent)
    }

    /// Drops one reference to a port table. The last one frees the extent.
    pub(crate) fn release(&mut self, table: &Arc<PortTable>) {
        let Some((extent, users)) = self.tables.get_mut(table) else { return };
        *users -= 1;
        if *users == 0 {
            self.pending_free.push(*extent);
            self.tables.remove(table);
        }
    }

    /// Takes over a port table that the kernel already holds. Returns the shared copy, or none if another table
    /// occupies the extent. A second copy of an equal table is accepted only at the extent of the first.
    pub(crate) fn adopt(&mut self, table: PortTable, extent: Extent) -> Option<Arc<PortTable>> {
        let table = Arc::new(table);
        if let Some((known, users)) = self.tables.get_mut(&table) {
            if *known != extent {
                return None;
            }
            *users += 1;
            return self.tables.get_key_value(&table).map(|(table, _)| Arc::clone(table));
        }
        let (&start, &length) = self.free.range(..=extent.start).next_back()?;
        let (end, free_end) = (extent.start.checked_add(extent.count)?, start + length);
        if end > free_end {
            return None;
        }
        self.free.remove(&start);
        if extent.start > start {
            self.free.insert(start, extent.start - start);
        }
        if free_end > end {
            self.free.insert(end, free_end - end);
        }
        self.tables.insert(Arc::clone(&table), (extent, 1));
        Some(table)
    }

    /// True if freed extents wait for a grace period.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending_free.is_empty()
    }

    /// Makes freed extents available again, merged with their neighbours.
    pub(crate) fn reclaim(&mut self) {
        for extent in std::mem::take(&mut self.pending_free) {
            let (mut start, mut count) = (extent.start, extent.count);
            if let Some((&before, &length)) = self.free.range(..start).next_back()
                && before + length == start
            {
                self.free.remove(&before);
                (start, count) = (before, length + count);
            }
            if let Some(length) = self.free.remove(&(start + count)) {
                count += length;
            }
            self.free.insert(start, count);
        }
    }

    /// Elements that hold no port table, including those that wait for a grace period.
    pub(crate) fn available(&self) -> usize {
        let pending_free: u32 = self.pending_free.iter().map(|extent| extent.count).sum();
        (self.free.values().sum::<u32>() + pending_free) as usize
    }
}

#[cfg(test)]
mod tests {
    use ringfence_engine::{PortVerdict, RuleId};

    use super::*;

    fn table(seed: u64, ranges: u32) -> Arc<PortTable> {
        let range = |i| PortVerdict { key: i, allow: i % 2 == 0, rule_id: RuleId(seed) };
        Arc::new(PortTable::from_sorted((0..ranges).map(range)))
    }

    #[test]
    fn equal_blocks_share_a_slice_until_the_last_user_leaves() {
        let mut allocator = PortTableAllocator::new(8);
        let (first, fresh) = allocator.acquire(&table(1, 3)).unwrap();
        assert!(fresh);
        assert_eq!(allocator.acquire(&table(1, 3)), Some((first, false)));
        allocator.release(&table(1, 3));
        assert_eq!(allocator.available(), 5);
        allocator.release(&table(1, 3));
        assert_eq!(allocator.available(), 8);
    }

    #[test]
    fn a_freed_slice_is_not_used_before_it_settled_and_then_joins_its_neighbours() {
        let mut allocator = PortTableAllocator::new(6);
        for seed in 1..=3 {
            allocator.acquire(&table(seed, 2)).unwrap();
        }
        for seed in [1, 3, 2] {
            allocator.release(&table(seed, 2));
        }
        assert_eq!(allocator.acquire(&table(4, 2)), None);
        assert!(allocator.has_pending());
        allocator.reclaim();
        assert_eq!(allocator.free, BTreeMap::from([(0, 6)]));
        assert_eq!(allocator.acquire(&table(4, 6)), Some((Extent { start: 0, count: 6 }, true)));
    }

    #[test]
    fn adoption_takes_exactly_what_is_used() {
        let mut allocator = PortTableAllocator::new(10);
        let extent = Extent { start: 4, count: 2 };
        let adopted = allocator.adopt(PortTable::clone(&table(1, 2)), extent).unwrap();
        assert!(allocator.adopt(PortTable::clone(&table(1, 2)), extent).is_some());
        assert_eq!(allocator.adopt(PortTable::clone(&table(2, 2)), Extent { start: 5, count: 2 }), None, "overlap");
        assert_eq!(
            allocator.adopt(PortTable::clone(&table(2, 2)), Extent { start: 9, count: 2 }),
            None,
            "past the end"
        );
        assert_eq!(allocator.available(), 8);
        assert_eq!(allocator.acquire(&adopted), Some((extent, false)));
    }
}
