//! The network plugin (CNI specification 1.1, <https://www.cni.dev/docs/spec/>): chained after whatever gives a pod
//! its addresses, it comes back from `ADD` when the pod's policy is in the kernel, and not before.
//!
//! The container runtime starts it anew for every pod, so it is small and synchronous: it reads what it is told
//! ([`Request`], [`NetConf`]), asks the node's agent ([`ringfence_api::blocking`]) and hands on the result of the
//! plugin before it. When the agent cannot say yes, `ADD` fails with a CNI error and the kubelet tries again: a pod
//! never starts unguarded.
#![forbid(unsafe_code)]

mod conf;
pub mod conflist;
mod error;
pub mod multus;
mod plugin;
mod presence;
mod request;
mod result;
mod version;

pub use conf::NetConf;
pub use error::Error;
pub use plugin::{Outcome, run};
pub use presence::{stamp, touch};
pub use request::{Command, Pod, Request};
pub use result::{addresses, hardware_address, links};
pub use version::{CURRENT, SUPPORTED};

/// File name of the plugin's program, and its `type` in configurations.
pub const PLUGIN: &str = "ringfence-cni";
