//! The node agent: watches the cluster, plans, and keeps the kernel at the newest plan.
//!
//! ```text
//! API ──watch──► Event ──┐                       ┌─► Enforcer ──► kernel
//! links, routes ─► Scout ─┼─► Core (one thread) ──┤
//! socket, TCP ─► Question ┘    index · planner    └─► answers: status, flows with names, metrics
//! ```
//!
//! Invariants: nothing reaches the kernel before every kind was listed; one thread owns planner and kernel side and is
//! told everything by messages; nothing waits for a clock; a stopped agent leaves enforcement standing.
#![forbid(unsafe_code)]

mod bridge;
mod chain;
mod clerk;
mod client_ports;
mod cluster;
mod cni_cache;
mod core;
mod datapath;
mod dns;
#[cfg(test)]
mod end_to_end;
mod enforcer;
#[cfg(test)]
mod fake;
pub mod flows;
mod follow;
mod forget;
mod guards;
mod index;
mod inside;
mod interfaces;
mod ipvs;
mod mended;
mod metrics;
mod parts;
mod policy_memory;
mod ports;
mod primary;
mod problem;
mod progress;
mod run;
#[cfg(test)]
mod scratch;
mod server;
mod services;
mod tables;
mod ties;
mod watch;

pub use chain::{Chain, remove as unchain};
pub use enforcer::{Count, EnforceError, Enforcer, Facts};
pub use primary::{Primary, unroute};
pub use ringfence_routes::Encapsulation;
pub use run::{Config, cleanup, forget, mount_bpf, run, wait_for_end};
