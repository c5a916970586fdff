//! Tests that load the program: by test runs, and with packets in network namespaces.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod cache;
mod capacity;
mod conntrack_flush;
mod death;
mod differential;
mod dns_queue;
mod errors;
mod forged;
mod handover;
mod kit;
mod layer2;
mod link_guard;
mod maps;
mod network;
mod notifications;
mod open;
mod parse;
mod picked_up;
mod pins;
mod reflected;
mod rewritten;
mod seccomp;
mod spoofing;
mod tunnels;
