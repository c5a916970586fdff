//! A cluster under test: its pods, and its nodes where they run on this machine.
//!
//! ```text
//! Cluster ─► namespaces, pods, policies               speaks to the API
//! Machine ─► the nodes as processes of this machine    enters
//! Component ► one of these processes                   stops, starts again
//! knock ────► first packets of connections             sends, and sees whether they are answered
//! wire ─────► frames at a link                         sends any, and sees whether they arrive
//! ```
#![forbid(unsafe_code)]

pub mod cluster;
pub mod component;
pub mod knock;
pub mod machine;
pub mod pod;
pub mod reboot;
pub mod wire;
