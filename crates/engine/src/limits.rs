//! How much a plan may take up, and what of it does not fit.

use std::fmt;

use ringfence_model::{Direction, PodKey, PolicyId};

/// How much of each kind a plan may hold. What is more than that is denied, at the expense of whoever asks for most.
///
/// These have to be less than what the kernel's maps hold: while a change is carried out, what is new is there beside
/// what is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Local pod addresses.
    pub endpoints: usize,
    /// Addresses with a class.
    pub peers: usize,
    /// Wider prefixes with a class.
    pub prefixes: usize,
    /// Pairs of ruleset and class.
    pub entries: usize,
    /// Breakpoints of different blocks.
    pub breakpoints: usize,
    /// Causes.
    pub causes: usize,
    /// Ranges that are closed.
    pub gates: usize,
    /// Bytes of the planner's memory that rules take up as they are laid out for evaluation, those of a policy once for
    /// each ruleset it is in.
    pub layout: usize,
}

impl Limits {
    /// As much as there is memory for.
    pub const NONE: Self = Self {
        endpoints: usize::MAX,
        peers: usize::MAX,
        prefixes: usize::MAX,
        entries: usize::MAX,
        breakpoints: usize::MAX,
        causes: usize::MAX,
        gates: usize::MAX,
        layout: usize::MAX,
    };

    /// So many eighths of it.
    #[must_use]
    pub fn eighths(self, eighths: usize) -> Self {
        let part = |all: usize| all / 8 * eighths + all % 8 * eighths / 8;
        Self {
            endpoints: part(self.endpoints),
            peers: part(self.peers),
            prefixes: part(self.prefixes),
            entries: part(self.entries),
            breakpoints: part(self.breakpoints),
            causes: part(self.causes),
            gates: part(self.gates),
            layout: self.layout,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

/// What there is not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Room {
    /// [`Limits::peers`].
    Peers,
    /// [`Limits::prefixes`].
    Prefixes,
    /// [`Limits::entries`].
    Entries,
    /// [`Limits::breakpoints`].
    Breakpoints,
    /// [`Limits::causes`].
    Causes,
    /// [`Limits::layout`].
    Layout,
    /// Memory for what policies say ([`ringfence_model::Policy::rules_withheld`]).
    Memory,
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peers => "the map `peers`: too many single addresses in blocks",
            Self::Prefixes => "the map `prefixes`: too many address blocks",
            Self::Entries => "the map `entries`: too many different peers",
            Self::Breakpoints => "the map `breakpoints`: too many port ranges",
            Self::Causes => "the map `causes`: too many rules",
            Self::Layout => "the memory of the agent: too many rules and port ranges",
            Self::Memory => "the memory of the agent: the policies of this namespace are too many or too large",
        })
    }
}

/// Pods whose policies of one direction do not fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Local pods that are denied everything in this direction, sorted.
    pub pods: Vec<PodKey>,
    /// Those that keep what they had instead ([`crate::Planner::keep`]), sorted.
    pub keeping: Vec<PodKey>,
    /// The direction.
    pub direction: Direction,
    /// The policies that would govern them, in the order of evaluation.
    pub policies: Vec<PolicyId>,
    /// What there is not enough of.
    pub room: Room,
}
