//! Tries connections from containers of the image agnhost.

use std::time::Duration;

use anyhow::bail;
use kube::Client;

use crate::exec::{self, Container};

/// The time that a packet is waited for.
const TIMEOUT: &str = "1s";
/// The time that a whole attempt may take, with everything around it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of attempts at a connection that must come about: packets get lost, and pods are busy. One that must not come
/// about is tried once: it is wrong if it ever does.
const MAX_ATTEMPTS: usize = 3;

/// True if a connection comes about; `target` is an address or a name with its port, `protocol` as agnhost names it.
pub async fn settle(
    client: &Client,
    from: &Container,
    target: &str,
    protocol: &str,
    expected: bool,
) -> anyhow::Result<bool> {
    for _ in 0..if expected { MAX_ATTEMPTS } else { 1 } {
        if once(client, from, target, protocol).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if a connection comes about when it is tried once.
pub async fn once(client: &Client, from: &Container, target: &str, protocol: &str) -> anyhow::Result<bool> {
    let (timeout, protocol) = (format!("--timeout={TIMEOUT}"), format!("--protocol={protocol}"));
    let command = ["/agnhost", "connect", target, &timeout, &protocol];
    let output = exec::run(client, from, &command, ATTEMPT_TIMEOUT).await?;
    match (output.code, output.said()) {
        (0, _) => Ok(true),
        // For UDP it says after a colon what it waited for.
        (_, said) if said == "TIMEOUT" || said.starts_with("TIMEOUT:") => Ok(false),
        // Somebody answered, so packets get there; but it is not what listens.
        (code, said) => bail!("{}/{} to {target}: agnhost ended with {code}: {said}", from.namespace, from.pod),
    }
}
