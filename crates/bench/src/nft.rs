//! Loads nftables rules.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use ringfence_netns::Namespace;

/// Loads a ruleset in a namespace.
pub(crate) fn load(namespace: &Namespace, text: &str) -> anyhow::Result<()> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = namespace.spawn(&mut nft).context("nft")?;
    let mut input = child.stdin.take().context("nft has no input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
