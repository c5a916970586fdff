//! Limits of a plan, and policies that do not fit.

use std::fmt;

use ringfence_model::{Direction, PodKey, PolicyId};

/// Limits of a plan. Policies beyond them are denied, at the expense of the namespaces with the largest demand.
///
/// The limits have to be below the sizes of the kernel maps: while a change is carried out, the maps hold old and new
/// entries side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Local pod addresses.
    pub endpoints: usize,
    /// Single addresses in the ipcache.
    pub ipcache: usize,
    /// CIDRs in the ipcache.
    pub ipcache_cidrs: usize,
    /// Pairs of ruleset and peer set.
    pub policy: usize,
    /// Port ranges of different port tables.
    pub port_ranges: usize,
    /// Rule ids.
    pub rule_counters: usize,
    /// Closed CIDRs.
    pub closed_cidrs: usize,
    /// Bytes of the planner's memory for rules laid out for evaluation. The rules of a policy count for each ruleset
    /// that contains it.
    pub layout: usize,
}

impl Limits {
    /// No limits but memory.
    pub const NONE: Self = Self {
        endpoints: usize::MAX,
        ipcache: usize::MAX,
        ipcache_cidrs: usize::MAX,
        policy: usize::MAX,
        port_ranges: usize::MAX,
        rule_counters: usize::MAX,
        closed_cidrs: usize::MAX,
        layout: usize::MAX,
    };

    /// A number of eighths of each map limit.
    #[must_use]
    pub fn eighths(self, eighths: usize) -> Self {
        let part = |all: usize| all / 8 * eighths + all % 8 * eighths / 8;
        Self {
            endpoints: part(self.endpoints),
            ipcache: part(self.ipcache),
            ipcache_cidrs: part(self.ipcache_cidrs),
            policy: part(self.policy),
            port_ranges: part(self.port_ranges),
            rule_counters: part(self.rule_counters),
            closed_cidrs: part(self.closed_cidrs),
            layout: self.layout,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

/// A limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// [`Limits::ipcache`].
    Ipcache,
    /// [`Limits::ipcache_cidrs`].
    IpcacheCidrs,
    /// [`Limits::policy`].
    Policy,
    /// [`Limits::port_ranges`].
    PortRanges,
    /// [`Limits::rule_counters`].
    RuleCounters,
    /// [`Limits::layout`].
    Layout,
    /// Memory for what policies say ([`ringfence_model::Policy::rules_withheld`]).
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipcache => "the map `ipcache`: too many single addresses in CIDRs",
            Self::IpcacheCidrs => "the map `ipcache_cidrs`: too many CIDRs",
            Self::Policy => "the map `policy`: too many different peers",
            Self::PortRanges => "the map `port_ranges`: too many port ranges",
            Self::RuleCounters => "the map `rule_counters`: too many rules",
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
    /// Local pods that keep their previous policy instead ([`crate::Planner::retain_previous`]), sorted.
    pub retaining: Vec<PodKey>,
    /// The direction.
    pub direction: Direction,
    /// The policies that would govern them, in the order of evaluation.
    pub policies: Vec<PolicyId>,
    /// The exhausted resource.
    pub resource: Resource,
}
