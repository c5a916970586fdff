//! The node agent: what it says on its socket, and how to ask it.
#![forbid(unsafe_code)]

pub mod api;
pub mod client;
