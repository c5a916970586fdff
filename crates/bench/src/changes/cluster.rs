//! A lab with two pods, and the changes made in it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use ringfence_lab::place::Place;
use serde_json::{Value, json};

const CLIENT: &str = "bench-client";
const SERVER: &str = "bench-server";

/// How long pods may take to start.
const LIMIT: Duration = Duration::from_mins(1);

/// A lab of its own, taken down when dropped.
pub(super) struct Lab {
    program: PathBuf,
    place: Place,
}

impl Lab {
    /// Starts it.
    pub(super) fn up(program: PathBuf, nodes: usize) -> anyhow::Result<Self> {
        let place = Place::at(format!("/run/ringfence-bench-{}", std::process::id()));
        let lab = Self { program, place };
        lab.run(&["up", "--nodes", &nodes.to_string()])?;
        Ok(lab)
    }

    /// Takes it down, and says if that fails.
    pub(super) fn down(&self) -> anyhow::Result<()> {
        self.run(&["down"])
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("lab").args(arguments).env("RINGFENCE_LAB_DIR", self.place.root()).stdout(Stdio::null());
        let status = command.status().with_context(|| format!("{} cannot be started", self.program.display()))?;
        if !status.success() {
            bail!("ringfence lab {} failed ({status})", arguments.join(" "));
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.down();
    }
}

/// A change, and by its order in a round the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
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
    pub(super) const ROUND: [Self; 10] = [
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

    /// Whether the client reaches the server afterwards.
    pub(super) fn allows(self) -> bool {
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

    /// What is done to what.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::CreateDenyIngress | Self::CreateOnly | Self::CreateDenyEgress => "create",
            Self::DeleteDenyIngress | Self::DeleteOnly | Self::DeleteDenyEgress => "delete",
            Self::UpdateToStranger | Self::UpdateToFriend => "update",
            Self::RelabelIn | Self::RelabelOut => "relabel",
        }
    }
}

/// The two pods.
pub(super) struct Cluster {
    client: Client,
    /// Network namespace of the client.
    pub(super) client_namespace: String,
    /// Address of the server.
    pub(super) server: Ipv4Addr,
}

impl Cluster {
    /// Makes namespaces and pods and waits until they run.
    pub(super) async fn start(lab: &Lab, nodes: usize, others: usize) -> anyhow::Result<Self> {
        let config = Kubeconfig::read_from(lab.place.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        for name in [CLIENT, SERVER] {
            let namespace = object::<Namespace>(json!({"metadata": {"name": name}}))?;
            Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        }
        // Before there are pods, which then start with all of them.
        create_others(&client, others).await?;
        let last = format!("node-{nodes}");
        let server = run(&client, SERVER, pod("server", "node-1", &json!({"app": "server"}))?).await?;
        let labels = json!({"app": "client", "role": "stranger"});
        let prober = run(&client, CLIENT, pod("client", &last, &labels)?).await?;
        let uid = prober.metadata.uid.context("the client has no uid")?;
        let address = server.status.and_then(|status| status.pod_ip).context("the server has no address")?;
        let client_namespace = lab.place.pod_namespace(&uid);
        Ok(Self { client, client_namespace, server: address.parse()? })
    }

    /// Makes a change; returns when the API has answered.
    pub(super) async fn make(&self, change: Change) -> anyhow::Result<()> {
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

async fn create_others(client: &Client, others: usize) -> anyhow::Result<()> {
    let mut workers = tokio::task::JoinSet::new();
    for first in 0..AT_ONCE {
        let api: Api<NetworkPolicy> = Api::namespaced(client.clone(), CLIENT);
        workers.spawn(async move {
            for number in (first..others).step_by(AT_ONCE) {
                api.create(&PostParams::default(), &object(other(number))?).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(result) = workers.join_next().await {
        result??;
    }
    Ok(())
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(value)?)
}

/// Creates a pod and waits until it is ready.
async fn run(client: &Client, namespace: &str, pod: Pod) -> anyhow::Result<Pod> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let name = api.create(&PostParams::default(), &pod).await?.metadata.name.context("a pod without a name")?;
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        let pod = api.get(&name).await?;
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        if conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True")) {
            return Ok(pod);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("pod {namespace}/{name} is not ready after {LIMIT:?}")
}

fn pod(name: &str, node: &str, labels: &Value) -> anyhow::Result<Pod> {
    object(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": name, "image": "nginx"}]},
    }))
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
