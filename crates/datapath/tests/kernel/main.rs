//! Tests that load the program: by test runs, and with packets in network namespaces.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod answers;
mod cache;
mod capacity;
mod death;
mod differential;
mod doors;
mod errors;
mod forged;
mod forgotten;
mod guessed;
mod handover;
mod kit;
mod layer2;
mod maps;
mod network;
mod open;
mod parse;
mod pins;
mod reflected;
mod rewritten;
mod seccomp;
mod spoofing;
mod telling;
mod tunnels;
