//! Accounting: the space that the port tables of all rulesets take up, admitted or not.

use std::sync::Arc;

use foldhash::HashMap;

use crate::PortTable;

/// The stored part of a port table.
#[derive(Clone, Debug)]
pub(super) enum StoredTable {
    /// The whole table.
    Whole(Arc<PortTable>),
    /// Identity and size of the table of a ruleset that is not admitted.
    Fingerprint(Fingerprint),
}

/// The identity of a port table, and the number of its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fingerprint {
    pub(super) table: u64,
    pub(super) ranges: u32,
}

impl Fingerprint {
    pub(super) fn of(table: &PortTable) -> Self {
        Self { table: table.fingerprint(), ranges: u32::try_from(table.ranges().len()).unwrap_or(u32::MAX) }
    }
}

impl StoredTable {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Whole(table) => Fingerprint::of(table),
            Self::Fingerprint(fingerprint) => *fingerprint,
        }
    }

    pub(super) fn table(&self) -> Option<&Arc<PortTable>> {
        match self {
            Self::Whole(table) => Some(table),
            Self::Fingerprint(_) => None,
        }
    }
}

/// Sums over the port tables of all rulesets.
#[derive(Debug, Default)]
pub(super) struct TableAccounting {
    tables: HashMap<u64, Uses>,
    /// Policy entries; equal tables of different rulesets and peer sets count each.
    pub(super) entries: usize,
    /// Port ranges of different port tables.
    pub(super) ranges: usize,
    /// Port ranges of different tables that are stored whole and take up memory.
    pub(super) whole: usize,
    /// The sums have changed since the last call of [`Self::take_changed`].
    changed: bool,
}

/// The number of references to a port table, and those to the whole table.
#[derive(Debug, Default)]
struct Uses {
    all: u32,
    whole: u32,
}

impl TableAccounting {
    /// Adds a policy entry.
    pub(super) fn add(&mut self, stored: &StoredTable) {
        self.changed = true;
        self.entries += 1;
        let fingerprint = stored.fingerprint();
        let uses = self.tables.entry(fingerprint.table).or_default();
        uses.all += 1;
        self.ranges += if uses.all == 1 { fingerprint.ranges as usize } else { 0 };
        if stored.table().is_some() {
            uses.whole += 1;
            self.whole += if uses.whole == 1 { fingerprint.ranges as usize } else { 0 };
        }
    }

    /// Removes a policy entry.
    pub(super) fn remove(&mut self, stored: &StoredTable) {
        self.changed = true;
        self.entries -= 1;
        let fingerprint = stored.fingerprint();
        let Some(uses) = self.tables.get_mut(&fingerprint.table) else { return };
        if stored.table().is_some() {
            uses.whole -= 1;
            self.whole -= if uses.whole == 0 { fingerprint.ranges as usize } else { 0 };
        }
        uses.all -= 1;
        if uses.all == 0 {
            self.tables.remove(&fingerprint.table);
            self.ranges -= fingerprint.ranges as usize;
        }
    }

    /// Marks a change of the limits.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// Returns true if the sums have changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortVerdict, RuleId};

    #[test]
    fn equal_blocks_count_once_and_prints_as_much_as_what_they_are_of() {
        let table = |rule_id| {
            let range = |key| PortVerdict { key, allow: key % 2 == 0, rule_id: RuleId(rule_id) };
            StoredTable::Whole(Arc::new(PortTable::from_sorted((0..4).map(range))))
        };
        let mut accounting = TableAccounting::default();
        let (one, other) = (table(100), table(101));
        let fingerprint = StoredTable::Fingerprint(one.fingerprint());
        for stored in [&one, &fingerprint, &other, &one] {
            accounting.add(stored);
        }
        assert_eq!((accounting.entries, accounting.ranges, accounting.whole), (4, 8, 8));
        accounting.remove(&one);
        accounting.remove(&one);
        assert_eq!((accounting.entries, accounting.ranges, accounting.whole), (2, 8, 4), "the print is left");
        accounting.remove(&fingerprint);
        accounting.remove(&other);
        assert_eq!((accounting.entries, accounting.ranges, accounting.whole), (0, 0, 0));
        assert!(accounting.take_changed() && !accounting.take_changed());
    }
}
