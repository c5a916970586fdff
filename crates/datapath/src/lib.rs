//! The kernel program, its loader and the applier.
//!
//! One program at netfilter's POSTROUTING and LOCAL_IN hooks checks every packet of the node's pods. Two programs at
//! the node's end of each pod's link check the source of each frame. Their maps hold the plan of this node. The maps
//! are pinned, so that enforcement outlives the process, and the next process adopts them.

mod abi;
mod allocator;
mod apply;
mod chunks;
mod config;
pub mod conntrack;
mod conntrack_flush;
mod ctnetlink;
mod datapath;
pub mod dns_queue;
mod error;
mod events;
#[cfg(test)]
mod faults;
pub mod features;
mod infra;
mod interfaces;
mod kernel;
mod link_guard;
mod links;
mod mounts;
mod namespace;
mod nfnetlink;
pub mod nftables;
mod object;
mod open_connections;
mod pinned;
mod pins;
mod state;
mod statistics;
mod synced_map;
mod test_run;
mod transition;
mod typed_map;

pub use config::{Config, EPHEMERAL_PORTS, Sizes};
pub use conntrack_flush::{ConntrackEntry, delete_conntrack_entries, delete_conntrack_entries_of};
pub use datapath::{Datapath, Repairs, remove};
pub use error::{ApplyError, Error};
pub use events::{DropReason, Event, EventVerdict, Events};
pub use features::{Features, MissingFeature};
pub use interfaces::{BridgeNetfilter, Interface, bridge_netfilter};
pub use link_guard::{GuardReport, GuardStatus, GuardWork, LinkGuard, LinkHook, PodLink};
pub use open_connections::open_connections;
pub use pins::mount_system_bpffs;
pub use ringfence_api::Connections;
pub use statistics::{DropCounters, Flow, MapUsage, RuleCounter};
pub use test_run::{Conntrack, PacketContext, PolicyResult, TestRun, TestVerdict, TrackedConnection};
