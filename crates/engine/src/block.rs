//! The decision of one ruleset about one peer class, as a function of protocol and destination port.

use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::LazyLock;

use foldhash::quality::RandomState;
use ringfence_model::Protocol;

use crate::CauseId;

/// One for the process: equal blocks have equal prints. By chance, so that nobody can make two blocks with one print.
static PRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// A piecewise constant function over `protocol << 16 | port` (24 bits): each breakpoint decides from its key up to
/// the next one. Breakpoints are sorted, the first has key 0, neighbours differ: equal functions are equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    print: u64,
    points: Box<[Breakpoint]>,
}

/// From this key on, this is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Breakpoint {
    /// First `protocol << 16 | port` it decides.
    pub key: u32,
    /// Let through or drop.
    pub allow: bool,
    /// Who decided.
    pub cause: CauseId,
}

/// The key of a connection: protocol and destination port; protocols without ports have port 0.
pub fn port_key(protocol: Protocol, port: u16) -> u32 {
    let port = if protocol.has_ports() { port } else { 0 };
    u32::from(protocol.0) << 16 | u32::from(port)
}

impl Hash for Block {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

impl Block {
    fn new(points: Box<[Breakpoint]>) -> Self {
        Self { print: PRINTS.hash_one(&points), points }
    }

    /// The same decision for everything.
    pub fn constant(allow: bool, cause: CauseId) -> Self {
        Self::new(Box::new([Breakpoint { key: 0, allow, cause }]))
    }

    /// From breakpoints in ascending order of key, the first at 0; later ones of one key replace earlier ones and
    /// repetitions are merged.
    pub fn from_sorted(breakpoints: impl IntoIterator<Item = Breakpoint>) -> Self {
        let mut merged: Vec<Breakpoint> = Vec::new();
        for point in breakpoints {
            if merged.last().is_some_and(|last| last.key == point.key) {
                merged.pop();
            }
            if merged.last().is_none_or(|last| (last.allow, last.cause) != (point.allow, point.cause)) {
                merged.push(point);
            }
        }
        debug_assert!(merged.first().is_some_and(|first| first.key == 0), "a block decides from key 0 on");
        Self::new(merged.into())
    }

    /// What all of these decisions allow: where some deny, the first of them decides, else the first of all. There has
    /// to be one.
    pub(crate) fn meet(blocks: &[Self]) -> Self {
        let mut keys: Vec<u32> =
            blocks.iter().flat_map(|block| block.breakpoints().iter().map(|point| point.key)).collect();
        keys.sort_unstable();
        keys.dedup();
        Self::from_sorted(keys.into_iter().map(|key| {
            let points = || blocks.iter().map(|block| block.at(key));
            let point = points().find(|point| !point.allow).unwrap_or_else(|| blocks[0].at(key));
            Breakpoint { key, ..point }
        }))
    }

    /// The decision at a key.
    pub fn at(&self, key: u32) -> Breakpoint {
        self.points[self.points.partition_point(|point| point.key <= key) - 1]
    }

    /// All breakpoints, ascending.
    pub fn breakpoints(&self) -> &[Breakpoint] {
        &self.points
    }

    /// A hash of it, the same within the process: blocks with one print are taken to be equal.
    pub(crate) fn print(&self) -> u64 {
        self.print
    }

    /// The same decisions with one cause named `to` instead of `from`, if they name it. `to` must be new to them: then
    /// neighbours still differ.
    pub(crate) fn renamed(&self, from: CauseId, to: CauseId) -> Option<Self> {
        let named = |point: &Breakpoint| point.cause == from;
        self.points.iter().any(named).then(|| {
            let rename =
                |point: &Breakpoint| Breakpoint { cause: if named(point) { to } else { point.cause }, ..*point };
            Self::new(self.points.iter().map(rename).collect())
        })
    }
}
