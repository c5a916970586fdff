//! The decision of one ruleset about one peer set, as a function of protocol and destination port.

use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::LazyLock;

use foldhash::quality::RandomState;
use ringfence_model::Protocol;

use crate::RuleId;

/// The hasher of fingerprints, one per process: equal tables have equal fingerprints. It is random, so that no attacker
/// can make two tables with the same fingerprint.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// A piecewise constant function over `protocol << 16 | port` (24 bits). Each entry decides from its key up to the next
/// one. Entries are sorted, the first has key 0, and neighbours differ, so equal functions are equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTable {
    fingerprint: u64,
    ranges: Box<[PortVerdict]>,
}

/// An entry of a port table: the verdict from this key up to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortVerdict {
    /// The first `protocol << 16 | port` of the entry.
    pub key: u32,
    /// Allow or drop.
    pub allow: bool,
    /// The rule that decided.
    pub rule_id: RuleId,
}

/// The key of a connection: protocol and destination port; protocols without ports have port 0.
pub fn port_key(protocol: Protocol, port: u16) -> u32 {
    let port = if protocol.has_ports() { port } else { 0 };
    u32::from(protocol.0) << 16 | u32::from(port)
}

impl Hash for PortTable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl PortTable {
    fn new(ranges: Box<[PortVerdict]>) -> Self {
        Self { fingerprint: FINGERPRINTS.hash_one(&ranges), ranges }
    }

    /// A table with the same verdict for every port.
    pub fn constant(allow: bool, rule_id: RuleId) -> Self {
        Self::new(Box::new([PortVerdict { key: 0, allow, rule_id }]))
    }

    /// Builds a table from entries in ascending order of keys, the first at 0. The last of several entries with one key
    /// wins, and repetitions are merged.
    pub fn from_sorted(port_ranges: impl IntoIterator<Item = PortVerdict>) -> Self {
        let mut merged: Vec<PortVerdict> = Vec::new();
        for range in port_ranges {
            if merged.last().is_some_and(|last| last.key == range.key) {
                merged.pop();
            }
            if merged.last().is_none_or(|last| (last.allow, last.rule_id) != (range.allow, range.rule_id)) {
                merged.push(range);
            }
        }
        debug_assert!(merged.first().is_some_and(|first| first.key == 0), "a port table decides from key 0 on");
        Self::new(merged.into())
    }

    /// The intersection of several tables: where some deny, the first of them decides, else the first of all. There has
    /// to be at least one.
    pub(crate) fn meet(tables: &[Self]) -> Self {
        let mut keys: Vec<u32> = tables.iter().flat_map(|table| table.ranges().iter().map(|range| range.key)).collect();
        keys.sort_unstable();
        keys.dedup();
        Self::from_sorted(keys.into_iter().map(|key| {
            let ranges = || tables.iter().map(|table| table.at(key));
            let range = ranges().find(|range| !range.allow).unwrap_or_else(|| tables[0].at(key));
            PortVerdict { key, ..range }
        }))
    }

    /// The entry that decides a key.
    pub fn at(&self, key: u32) -> PortVerdict {
        self.ranges[self.ranges.partition_point(|range| range.key <= key) - 1]
    }

    /// All entries, ascending.
    pub fn ranges(&self) -> &[PortVerdict] {
        &self.ranges
    }

    /// A hash that is stable within the process. Tables with equal fingerprints are taken to be equal.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The same table with rule id `to` instead of `from`, if it contains `from`. `to` must be new to the table, so
    /// that neighbours still differ.
    pub(crate) fn renamed(&self, from: RuleId, to: RuleId) -> Option<Self> {
        let named = |range: &PortVerdict| range.rule_id == from;
        self.ranges.iter().any(named).then(|| {
            let rename =
                |range: &PortVerdict| PortVerdict { rule_id: if named(range) { to } else { range.rule_id }, ..*range };
            Self::new(self.ranges.iter().map(rename).collect())
        })
    }
}
