//! Keeps connection tracking active in the network namespace: the program needs it to tell replies from requests.
//!
//! A rule that uses `ct` makes the kernel track. It sits in a table of our own, in a chain that nothing calls, so it
//! costs no packet anything and disturbs nobody's rules.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::{Error, tables};

/// Our table, in family `inet`.
pub const TABLE: &str = "ringfence";
/// The chain whose rule makes the kernel track.
const CHAIN: &str = "keep_tracking";

/// Whether what makes the kernel track connections is there, in the network namespace of the calling thread.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn is_kept_active() -> Result<bool, Error> {
    Ok(tables::rules(TABLE, CHAIN)? > 0)
}

/// Makes the kernel track connections in the network namespace of the calling thread, if what makes it is not there.
///
/// # Errors
/// If nftables refuse.
pub fn keep_active() -> Result<(), Error> {
    if is_kept_active().unwrap_or(false) {
        return Ok(());
    }
    nft(&format!(
        "add table inet {TABLE}\n\
         add chain inet {TABLE} {CHAIN}\n\
         add rule inet {TABLE} {CHAIN} ct state new comment \"keeps connection tracking active\"\n"
    ))
    .map(drop)
    .map_err(Error::Conntrack)
}

/// Removes the table.
pub(crate) fn release() -> Result<(), Error> {
    nft(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")).map(drop).map_err(Error::Conntrack)
}

/// Runs a script of nftables in one transaction; says what it printed, or why not.
pub(crate) fn nft(script: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("nft: {error}");
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
