//! Keeps connection tracking active in the network namespace: the program needs it to tell replies from requests.
//!
//! A rule that uses `ct` makes the kernel track. It sits in a table of our own, in a chain that nothing calls, so it
//! costs no packet anything and disturbs nobody's rules.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::Error;

/// Our table, in family `inet`.
pub(crate) const TABLE: &str = "ringfence";

/// Makes the table; one that is there stays as it is.
pub(crate) fn activate() -> Result<(), Error> {
    if nft(&format!("list chain inet {TABLE} keep_tracking")).is_ok_and(|chain| chain.contains("ct state")) {
        return Ok(());
    }
    nft(&format!(
        "add table inet {TABLE}\n\
         add chain inet {TABLE} keep_tracking\n\
         add rule inet {TABLE} keep_tracking ct state new comment \"keeps connection tracking active\"\n"
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
