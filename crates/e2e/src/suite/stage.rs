//! The pods that talk to each other, and what they do it under.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use ringfence_e2e::cluster::{Cluster, LABEL, eventually};
use ringfence_install::exec::Container;
use ringfence_install::verify::IMAGE;
use ringfence_install::wait;
use ringfence_install::{objects, status};
use serde_json::{Value, json};

use super::attempt::{self, Attempt};

/// Namespace of the pods.
pub(super) const SPACE: &str = "ringfence-e2e-suite";
/// Port of pods, by TCP and UDP; the containers call it `web` and `dgram`.
pub(super) const PORT: u16 = 8080;
/// The same of pods in the network of their node.
pub(super) const HOST_PORT: u16 = 28080;
/// The time that a change may take to be enforced everywhere.
const ENFORCE_TIMEOUT: Duration = Duration::from_mins(1);
/// The number of pods are waited for at a time.
const AT_ONCE: usize = 8;

/// A pod that talks.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl Actor {
    /// Of a pod that is ready.
    pub(super) fn of(pod: &Pod) -> Self {
        let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            addresses: ips.filter_map(|ip| ip.ip.parse().ok()).collect(),
        }
    }

    /// The container from which it calls.
    pub(super) fn container(&self) -> Container {
        Container { namespace: self.namespace.clone(), pod: self.name.clone(), name: "agnhost".into() }
    }
}

/// A node and who is there: on each a server, a friend and a stranger, and a pod in the network of the node.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) server: Actor,
    pub(super) friend: Actor,
    pub(super) stranger: Actor,
    pub(super) host: Actor,
}

/// Fixture of the cases.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) near: Place,
    pub(super) far: Place,
    /// True if Ringfence is the network plugin too.
    pub(super) primary: bool,
    /// True if this is Ringfence's own lab.
    pub(super) lab: bool,
}

impl Stage {
    /// Makes the pods, and waits for them.
    pub(super) async fn make(cluster: &Cluster) -> anyhow::Result<Self> {
        let names = cluster.nodes().await?;
        let [near, far, ..] = &names[..] else {
            anyhow::bail!("the cluster has {} node that is ready, and two are needed", names.len());
        };
        cluster.namespace(SPACE, &json!({})).await?;
        let (near, far) = tokio::try_join!(place(cluster, near, "near"), place(cluster, far, "far"))?;
        let agents = status::ask(&cluster.client).await?;
        anyhow::ensure!(!agents.nodes.is_empty(), "no agent runs in this cluster; hint: ringfence install");
        let primary = agents
            .nodes
            .iter()
            .any(|node| node.status.as_ref().is_some_and(|status| status.enforcement.node_routes.is_some()));
        let api: Api<Node> = Api::all(cluster.client.clone());
        let info = api.get(&near.node).await?.status.and_then(|status| status.node_info);
        let lab = info.is_some_and(|info| info.os_image == "Ringfence lab node");
        Ok(Self { cluster: cluster.clone(), near, far, primary, lab })
    }

    /// Makes attempts while policies are in force. Returns what differs.
    pub(super) async fn under(
        &self,
        title: &str,
        policies: &[Value],
        attempts: &[Attempt],
    ) -> anyhow::Result<Vec<String>> {
        let written = self.put(policies).await?;
        let mut wrong = attempt::all(&self.cluster.client, attempts).await;
        wrong.extend(self.take(&written).await?);
        Ok(wrong.into_iter().map(|line| format!("{title}: {line}")).collect())
    }

    /// Makes attempts, each of which must come about soon while no policy is in force.
    pub(super) async fn open(&self, attempts: &[Attempt]) -> Vec<String> {
        attempt::soon(&self.cluster.client, attempts).await
    }

    /// Writes policies and waits until they are enforced everywhere; returns them as the API has them.
    pub(super) async fn put(&self, policies: &[Value]) -> anyhow::Result<Vec<Value>> {
        let mut written = Vec::new();
        for policy in policies {
            written.push(serde_json::to_value(self.cluster.apply(policy).await?)?);
        }
        let wanted = written.iter().map(wait::enforced).collect::<anyhow::Result<Vec<_>>>()?;
        let lags = wait::everywhere(&self.cluster.client, &wanted, ENFORCE_TIMEOUT).await?;
        anyhow::ensure!(lags.is_empty(), "not enforced in {ENFORCE_TIMEOUT:?}: {}", lags.join("; "));
        Ok(written)
    }

    /// Removes policies and waits until they are enforced nowhere; says where they still are.
    pub(super) async fn take(&self, written: &[Value]) -> anyhow::Result<Vec<String>> {
        for policy in written {
            self.cluster.delete(policy).await?;
        }
        let gone = written.iter().map(wait::gone).collect::<anyhow::Result<Vec<_>>>()?;
        wait::everywhere(&self.cluster.client, &gone, ENFORCE_TIMEOUT).await
    }

    /// Takes away the policies and Services of a case that broke off, so that the next begins with none.
    pub(super) async fn sweep(&self) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        let own = Api::<NetworkPolicy>::namespaced(client.clone(), SPACE).list(&ListParams::default()).await?;
        let left = own.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        let lags = self.take(&left).await?;
        anyhow::ensure!(lags.is_empty(), "not gone in {ENFORCE_TIMEOUT:?}: {}", lags.join("; "));
        objects::remove_cluster_policies(client, LABEL).await?;
        for service in Api::<Service>::namespaced(client.clone(), SPACE).list(&ListParams::default()).await? {
            self.cluster.delete(&serde_json::to_value(service)?).await?;
        }
        Ok(())
    }

    /// Makes a Service; returns it with its addresses. Every family that the cluster has is asked for.
    pub(super) async fn service(&self, name: &str, spec: Value) -> anyhow::Result<Value> {
        let mut spec = spec;
        spec["ipFamilyPolicy"] = json!("PreferDualStack");
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SPACE}, "spec": spec,
        });
        Ok(serde_json::to_value(self.cluster.apply(&object).await?)?)
    }

    /// Both places.
    pub(super) fn places(&self) -> [&Place; 2] {
        [&self.near, &self.far]
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = &self.near.server.addresses;
        let families = match (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6)) {
            (true, true) => "IPv4 and IPv6",
            (false, true) => "IPv6",
            _ => "IPv4",
        };
        let mode = if self.primary { "Ringfence is the network plugin" } else { "another plugin gives the network" };
        write!(f, "{families}, nodes {} and {}, {mode}", self.near.node, self.far.node)
    }
}

async fn place(cluster: &Cluster, node: &str, word: &str) -> anyhow::Result<Place> {
    let roles = ["server", "friend", "stranger", "host"];
    for role in roles {
        cluster.create(&pod(role, word, node)).await?;
    }
    let ready = |role: &'static str| async move {
        anyhow::Ok(Actor::of(&cluster.ready(SPACE, &format!("{role}-{word}")).await?))
    };
    let actors: Vec<Actor> = stream::iter(roles.map(ready)).buffered(AT_ONCE).try_collect().await?;
    let [server, friend, stranger, host] = <[Actor; 4]>::try_from(actors).ok().context("four pods")?;
    let status = Api::<Node>::all(cluster.client.clone()).get(node).await?.status.unwrap_or_default();
    let internal = status.addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    let addresses = internal.filter_map(|address| address.address.parse().ok()).collect();
    Ok(Place { node: node.to_owned(), addresses, server, friend, stranger, host })
}

fn pod(role: &str, word: &str, node: &str) -> Value {
    let host = role == "host";
    let mut pod = listening(&format!("{role}-{word}"), node, if host { HOST_PORT } else { PORT });
    pod["metadata"]["labels"] = json!({"role": role, "pod": format!("{role}-{word}")});
    pod["spec"]["hostNetwork"] = json!(host);
    pod
}

/// A pod of the stage that answers on a port by TCP and UDP, and without labels.
pub(super) fn listening(name: &str, node: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{
                "name": "agnhost", "image": IMAGE,
                "args": ["netexec", format!("--http-port={port}"), format!("--udp-port={port}")],
                "ports": [
                    {"name": "web", "containerPort": port},
                    {"name": "dgram", "containerPort": port, "protocol": "UDP"},
                ],
                "readinessProbe": {"httpGet": {"path": "/hostname", "port": port}, "periodSeconds": 1},
            }],
        },
    })
}

/// Removes everything that was made, and waits until it is gone.
pub(super) async fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    objects::remove_cluster_policies(&cluster.client, LABEL).await?;
    cluster.clean_up().await
}

/// Removes a pod and waits until it is gone.
pub(super) async fn end(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), SPACE);
    api.delete(name, &DeleteParams::default().grace_period(0)).await.with_context(|| format!("pod {name}"))?;
    eventually(&format!("pod {name} is gone"), || async { Ok(api.get_opt(name).await?.is_none().then_some(())) }).await
}
