//! A client, and for each variant a server beside it and one on another node.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::bail;
use nix::unistd::Pid;
use ringfence_e2e::cluster::Cluster;
use ringfence_e2e::pod;
use ringfence_netns::Namespace;
use serde_json::json;

use super::policies::Variant;
use crate::traffic::client::{self, Rates};
use crate::traffic::{processor, server};

/// Namespace of the client.
pub(super) const CLIENT: &str = "bench-client";
/// Namespace of the servers, and of all policies.
pub(super) const SERVER: &str = "bench-server";

/// Setting of a node that has closed connections forgotten at once: they would fill the table in a benchmark that opens
/// ten thousand a second.
const FORGET: &str = "net/netfilter/nf_conntrack_tcp_timeout_close";

/// The pods.
pub(super) struct Stage {
    pub(super) client: Namespace,
    pub(super) client_address: Ipv4Addr,
    /// Somebody whom no policy names.
    stranger: Namespace,
    /// By node: addresses of the servers of the variants.
    servers: [Vec<Ipv4Addr>; 2],
    processor: usize,
    /// Networks of the nodes, and what they are set to otherwise.
    nodes: Vec<(Namespace, String)>,
}

impl Stage {
    /// Starts everything on these nodes, on which processes of these ids run.
    pub(super) async fn set(
        cluster: &Cluster,
        nodes: &[String; 2],
        processes: &[Pid],
        variants: &[Variant],
    ) -> anyhow::Result<Self> {
        for name in [CLIENT, SERVER] {
            cluster.namespace(name, &json!({})).await?;
        }
        let processor = processor::last_processor()?;
        let client = cluster.run(&pod::web_server(CLIENT, "client", &nodes[0], &json!({"app": "client"}))).await?;
        let stranger =
            cluster.run(&pod::web_server(CLIENT, "stranger", &nodes[0], &json!({"app": "stranger"}))).await?;
        let mut servers = [Vec::new(), Vec::new()];
        for (number, node) in nodes.iter().enumerate() {
            for variant in variants {
                let app = variant.app();
                let server = cluster
                    .run(&pod::web_server(SERVER, &format!("{app}-{number}"), node, &json!({"app": app})))
                    .await?;
                server::start(&pod::network(&server)?, processor)?;
                servers[number].push(pod::address(&server)?);
            }
        }
        let mut settings = Vec::new();
        for process in processes {
            let node = Namespace::open_path(std::path::Path::new(&format!("/proc/{process}/ns/net")))?;
            let before = node.sysctl(FORGET)?;
            node.set_sysctl(FORGET, "1")?;
            settings.push((node, before));
        }
        Ok(Self {
            client: pod::network(&client)?,
            client_address: pod::address(&client)?,
            stranger: pod::network(&stranger)?,
            servers,
            processor,
            nodes: settings,
        })
    }

    /// Address of a server: of the node's number and the variant's.
    pub(super) fn server(&self, node: usize, variant: usize) -> Ipv4Addr {
        self.servers[node][variant]
    }

    /// One turn.
    pub(super) fn measure(&self, server: Ipv4Addr, span: Duration) -> anyhow::Result<Rates> {
        self.client.run(|| {
            processor::pin(self.processor)?;
            client::measure(server, span)
        })?
    }

    /// True if somebody whom no policy names gets in.
    pub(super) fn stranger_connects(&self, server: Ipv4Addr) -> anyhow::Result<bool> {
        Ok(self.stranger.run(|| client::connects(server))?)
    }

    /// Fails unless a variant is in force at both servers.
    pub(super) fn expect_enforced(&self, number: usize, variant: Variant) -> anyhow::Result<()> {
        for node in 0..2 {
            if variant.count > 0 && self.stranger_connects(self.server(node, number))? {
                bail!("{}: whom no policy allows gets in: nothing is enforced", variant.name());
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (node, before) in &self.nodes {
            let _ = node.set_sysctl(FORGET, before);
        }
    }
}
