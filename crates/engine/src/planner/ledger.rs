//! The ledger: how much room the decisions of all rulesets take up, admitted or not.

use std::sync::Arc;

use foldhash::HashMap;

use crate::Block;

/// What is kept of a decision.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// All of it.
    Whole(Arc<Block>),
    /// That there is one, and its size: of a ruleset that is not admitted.
    Print(Print),
}

/// Which block it is, and how many breakpoints it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Print {
    pub(super) block: u64,
    pub(super) points: u32,
}

impl Print {
    pub(super) fn of(block: &Block) -> Self {
        Self { block: block.print(), points: u32::try_from(block.breakpoints().len()).unwrap_or(u32::MAX) }
    }
}

impl Held {
    pub(super) fn print(&self) -> Print {
        match self {
            Self::Whole(block) => Print::of(block),
            Self::Print(print) => *print,
        }
    }

    pub(super) fn block(&self) -> Option<&Arc<Block>> {
        match self {
            Self::Whole(block) => Some(block),
            Self::Print(_) => None,
        }
    }
}

/// Sums over the decisions of all rulesets.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    blocks: HashMap<u64, Uses>,
    /// Decisions, equal ones of different rulesets and classes each.
    pub(super) entries: usize,
    /// Breakpoints of different blocks.
    pub(super) points: usize,
    /// The same of those that are kept whole: what they take up in memory.
    pub(super) whole: usize,
    /// Something changed since somebody asked.
    changed: bool,
}

/// How often a block is used, and how often as a whole one.
#[derive(Debug, Default)]
struct Uses {
    all: u32,
    whole: u32,
}

impl Ledger {
    /// A decision comes.
    pub(super) fn enter(&mut self, held: &Held) {
        self.changed = true;
        self.entries += 1;
        let print = held.print();
        let uses = self.blocks.entry(print.block).or_default();
        uses.all += 1;
        self.points += if uses.all == 1 { print.points as usize } else { 0 };
        if held.block().is_some() {
            uses.whole += 1;
            self.whole += if uses.whole == 1 { print.points as usize } else { 0 };
        }
    }

    /// A decision goes.
    pub(super) fn leave(&mut self, held: &Held) {
        self.changed = true;
        self.entries -= 1;
        let print = held.print();
        let Some(uses) = self.blocks.get_mut(&print.block) else { return };
        if held.block().is_some() {
            uses.whole -= 1;
            self.whole -= if uses.whole == 0 { print.points as usize } else { 0 };
        }
        uses.all -= 1;
        if uses.all == 0 {
            self.blocks.remove(&print.block);
            self.points -= print.points as usize;
        }
    }

    /// What there is room for is another matter now.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// Whether anything changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Breakpoint, CauseId};

    #[test]
    fn equal_blocks_count_once_and_prints_as_much_as_what_they_are_of() {
        let block = |cause| {
            let point = |key| Breakpoint { key, allow: key % 2 == 0, cause: CauseId(cause) };
            Held::Whole(Arc::new(Block::from_sorted((0..4).map(point))))
        };
        let mut ledger = Ledger::default();
        let (one, other) = (block(100), block(101));
        let print = Held::Print(one.print());
        for held in [&one, &print, &other, &one] {
            ledger.enter(held);
        }
        assert_eq!((ledger.entries, ledger.points, ledger.whole), (4, 8, 8));
        ledger.leave(&one);
        ledger.leave(&one);
        assert_eq!((ledger.entries, ledger.points, ledger.whole), (2, 8, 4), "the print is left");
        ledger.leave(&print);
        ledger.leave(&other);
        assert_eq!((ledger.entries, ledger.points, ledger.whole), (0, 0, 0));
        assert!(ledger.take_changed() && !ledger.take_changed());
    }
}
