//! Routes between nodes, for clusters without a network plugin.
//!
//! ```text
//! nodes of the cluster ─┐
//!                       ├─► plan() ─► Plan, a plain value ─► apply() ─► the kernel, by the difference
//! links of this node ───┘
//! ```
//!
//! Pods of a node on a common link are reached over that node's address, and pods of other nodes through VXLAN in the
//! kernel. Packets of pods that leave the cluster get the node's address.
#![forbid(unsafe_code)]

mod apply;
mod firewall;
mod forward;
mod plan;
#[cfg(test)]
mod tests;
mod underlay;

pub use apply::{Error, VerifiedFirewall, apply, clean_up};
pub use firewall::{FIREWALL, Firewall, MASQUERADE};
pub use plan::{Plan, Tunnel, plan};
pub use underlay::{Interface, interfaces};

/// The protocol number of our routes, which is unused in `/etc/iproute2/rt_protos`.
const PROTOCOL: u8 = 82;
/// The table of routes to nodes through VXLAN. Rules consult it only for packets of this node's pods.
const TABLE: u8 = 82;
/// See [`TABLE`].
const PRIORITY: u32 = 8282;
/// Names of the VXLAN links over IPv4 and over IPv6.
const TUNNELS: [&str; 2] = ["rf-vxlan4", "rf-vxlan6"];
/// Network identifier of our VXLAN, and the port that IANA gave it.
const VXLAN_ID: u32 = 0x52_46;
/// See [`VXLAN_ID`].
const VXLAN_PORT: u16 = 4789;

/// The use of VXLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encapsulation {
    /// Only to nodes that share no link with this one.
    #[default]
    CrossSubnet,
    /// To every node, because the link does not carry packets from pods' addresses, as in most clouds.
    Always,
}
