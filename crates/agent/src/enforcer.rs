//! The kernel side as a trait, so that the agent can be tested without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_datapath::{GuardReport, GuardStatus, Interface, LinkHook, PodLink};
use ringfence_engine::{Delta, Limits, Plan, RuleId};
use ringfence_netns::Tunnel;

use ringfence_api::{Feature, MapUse, ReasonCode};

/// Carries out plans. The real one is the datapath; tests keep a plan in memory.
pub trait Enforcer: Send {
    /// The size of a plan that fits, with what is new beside what is old while it is carried out.
    fn limits(&self) -> Limits;
    /// Number of addresses of nodes and Services that fit.
    fn room_for_known_addresses(&self) -> usize;
    /// Makes the kernel hold exactly this plan, touching only what differs.
    fn sync(&mut self, plan: &Plan) -> Result<(), EnforceError>;
    /// Carries out one change. After an error the kernel still holds the whole state before it, or (for errors other
    /// than capacity) something that a [`Enforcer::sync`] puts right.
    fn apply(&mut self, delta: &Delta) -> Result<(), EnforceError>;
    /// The host-side interface of each local address whose interface is known.
    fn set_interfaces(&mut self, interfaces: &BTreeMap<IpAddr, Interface>) -> Result<(), EnforceError>;
    /// The kernel's hook for guards at links; none: nowhere.
    fn link_hook(&self) -> Option<LinkHook>;
    /// Has exactly these links of the node guarded, by index, and no others. That is done on another thread, which
    /// tells what came of it: for [`Enforcer::settle`].
    fn guard(&mut self, links: &BTreeMap<u32, PodLink>) -> Result<(), EnforceError>;
    /// Has that thread look whether the guards are where they were put, and put back those that are not.
    fn look_at_guards(&mut self);
    /// Takes in what was done at links; how all of them stand now.
    fn settle(&mut self, done: GuardReport) -> Result<GuardStatus, EnforceError>;
    /// The tunnels that end on nodes: pods send nothing there.
    fn set_tunnels(&mut self, tunnels: &BTreeSet<Tunnel>) -> Result<(), EnforceError>;
    /// The addresses of nodes, and those of Services.
    fn set_infra_addresses(
        &mut self,
        nodes: &BTreeSet<IpAddr>,
        services: &BTreeSet<IpAddr>,
    ) -> Result<(), EnforceError>;
    /// The ranges of all nodes' pods.
    fn set_pod_cidrs(&mut self, ranges: &BTreeSet<IpNet>) -> Result<(), EnforceError>;
    /// Looks whether what enforces is still where it belongs, and sees to it that it is. What was found undone and is
    /// mended, as a sentence; what cannot be mended is the error.
    fn mend(&mut self) -> Result<Option<String>, EnforceError>;
    /// Facts for status and metrics, read now.
    fn facts(&mut self) -> Facts;
    /// Events for which the kernel's ring buffer had no room until now.
    fn events_lost(&mut self) -> u64;
    /// The counters of each cause, read now.
    fn counters(&mut self) -> Result<BTreeMap<RuleId, Count>, EnforceError>;
}

/// The reason why a plan is not in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnforceError {
    /// It does not fit; nothing was touched.
    #[error("{0}; the policy before this change stays in force")]
    Capacity(String),
    /// The kernel refused something.
    #[error("{0}")]
    Kernel(String),
}

impl EnforceError {
    /// True if trying the same again can help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Kernel(_))
    }
}

/// Facts about the kernel side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// True if the maps were taken over.
    pub adopted: bool,
    /// Use of the maps.
    pub maps: Vec<MapUse>,
    /// Features of the kernel.
    pub features: Vec<Feature>,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<ReasonCode, u64>,
    /// Events for which the kernel's ring buffer had no room: their packets are counted.
    pub events_lost: u64,
}

/// Counters of a cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Connections let through.
    pub accepted: u64,
    /// Packets dropped.
    pub dropped: u64,
}
