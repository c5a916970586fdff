//! The network plugin `ringfence-cni`, which the agent puts where the container runtime finds it.
//!
//! A program of its own, because it is started several times for every pod: all of `ringfence-agent` takes longer to be
//! loaded than this takes to run.
#![forbid(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

/// Longest configuration read, in bytes.
const MAX_INPUT: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut input = Vec::new();
    // What could not be read cannot be decoded either, and is refused with the protocol's own error.
    let _ = io::stdin().take(MAX_INPUT).read_to_end(&mut input);
    let outcome = ringfence_cni::run(|variable| std::env::var(variable).ok(), &input);
    let printed = outcome.output.is_none_or(|output| writeln!(io::stdout(), "{output}").is_ok());
    ExitCode::from(if printed { outcome.code } else { 1 })
}
