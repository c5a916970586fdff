//! Keeps connection tracking active in the network namespace, because the program needs it to tell replies from
//! requests.
//!
//! A rule that uses `ct` makes the kernel track connections. The rule is in a chain of our own table that no other
//! chain calls, so it costs no packet anything.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::{Error, nftables};

/// Our table, in family `inet`.
pub const TABLE: &str = "ringfence";
/// The chain that holds the rule.
const CHAIN: &str = "keep_tracking";

/// True if the rule that keeps connection tracking active exists in the network namespace of the calling thread.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn is_kept_active() -> Result<bool, Error> {
    Ok(nftables::rule_count(TABLE, CHAIN)? > 0)
}

/// Creates the rule that keeps connection tracking active in the network namespace of the calling thread, if it does
/// not exist.
///
/// # Errors
/// If nftables refuses.
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

/// Removes the table of Ringfence.
pub(crate) fn release() -> Result<(), Error> {
    nft(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")).map(drop).map_err(Error::Conntrack)
}

/// Runs a script of nftables in one transaction and returns its output.
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
