//! The kernel program, its loader and the applier.
//!
//! One program at netfilter's POSTROUTING and LOCAL_IN hooks judges every packet of the node's pods; two at the node's
//! end of each pod's link settle who sends. Their maps hold the plan of this node. They are pinned, so that enforcement
//! outlives the process, and adopted by the next one.

mod abi;
pub mod answers;
mod apply;
mod config;
mod connections;
pub mod conntrack;
mod datapath;
mod doors;
mod entries;
mod error;
mod events;
#[cfg(test)]
mod faults;
pub mod features;
mod interfaces;
mod kept;
mod kernel;
mod known;
mod links;
mod mirror;
mod mounts;
mod namespace;
mod nfnetlink;
mod object;
mod pins;
mod portions;
mod slices;
mod state;
mod statistics;
mod table;
pub mod tables;
mod tracked;
mod transition;
mod trial;

pub use config::{Config, Connections, EPHEMERAL_PORTS, Sizes};
pub use connections::open_connections;
pub use datapath::{Datapath, Undone, remove};
pub use doors::{Done, Doorkeeper, Errand, Guarded, LinkHook, Port};
pub use error::{ApplyError, Error};
pub use events::{Drop, Event, Events, Outcome};
pub use features::{Features, Missing};
pub use interfaces::{BridgeNetfilter, Interface, bridge_netfilter};
pub use pins::mount_system_bpffs;
pub use statistics::{Capacity, Counter, DropCounters, Flow};
pub use tracked::{Tracked, forget_connections, forget_connections_of};
pub use trial::{About, Circumstances, Conntrack, Ground, Trial, Tried};
