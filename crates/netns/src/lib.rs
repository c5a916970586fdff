//! Network namespaces, links, addresses and routes, by synchronous netlink.
//!
//! ```text
//! Namespace ──run(closure)──► a thread of its own inside the namespace
//!     │      ──spawn(command)► a process inside the namespace
//!     │      ──set_sysctl────► /proc/sys/net as the namespace sees it
//!     └──────netlink()───────► Netlink: links, addresses, routes of that namespace, usable from any thread
//! ```
//!
//! Nothing here changes the namespace of a calling thread. Other namespaces are entered by new threads only.
#![forbid(unsafe_code)]

mod address;
mod error;
mod fou;
mod link;
mod namespace;
mod neighbour;
mod netlink;
mod peer;
mod route;
mod rule;
mod ruleset;
mod run_dir;
mod sysctl;
mod tunnel;
mod vxlan;

pub use error::{Error, Result};
pub use link::{Link, VethEnd};
pub use namespace::Namespace;
pub use neighbour::{Forward, HardwareAddress, Neighbour};
pub use netlink::Netlink;
pub use peer::Peer;
pub use route::{MAIN_TABLE, Route};
pub use rule::Rule;
pub use ruleset::ruleset_generation;
pub use run_dir::RUN_DIR;
pub use tunnel::Tunnel;
pub use vxlan::Vxlan;
