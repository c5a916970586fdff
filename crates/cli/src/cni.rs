//! The network plugin: this same program under another name, as the agent installs it.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use crate::output;

/// Longest configuration read, in bytes.
const MAX_INPUT: u64 = 1 << 20;

/// Acts as the network plugin, if it was started under its name.
pub(crate) fn run() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    if Path::new(&name).file_name()? != ringfence_cni::PLUGIN {
        return None;
    }
    let mut input = Vec::new();
    // What could not be read cannot be decoded either, and is refused with the protocol's own error.
    let _ = std::io::stdin().take(MAX_INPUT).read_to_end(&mut input);
    let outcome = ringfence_cni::run(|variable| std::env::var(variable).ok(), &input);
    let printed = outcome.output.is_none_or(|output| output::line(&output.to_string()).is_ok());
    Some(ExitCode::from(if printed { outcome.code } else { 1 }))
}
