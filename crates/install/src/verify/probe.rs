//! Tries one connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::bail;

use super::case::Attempt;
use super::stage::{Pods, Stage};
use crate::exec;

/// How long a packet is waited for.
const TIMEOUT: &str = "1s";
/// How long a whole attempt may take, with everything around it.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a connection that must come about is tried: packets get lost, and pods are busy. One that must not come
/// about is tried once: it is wrong if it ever does.
const TRIES: usize = 3;

/// Whether a connection comes about.
pub(super) async fn settle(
    stage: &Stage,
    pods: &Pods,
    attempt: &Attempt,
    address: IpAddr,
    expected: bool,
) -> anyhow::Result<bool> {
    for _ in 0..if expected { TRIES } else { 1 } {
        if once(stage, pods, attempt, address).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn once(stage: &Stage, pods: &Pods, attempt: &Attempt, address: IpAddr) -> anyhow::Result<bool> {
    let target = SocketAddr::new(address, attempt.port.number()).to_string();
    let (timeout, protocol) = (format!("--timeout={TIMEOUT}"), format!("--protocol={}", attempt.port.protocol()));
    let command = ["/agnhost", "connect", &target, &timeout, &protocol];
    let output = exec::run(&stage.client, &pods.container(attempt.from), &command, LIMIT).await?;
    match (output.code, output.said()) {
        (0, _) => Ok(true),
        // For UDP it says after a colon what it waited for.
        (_, said) if said == "TIMEOUT" || said.starts_with("TIMEOUT:") => Ok(false),
        // Somebody answered, so packets get there; but it is not what listens.
        (code, said) => bail!("{attempt}: agnhost ended with {code}: {said}"),
    }
}
