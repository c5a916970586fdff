//! Tests that load the program: by test runs, and with packets in network namespaces.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod answers;
mod death;
mod differential;
mod kit;
mod maps;
mod network;
