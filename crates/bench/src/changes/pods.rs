//! Two namespaces with a client and servers, and the changes that open and close the way between them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use ringfence_e2e::cluster::Cluster;
use ringfence_e2e::pod::{address, web_server};
use ringfence_netns::Namespace;
use serde_json::{Value, json};

use crate::side_by_side::side_by_side;

const CLIENT: &str = "bench-client";
const SERVER: &str = "bench-server";

/// A change, and by its order in a round the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nobody may enter the server.
    CreateDenyIngress,
    /// And again everybody.
    DeleteDenyIngress,
    /// Only friends may enter, which the client is not.
    CreateOnly,
    /// The client becomes a friend.
    RelabelIn,
    /// And a stranger.
    RelabelOut,
    /// Strangers may enter.
    UpdateToStranger,
    /// Friends may.
    UpdateToFriend,
    /// Everybody may.
    DeleteOnly,
    /// The client may not leave.
    CreateDenyEgress,
    /// And may.
    DeleteDenyEgress,
}

impl Change {
    /// One round; it ends in the state it began in.
    pub(crate) const ROUND: [Self; 10] = [
        Self::CreateDenyIngress,
        Self::DeleteDenyIngress,
        Self::CreateOnly,
        Self::RelabelIn,
        Self::RelabelOut,
        Self::UpdateToStranger,
        Self::UpdateToFriend,
        Self::DeleteOnly,
        Self::CreateDenyEgress,
        Self::DeleteDenyEgress,
    ];

    /// True if the client reaches the server afterwards.
    pub(crate) fn allows(self) -> bool {
        match self {
            Self::CreateDenyIngress
            | Self::CreateOnly
            | Self::RelabelOut
            | Self::UpdateToFriend
            | Self::CreateDenyEgress => false,
            Self::DeleteDenyIngress
            | Self::RelabelIn
            | Self::UpdateToStranger
            | Self::DeleteOnly
            | Self::DeleteDenyEgress => true,
        }
    }

    /// True if it is a policy that selects the servers.
    pub(crate) fn is_about_servers(self) -> bool {
        match self {
            Self::CreateDenyIngress
            | Self::DeleteDenyIngress
            | Self::CreateOnly
            | Self::UpdateToStranger
            | Self::UpdateToFriend
            | Self::DeleteOnly => true,
            Self::RelabelIn | Self::RelabelOut | Self::CreateDenyEgress | Self::DeleteDenyEgress => false,
        }
    }

    /// The kind of change.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::CreateDenyIngress | Self::CreateOnly | Self::CreateDenyEgress => "create",
            Self::DeleteDenyIngress | Self::DeleteOnly | Self::DeleteDenyEgress => "delete",
            Self::UpdateToStranger | Self::UpdateToFriend => "update",
            Self::RelabelIn | Self::RelabelOut => "relabel",
        }
    }
}

/// The pods.
pub(crate) struct Pods {
    client: Client,
    /// Network namespace of the client.
    pub(crate) near: Arc<Namespace>,
    /// Addresses of the servers.
    pub(crate) servers: Vec<Ipv4Addr>,
}

/// Finds the network namespace of a pod.
pub(crate) type Network<'a> = &'a dyn Fn(&Pod) -> anyhow::Result<Namespace>;

impl Pods {
    /// Makes the namespaces; before there are pods, which then start with all the policies there are.
    pub(crate) async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
        for name in [CLIENT, SERVER] {
            cluster.namespace(name, &json!({})).await?;
        }
        Ok(())
    }

    /// Starts the client on a node, and a server on each of others; waits until they run.
    pub(crate) async fn start(
        cluster: &Cluster,
        near: &str,
        far: &[&str],
        network: Network<'_>,
    ) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        for (number, node) in far.iter().enumerate() {
            let server =
                cluster.run(&web_server(SERVER, &format!("server-{number}"), node, &json!({"app": "server"}))).await?;
            servers.push(address(&server)?);
        }
        let labels = json!({"app": "client", "role": "stranger"});
        let client = cluster.run(&web_server(CLIENT, "client", near, &labels)).await?;
        Ok(Self { client: cluster.client.clone(), near: Arc::new(network(&client)?), servers })
    }

    /// Makes a change; returns when the API has answered.
    pub(crate) async fn make(&self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::CreateDenyIngress => self.create(SERVER, &deny("server", "Ingress")).await,
            Change::DeleteDenyIngress => self.delete(SERVER, "deny").await,
            Change::CreateOnly => self.create(SERVER, &only("friend")).await,
            Change::RelabelIn => self.relabel("friend").await,
            Change::RelabelOut => self.relabel("stranger").await,
            Change::UpdateToStranger => self.update(&only("stranger")).await,
            Change::UpdateToFriend => self.update(&only("friend")).await,
            Change::DeleteOnly => self.delete(SERVER, "only").await,
            Change::CreateDenyEgress => self.create(CLIENT, &deny("client", "Egress")).await,
            Change::DeleteDenyEgress => self.delete(CLIENT, "deny").await,
        }
    }

    fn policies(&self, namespace: &str) -> Api<NetworkPolicy> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create(&self, namespace: &str, policy: &Value) -> anyhow::Result<()> {
        self.policies(namespace).create(&PostParams::default(), &object(policy.clone())?).await?;
        Ok(())
    }

    async fn delete(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        self.policies(namespace).delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    async fn update(&self, policy: &Value) -> anyhow::Result<()> {
        let spec = json!({"spec": policy["spec"]});
        self.policies(SERVER).patch("only", &PatchParams::default(), &Patch::Merge(spec)).await?;
        Ok(())
    }

    async fn relabel(&self, role: &str) -> anyhow::Result<()> {
        let labels = json!({"metadata": {"labels": {"role": role}}});
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), CLIENT);
        pods.patch("client", &PatchParams::default(), &Patch::Merge(labels)).await?;
        Ok(())
    }
}

/// So many at a time.
const AT_ONCE: usize = 8;

/// Creates policies number `first` to `end` that select the client, and change nothing about its way out.
pub(crate) async fn create_others(cluster: &Cluster, first: usize, end: usize) -> anyhow::Result<()> {
    let api: Api<NetworkPolicy> = Api::namespaced(cluster.client.clone(), CLIENT);
    side_by_side(first..end, AT_ONCE, |number| {
        let api = api.clone();
        async move { Ok(api.create(&PostParams::default(), &object(other(number))?).await.map(drop)?) }
    })
    .await
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(value)?)
}

fn deny(app: &str, direction: &str) -> Value {
    json!({
        "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": [direction]},
    })
}

fn only(role: &str) -> Value {
    let from = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": CLIENT}},
        "podSelector": {"matchLabels": {"role": role}},
    });
    json!({
        "metadata": {"name": "only"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [from], "ports": [{"protocol": "TCP", "port": super::prober::PORT}]}],
        },
    })
}

/// One of many policies that select the client and change nothing about its way out.
fn other(number: usize) -> Value {
    let cidr = format!("198.{}.{}.{}/32", 18 + (number >> 16), number >> 8 & 255, number & 255);
    json!({
        "metadata": {"name": format!("other-{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"app": "client"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_round_turns_the_state_over() {
        let mut allowed = true;
        for change in Change::ROUND {
            assert_ne!(change.allows(), allowed, "{change:?} changes nothing that can be seen");
            allowed = change.allows();
        }
        assert!(allowed);
    }
}
