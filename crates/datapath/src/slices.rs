//! Which slices of the map `breakpoints` hold which blocks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ringfence_engine::Block;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slice {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

/// Allocator with one copy of equal blocks.
///
/// A freed slice may still be read by a packet that found the entry before it went: it is not used again before
/// [`Slices::settle`] is called, which has to be after a grace period of the kernel's RCU.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    free: BTreeMap<u32, u32>,
    unsettled: Vec<Slice>,
    blocks: HashMap<Arc<Block>, (Slice, usize)>,
}

impl Slices {
    pub(crate) fn new(size: u32) -> Self {
        Self { free: BTreeMap::from([(0, size)]), ..Self::default() }
    }

    /// The slice of a block and whether it has to be written first; none if there is no room. Counts one user.
    pub(crate) fn acquire(&mut self, block: &Arc<Block>) -> Option<(Slice, bool)> {
        if let Some((slice, users)) = self.blocks.get_mut(block) {
            *users += 1;
            return Some((*slice, false));
        }
        let count = u32::try_from(block.breakpoints().len()).ok()?;
        let (&start, &length) = self.free.iter().find(|(_, length)| **length >= count)?;
        self.free.remove(&start);
        if length > count {
            self.free.insert(start + count, length - count);
        }
        let slice = Slice { start, count };
        self.blocks.insert(Arc::clone(block), (slice, 1));
        Some((slice, true))
    }

    /// Where a block lies, if it does.
    pub(crate) fn slice(&self, block: &Arc<Block>) -> Option<Slice> {
        self.blocks.get(block).map(|(slice, _)| *slice)
    }

    /// One user of a block less; the last one's leaving frees the slice.
    pub(crate) fn release(&mut self, block: &Arc<Block>) {
        let Some((slice, users)) = self.blocks.get_mut(block) else { return };
        *users -= 1;
        if *users == 0 {
            self.unsettled.push(*slice);
            self.blocks.remove(block);
        }
    }

    /// Takes over a block that already lies somewhere. Returns the one copy of it, or none if the place is taken by
    /// something else. A second copy of a block is accepted by its place in `slice` only.
    pub(crate) fn adopt(&mut self, block: Block, slice: Slice) -> Option<Arc<Block>> {
        let block = Arc::new(block);
        if let Some((known, users)) = self.blocks.get_mut(&block) {
            if *known != slice {
                return None;
            }
            *users += 1;
            return self.blocks.get_key_value(&block).map(|(block, _)| Arc::clone(block));
        }
        let (&start, &length) = self.free.range(..=slice.start).next_back()?;
        let (end, free_end) = (slice.start.checked_add(slice.count)?, start + length);
        if end > free_end {
            return None;
        }
        self.free.remove(&start);
        if slice.start > start {
            self.free.insert(start, slice.start - start);
        }
        if free_end > end {
            self.free.insert(end, free_end - end);
        }
        self.blocks.insert(Arc::clone(&block), (slice, 1));
        Some(block)
    }

    /// Whether freed slices wait for a grace period.
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Lets freed slices be used again, joined with their neighbours.
    pub(crate) fn settle(&mut self) {
        for slice in std::mem::take(&mut self.unsettled) {
            let (mut start, mut count) = (slice.start, slice.count);
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

    /// Elements not in use, unsettled ones included.
    pub(crate) fn available(&self) -> usize {
        let unsettled: u32 = self.unsettled.iter().map(|slice| slice.count).sum();
        (self.free.values().sum::<u32>() + unsettled) as usize
    }
}

#[cfg(test)]
mod tests {
    use ringfence_engine::{Breakpoint, CauseId};

    use super::*;

    fn block(seed: u64, points: u32) -> Arc<Block> {
        let point = |i| Breakpoint { key: i, allow: i % 2 == 0, cause: CauseId(seed) };
        Arc::new(Block::from_sorted((0..points).map(point)))
    }

    #[test]
    fn equal_blocks_share_a_slice_until_the_last_user_leaves() {
        let mut slices = Slices::new(8);
        let (first, fresh) = slices.acquire(&block(1, 3)).unwrap();
        assert!(fresh);
        assert_eq!(slices.acquire(&block(1, 3)), Some((first, false)));
        slices.release(&block(1, 3));
        assert_eq!(slices.available(), 5);
        slices.release(&block(1, 3));
        assert_eq!(slices.available(), 8);
    }

    #[test]
    fn a_freed_slice_is_not_used_before_it_settled_and_then_joins_its_neighbours() {
        let mut slices = Slices::new(6);
        for seed in 1..=3 {
            slices.acquire(&block(seed, 2)).unwrap();
        }
        for seed in [1, 3, 2] {
            slices.release(&block(seed, 2));
        }
        assert_eq!(slices.acquire(&block(4, 2)), None);
        assert!(slices.is_unsettled());
        slices.settle();
        assert_eq!(slices.free, BTreeMap::from([(0, 6)]));
        assert_eq!(slices.acquire(&block(4, 6)), Some((Slice { start: 0, count: 6 }, true)));
    }

    #[test]
    fn adoption_takes_exactly_what_is_used() {
        let mut slices = Slices::new(10);
        let slice = Slice { start: 4, count: 2 };
        let adopted = slices.adopt(Block::clone(&block(1, 2)), slice).unwrap();
        assert!(slices.adopt(Block::clone(&block(1, 2)), slice).is_some());
        assert_eq!(slices.adopt(Block::clone(&block(2, 2)), Slice { start: 5, count: 2 }), None, "overlap");
        assert_eq!(slices.adopt(Block::clone(&block(2, 2)), Slice { start: 9, count: 2 }), None, "past the end");
        assert_eq!(slices.available(), 8);
        assert_eq!(slices.acquire(&adopted), Some((slice, false)));
    }
}
