//! The agents as processes of this machine: what they have used.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use nix::unistd::{SysconfVar, sysconf};
use ringfence_e2e::cluster::Cluster;
use ringfence_e2e::pod;
use ringfence_install::AGENT_LABEL;

use super::read;

/// An agent.
#[derive(Debug)]
pub(super) struct Agent {
    /// Its directory below `/proc`.
    process: PathBuf,
}

/// Resource use of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Resident memory, MB.
    pub(super) resident: f64,
    /// The most it was, MB.
    pub(super) peak: f64,
    /// Seconds of processor since it started.
    pub(super) seconds: f64,
}

impl Agent {
    /// The agent that is this process; of any engine.
    pub(super) fn of(process: u32) -> Self {
        Self { process: Path::new("/proc").join(process.to_string()) }
    }

    /// Of its process.
    pub(super) fn id(&self) -> std::borrow::Cow<'_, str> {
        self.process.file_name().unwrap_or_default().to_string_lossy()
    }

    /// Resource use until now.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let status = read(&self.process.join("status"))?;
        let stat = read(&self.process.join("stat"))?;
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no ticks")?;
        usage(&status, &stat, ticks).with_context(|| format!("{} tells something else", self.process.display()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn usage(status: &str, stat: &str, ticks: i64) -> Option<Usage> {
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes * 1024e-6)
    };
    // After the name, which may hold anything, the 12th and 13th are the ticks in user and in system mode.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let [user, system] = [11, 12].map(|field| fields.get(field).and_then(|text| text.parse::<f64>().ok()));
    let seconds = (user? + system?) / ticks as f64;
    Some(Usage { resident: megabytes("VmRSS:")?, peak: megabytes("VmHWM:")?, seconds })
}

/// The agents of a cluster, by node.
pub(super) async fn find(cluster: &Cluster) -> anyhow::Result<Vec<Agent>> {
    let pods = Api::<Pod>::all(cluster.client.clone()).list(&ListParams::default().labels(AGENT_LABEL)).await?;
    let mut pods: Vec<Pod> = pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    pods.sort_by_key(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()));
    let agents = pods.iter().map(|pod| {
        let process = Path::new("/proc").join(pod::process(pod)?.to_string());
        Ok(Agent { process })
    });
    let agents: Vec<Agent> = agents.collect::<anyhow::Result<_>>()?;
    if agents.is_empty() {
        bail!("no agent runs\nhint: install Ringfence first");
    }
    Ok(agents)
}

/// Resource use of all agents.
pub(super) fn usage_of(agents: &[Agent]) -> anyhow::Result<Vec<Usage>> {
    agents.iter().map(Agent::usage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_what_it_has_used() {
        let status = "Name:\tx\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n";
        let stat = "17 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        let usage = usage(status, stat, 100).unwrap();
        assert!((usage.resident - 1.024).abs() < 1e-9 && (usage.peak - 2.048).abs() < 1e-9, "{usage:?}");
        assert!((usage.seconds - 3.0).abs() < 1e-9, "{usage:?}");
    }
}
