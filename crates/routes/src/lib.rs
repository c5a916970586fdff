//! Routes between nodes, for clusters without a network plugin.
//!
//! ```text
//! nodes of the cluster ─┐
//!                       ├─► plan() ─► Plan, a plain value ─► apply() ─► the kernel, by the difference
//! links of this node ───┘
//! ```
//!
//! Pods of a node on a common link are reached over that node's address; those of others through VXLAN, which the
//! kernel does. What pods send out of the cluster goes under the node's address.
#![forbid(unsafe_code)]

mod apply;
mod firewall;
mod forward;
mod plan;
#[cfg(test)]
mod tests;
mod underlay;

pub use apply::{Error, Standing, apply, clean_up};
pub use firewall::{FIREWALL, Firewall, MASQUERADE};
pub use plan::{Plan, Tunnel, plan};
pub use underlay::{Interface, interfaces};

/// Who made a route of ours: a number that nobody has in `/etc/iproute2/rt_protos`.
const PROTOCOL: u8 = 82;
/// The table of routes to nodes through VXLAN, and when it is asked: only for packets of this node's pods.
const TABLE: u8 = 82;
/// See [`TABLE`].
const PRIORITY: u32 = 8282;
/// Names of the VXLAN links over IPv4 and over IPv6.
const TUNNELS: [&str; 2] = ["rf-vxlan4", "rf-vxlan6"];
/// Network identifier of our VXLAN, and the port that IANA gave it.
const VXLAN_ID: u32 = 0x52_46;
/// See [`VXLAN_ID`].
const VXLAN_PORT: u16 = 4789;

/// When to go through VXLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encapsulation {
    /// To nodes that are on no common link.
    #[default]
    CrossSubnet,
    /// To every node: where the link does not carry packets from pods' addresses, as in most clouds.
    Always,
}
