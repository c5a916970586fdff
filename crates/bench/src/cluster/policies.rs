//! Policies that all select one pod, of which the last lets the client in.

use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::PostParams;
use ringfence_e2e::cluster::Cluster;
use serde_json::{Value, json};

use super::stage::{CLIENT, SERVER};
use crate::policies::strangers;
use crate::side_by_side::side_by_side;

/// So many at a time.
const AT_ONCE: usize = 8;

/// Peers that a policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Blocks of one address.
    Blocks,
    /// Pods by their labels.
    Pods,
}

/// The policies of one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) peers: Peers,
    pub(super) count: usize,
}

impl Variant {
    /// For tables.
    pub(super) fn name(self) -> String {
        match (self.peers, self.count) {
            (_, 0) => "0 policies".to_owned(),
            (Peers::Blocks, count) => format!("{count} policies, ipBlock peers"),
            (Peers::Pods, count) => format!("{count} policies, pod peers"),
        }
    }

    /// Value of the label `app` of the pods they select.
    pub(super) fn app(self) -> String {
        match self.peers {
            Peers::Blocks => format!("blocks-{}", self.count),
            Peers::Pods => format!("pods-{}", self.count),
        }
    }

    /// Creates all but the last.
    pub(super) async fn lock(self, cluster: &Cluster) -> anyhow::Result<()> {
        let addresses = strangers(self.count);
        let api: Api<NetworkPolicy> = Api::namespaced(cluster.client.clone(), SERVER);
        side_by_side(0..self.count.saturating_sub(1), AT_ONCE, |number| {
            let peer = match self.peers {
                Peers::Blocks => block(addresses[number]),
                Peers::Pods => json!({"podSelector": {"matchLabels": {"friend": format!("f{number}")}}}),
            };
            let (api, policy) = (api.clone(), self.policy(&format!("{number:06}"), &peer));
            async move { Ok(api.create(&PostParams::default(), &serde_json::from_value(policy)?).await.map(drop)?) }
        })
        .await
    }

    /// Creates the last, which lets the client in.
    pub(super) async fn open(self, cluster: &Cluster, client: Ipv4Addr) -> anyhow::Result<()> {
        let peer = match self.peers {
            Peers::Blocks => block(client),
            Peers::Pods => json!({
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": CLIENT}},
                "podSelector": {"matchLabels": {"app": "client"}},
            }),
        };
        let api: Api<NetworkPolicy> = Api::namespaced(cluster.client.clone(), SERVER);
        api.create(&PostParams::default(), &serde_json::from_value(self.policy("last", &peer))?).await?;
        Ok(())
    }

    fn policy(self, name: &str, peer: &Value) -> Value {
        json!({
            "metadata": {"name": format!("{}-{name}", self.app())},
            "spec": {
                "podSelector": {"matchLabels": {"app": self.app()}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [peer]}],
            },
        })
    }
}

fn block(address: Ipv4Addr) -> Value {
    json!({"ipBlock": {"cidr": format!("{address}/32")}})
}
