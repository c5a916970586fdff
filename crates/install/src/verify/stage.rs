//! Namespaces and pods of one run, and their end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod as KubePod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::case::{Attempt, PODS, Pod, attempts};
use crate::exec::Container;
use crate::{objects, rollout};

/// Label of everything that is made, with the name of the run.
const LABEL: &str = "ringfence-verify";
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The time that removal may take.
const REMOVAL_TIMEOUT: Duration = Duration::from_mins(2);

/// One run.
pub(super) struct Stage {
    pub(super) client: Client,
    run: String,
}

/// Pods that are there.
pub(super) struct Pods {
    run: String,
    addresses: BTreeMap<Pod, Vec<IpAddr>>,
}

/// Names and addresses, for policies.
pub(super) struct Names<'a>(&'a Pods);

impl Stage {
    /// A run of a name that no other has; nothing is made yet.
    pub(super) fn named(client: Client) -> Self {
        Self { client, run: format!("{:06x}", rand::random::<u32>() & 0xff_ffff) }
    }

    /// Names of its namespaces.
    pub(super) fn namespaces(&self) -> [String; 2] {
        ["x", "y"].map(|space| namespace(&self.run, space))
    }

    /// Names and addresses.
    #[expect(clippy::unused_self, reason = "names are those of a stage")]
    pub(super) fn names<'a>(&self, pods: &'a Pods) -> Names<'a> {
        Names(pods)
    }

    /// A policy with the label that its removal goes by.
    pub(super) fn mark(&self, mut policy: Value) -> Value {
        policy["metadata"]["labels"] = json!({LABEL: self.run});
        policy
    }

    /// True if the API has ClusterNetworkPolicies.
    pub(super) async fn serves_cluster_policies(&self) -> anyhow::Result<bool> {
        let listed = objects::cluster_policies(&self.client).list(&ListParams::default().limit(1)).await;
        Ok(objects::found(listed).context("cannot list ClusterNetworkPolicies")?.is_some())
    }

    /// Makes namespaces and pods, on two nodes if there are as many, and waits for the pods.
    pub(super) async fn make(&self, image: &str, patience: Duration) -> anyhow::Result<Pods> {
        let nodes = self.nodes().await?;
        for space in ["x", "y"] {
            let labels = json!({LABEL: self.run, "space": space});
            let name = namespace(&self.run, space);
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            objects::apply(&self.client, &object).await?;
        }
        for pod in PODS {
            let node = if pod.name == "a" { nodes.first() } else { nodes.last() };
            let object = self.pod(pod, image, node.context("no node can take pods")?);
            let api = objects::api(&self.client, &object)?;
            api.create(&PostParams::default(), &serde_json::from_value(object)?).await.context("cannot make a pod")?;
        }
        let end = Instant::now() + patience;
        let mut addresses = BTreeMap::new();
        for pod in PODS {
            addresses.insert(pod, self.ready(pod, end).await?);
        }
        Ok(Pods { run: self.run.clone(), addresses })
    }

    /// Two nodes that take pods.
    async fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let takes = |node: &&Node| {
            let spec = node.spec.clone().unwrap_or_default();
            let linux = node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux");
            let tainted = spec.taints.iter().flatten().any(|taint| taint.effect != "PreferNoSchedule");
            linux && !tainted && spec.unschedulable != Some(true)
        };
        Ok(nodes.iter().filter(takes).map(ResourceExt::name_any).take(2).collect())
    }

    fn pod(&self, pod: Pod, image: &str, node: &str) -> Value {
        let server = |name: &str, port: u16, ports: Value| {
            json!({
                "name": name, "image": image, "ports": ports,
                "args": ["netexec", format!("--http-port={port}"), format!("--udp-port={port}")],
                "readinessProbe": {"httpGet": {"path": "/hostname", "port": port}, "periodSeconds": 1},
            })
        };
        let web = json!([
            {"name": "web", "containerPort": 8080}, {"name": "dgram", "containerPort": 8080, "protocol": "UDP"},
        ]);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod.name, "namespace": namespace(&self.run, pod.space),
                "labels": {LABEL: self.run, "pod": pod.name},
            },
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [
                    server("web", 8080, web), server("alt", 8081, json!([{"name": "alt", "containerPort": 8081}])),
                ],
            },
        })
    }

    /// Waits for a pod; returns its addresses.
    async fn ready(&self, pod: Pod, end: Instant) -> anyhow::Result<Vec<IpAddr>> {
        let api: Api<KubePod> = Api::namespaced(self.client.clone(), &namespace(&self.run, pod.space));
        loop {
            let found = api.get_opt(pod.name).await?;
            let ips = found.iter().flat_map(|pod| pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten()));
            let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.ip.parse().ok()).collect();
            if found.as_ref().is_some_and(rollout::is_ready) && !addresses.is_empty() {
                return Ok(addresses);
            }
            if Instant::now() > end {
                let why = found.as_ref().and_then(rollout::trouble).unwrap_or_else(|| "it is not ready".into());
                bail!("pod {pod} did not start: {why}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Takes everything away.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        remove(&self.client, &format!("{LABEL}={}", self.run)).await
    }
}

impl Pods {
    /// The container from which a pod's connections are opened.
    pub(super) fn container(&self, pod: Pod) -> Container {
        Container { namespace: namespace(&self.run, pod.space), pod: pod.name.into(), name: "web".into() }
    }

    /// Addresses of a pod.
    pub(super) fn addresses(&self, pod: Pod) -> &[IpAddr] {
        self.addresses.get(&pod).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every connection to try.
    pub(super) fn attempts(&self) -> Vec<(Attempt, IpAddr)> {
        attempts(|pod| self.addresses(pod).to_vec())
    }

    /// Families of the pods' addresses.
    pub(super) fn families(&self) -> &'static str {
        let mut all = self.addresses.values().flatten();
        match (all.clone().any(IpAddr::is_ipv4), all.any(IpAddr::is_ipv6)) {
            (true, true) => "IPv4 and IPv6",
            (false, true) => "IPv6",
            _ => "IPv4",
        }
    }
}

impl Names<'_> {
    /// The namespace of a space.
    pub(super) fn namespace(&self, space: &str) -> String {
        namespace(&self.0.run, space)
    }

    /// The name of a cluster-wide object.
    pub(super) fn cluster_wide(&self, name: &str) -> String {
        format!("ringfence-verify-{}-{name}", self.0.run)
    }

    /// The name of the run, which is a label of its namespaces.
    pub(super) fn run(&self) -> &str {
        &self.0.run
    }

    /// The addresses of a pod as blocks.
    pub(super) fn blocks(&self, space: &str, name: &str) -> Vec<String> {
        let pods = PODS.into_iter().filter(|pod| (pod.space, pod.name) == (space, name));
        let addresses = pods.flat_map(|pod| self.0.addresses(pod));
        addresses.map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })).collect()
    }
}

#[cfg(test)]
impl Names<'static> {
    /// For tests: pods with addresses of both families.
    pub(super) fn example() -> Self {
        let mut addresses = BTreeMap::new();
        for (index, pod) in (1_u16..).zip(PODS) {
            let six: IpAddr = [0xfd00, 0, 0, 0, 0, 0, 0, index].into();
            let four: IpAddr = format!("10.0.0.{index}").parse().unwrap();
            addresses.insert(pod, vec![four, six]);
        }
        Self(Box::leak(Box::new(Pods { run: "abc".into(), addresses })))
    }

    /// For tests: addresses of a pod.
    pub(super) fn addresses(&self, pod: Pod) -> &[IpAddr] {
        self.0.addresses(pod)
    }
}

fn namespace(run: &str, space: &str) -> String {
    format!("ringfence-verify-{run}-{space}")
}

/// Takes away what every run made.
pub(super) async fn remove_all(client: &Client) -> anyhow::Result<()> {
    remove(client, LABEL).await
}

/// Deletes what has a label, and waits until the namespaces are gone.
async fn remove(client: &Client, label: &str) -> anyhow::Result<()> {
    objects::remove_cluster_policies(client, label).await?;
    let selected = ListParams::default().labels(label);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for namespace in namespaces.list(&selected).await? {
        objects::ignore_absence(namespaces.delete(&namespace.name_any(), &DeleteParams::background()).await)?;
    }
    let end = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        let left: Vec<String> = namespaces.list(&selected).await?.iter().map(ResourceExt::name_any).collect();
        if left.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "namespaces do not go away: {}", left.join(", "));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
