//! A cluster under test: its pods, and its nodes where they run on this machine.
//!
//! ```text
//! Cluster ─► namespaces, pods, policies               speaks to the API
//! Machine ─► the nodes as processes of this machine    kills, restarts, enters
//! ```
#![forbid(unsafe_code)]

pub mod cluster;
pub mod machine;
pub mod pod;
