//! Tries connections from containers of the image agnhost.

use std::time::Duration;

use anyhow::bail;
use kube::Client;

use crate::exec::{self, Container};

/// How long a packet is waited for.
const TIMEOUT: &str = "1s";
/// How long a whole attempt may take, with everything around it.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a connection that must come about is tried: packets get lost, and pods are busy. One that must not come
/// about is tried once: it is wrong if it ever does.
const TRIES: usize = 3;

/// Whether a connection comes about; `target` is an address or a name with its port, `protocol` as agnhost names it.
pub async fn settle(
    client: &Client,
    from: &Container,
    target: &str,
    protocol: &str,
    expected: bool,
) -> anyhow::Result<bool> {
    for _ in 0..if expected { TRIES } else { 1 } {
        if once(client, from, target, protocol).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a connection comes about when it is tried once.
pub async fn once(client: &Client, from: &Container, target: &str, protocol: &str) -> anyhow::Result<bool> {
    let (timeout, protocol) = (format!("--timeout={TIMEOUT}"), format!("--protocol={protocol}"));
    let command = ["/agnhost", "connect", target, &timeout, &protocol];
    let output = exec::run(client, from, &command, LIMIT).await?;
    match (output.code, output.said()) {
        (0, _) => Ok(true),
        // For UDP it says after a colon what it waited for.
        (_, said) if said == "TIMEOUT" || said.starts_with("TIMEOUT:") => Ok(false),
        // Somebody answered, so packets get there; but it is not what listens.
        (code, said) => bail!("{}/{} to {target}: agnhost ended with {code}: {said}", from.namespace, from.pod),
    }
}
