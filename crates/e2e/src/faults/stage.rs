//! The pods that call each other, the policies that say who may, and the probes between them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use parking_lot::RwLock;
use ringfence_e2e::cluster::Cluster;
use ringfence_e2e::machine::Machine;
use ringfence_e2e::pod;
use ringfence_install::status;
use serde_json::{Value, json};

use super::ledger::{DECIDED, Expect, Ledger, Pair};
use super::prober::{self, End};
use super::server::{self, ECHO, KNOCK, Load, STREAM};
use super::witness::{self, Callers};

/// Namespace of the stage.
pub(crate) const SPACE: &str = "e2e-faults";
/// Image of pods that do nothing.
pub(crate) const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.53";
/// Callers: the first and the last may, as policies say; a visitor only at times.
const CALLERS: [(&str, Expect); 4] =
    [("friend", Expect::Open), ("stranger", Expect::Shut), ("caged", Expect::Shut), ("visitor", Expect::Shut)];
/// The time that a change may take to be in force, where no fault delays it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A server pod with its threads.
struct Served {
    address: IpAddr,
    load: Arc<Load>,
    callers: Arc<Callers>,
    _threads: [End; 2],
}

/// A pair with the thread that probes.
pub(crate) struct Probed {
    /// Number of the caller's node, from 1.
    pub(crate) from: usize,
    /// Number of the server's node.
    pub(crate) to: usize,
    /// The caller.
    pub(crate) caller: &'static str,
    /// The record of observations.
    pub(crate) pair: Arc<Pair>,
    _thread: End,
}

/// Everything under probes.
pub(crate) struct Stage {
    /// The API.
    pub(crate) cluster: Cluster,
    /// The nodes as processes, if they are on this machine.
    pub(crate) machine: Option<Machine>,
    /// True if Ringfence is the network plugin too.
    pub(crate) primary: bool,
    /// Names of the nodes; number 1 is the first.
    pub(crate) nodes: Vec<String>,
    /// The record of observations.
    pub(crate) ledger: Arc<Ledger>,
    /// Pairs that are probed now.
    pub(crate) pairs: Vec<Probed>,
    servers: HashMap<usize, Served>,
    /// True if visitors may call now.
    pub(crate) visit: bool,
}

impl Stage {
    /// Makes pods and policies, and begins to probe.
    pub(crate) async fn make(cluster: Cluster, machine: Option<Machine>) -> anyhow::Result<Self> {
        let nodes = cluster.nodes().await?;
        if nodes.len() < 2 {
            bail!("a cluster of at least two nodes is needed; this one has {}", nodes.len());
        }
        let nodes: Vec<String> = nodes.into_iter().take(2).collect();
        let ledger = Ledger::new();
        let agents = status::ask(&cluster.client).await?;
        let mut told = agents.nodes.iter().filter_map(|node| node.status.as_ref());
        let primary = told.any(|status| status.enforcement.node_routes.is_some());
        let (pairs, servers) = (Vec::new(), HashMap::new());
        let mut stage = Self { cluster, machine, primary, nodes, ledger, pairs, servers, visit: false };
        stage.cluster.namespace(SPACE, &json!({})).await?;
        for policy in policies() {
            stage.cluster.apply(&policy).await?;
        }
        stage.cluster.apply(&visitors(false)).await?;
        for number in 1..=stage.nodes.len() {
            for app in CALLERS.iter().map(|(app, _)| *app).chain(["server"]) {
                stage.cluster.create(&idle(app, number, &stage.nodes[number - 1])).await?;
            }
        }
        stage.probe().await?;
        stage.settle().await?;
        Ok(stage)
    }

    /// Probes every pair that is not probed yet; its pods are waited for.
    pub(crate) async fn probe(&mut self) -> anyhow::Result<()> {
        let numbers = 1..=self.nodes.len();
        for number in numbers.clone() {
            if !self.servers.contains_key(&number) {
                let pod = self.pod("server", number).await?;
                let served = self.serve(&pod, number)?;
                self.servers.insert(number, served);
            }
        }
        for (caller, expect) in CALLERS {
            for from in numbers.clone() {
                let pod = self.pod(caller, from).await?;
                for to in numbers.clone() {
                    if !self.pairs.iter().any(|pair| (pair.caller, pair.from, pair.to) == (caller, from, to)) {
                        let probed = self.call(&pod, caller, expect, (from, to))?;
                        self.pairs.push(probed);
                    }
                }
            }
        }
        Ok(())
    }

    async fn pod(&self, app: &str, number: usize) -> anyhow::Result<Pod> {
        self.cluster.ready(SPACE, &format!("{app}-{number}")).await
    }

    fn serve(&self, pod: &Pod, number: usize) -> anyhow::Result<Served> {
        let (namespace, address) = (pod::network(pod)?, pod::address(pod)?);
        let load = Arc::new(Load::default());
        let others = Pair::new(format!("anybody else -> server-{number}"), &self.ledger, Expect::Shut);
        let callers = Arc::new(Callers { known: RwLock::default(), others, arrived: AtomicU64::new(0) });
        let threads = [server::start(&namespace, address, &load)?, witness::start(&namespace, address, &callers)?];
        Ok(Served { address, load, callers, _threads: threads })
    }

    fn call(
        &self,
        pod: &Pod,
        caller: &'static str,
        expect: Expect,
        (from, to): (usize, usize),
    ) -> anyhow::Result<Probed> {
        let server = self.servers.get(&to).context("a server without threads")?;
        let expect = if caller == "visitor" && self.visit { Expect::Open } else { expect };
        // Judged from when it is as it shall be.
        let pair = Pair::new(format!("{caller}-{from} -> server-{to}"), &self.ledger, Expect::Any);
        let mut known = server.callers.known.write();
        known.insert(pod::address(pod)?, Arc::clone(&pair));
        drop(known);
        pair.expect(if expect == Expect::Shut { Expect::Shut } else { Expect::Any });
        let thread = prober::start(pod::network(pod)?, server.address, Arc::clone(&server.load), Arc::clone(&pair));
        Ok(Probed { from, to, caller, pair, _thread: thread })
    }

    /// Forgets everything that has an end on a node, which is about to go.
    pub(crate) async fn leave(&mut self, number: usize) {
        self.exempt(|probed| probed.from == number || probed.to == number);
        self.pairs.retain(|pair| pair.from != number && pair.to != number);
        self.servers.remove(&number);
        // The last packets of ended probers arrive.
        tokio::time::sleep(DECIDED).await;
        // The node's pods may come back under other addresses, and these are then somebody else's.
        for server in self.servers.values() {
            let mut known = server.callers.known.write();
            known.retain(|_, pair| pair.ticket().expect != Expect::Any);
        }
    }

    /// Expectation of a pair while nothing changes.
    fn wanted(&self, pair: &Probed) -> bool {
        pair.caller == "friend" || (pair.caller == "visitor" && self.visit)
    }

    /// Waits until every pair is as it shall be; from then on it is judged.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        self.reach(Instant::now(), PATIENCE, |_| true).await.map(drop)
    }

    /// Waits until pairs are as they shall be, and says how long after a moment the last one was not.
    pub(crate) async fn reach(
        &self,
        changed: Instant,
        limit: Duration,
        which: impl Fn(&Probed) -> bool,
    ) -> anyhow::Result<Duration> {
        let mut last = Duration::ZERO;
        let mut waiting: Vec<&Probed> = self.pairs.iter().filter(|pair| which(pair)).collect();
        loop {
            waiting.retain(|probed| {
                let open = self.wanted(probed);
                let Some(took) = probed.pair.settled(open, changed) else { return true };
                last = last.max(took);
                probed.pair.expect(if open { Expect::Open } else { Expect::Shut });
                false
            });
            let Some(first) = waiting.first() else { return Ok(last) };
            if changed.elapsed() > limit {
                let wanted = if self.wanted(first) { "open" } else { "closed" };
                bail!("{} is not {wanted} after {limit:?} ({} pairs)", first.pair.name, waiting.len());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lets visitors in or not, at the API alone; their pairs are not judged until [`Self::reach`] finds them right.
    /// Says when the API answered.
    pub(crate) async fn change(&mut self, open: bool) -> anyhow::Result<Instant> {
        self.expect_any(|_| true);
        self.visit = open;
        self.cluster.apply(&visitors(open)).await?;
        Ok(Instant::now())
    }

    /// Visitors' pairs are not judged for now.
    fn expect_any(&self, which: impl Fn(&Probed) -> bool) {
        self.exempt(|pair| pair.caller == "visitor" && which(pair));
    }

    /// As [`Self::change`], with pairs to one node left as they are: what is enforced there must stand.
    pub(crate) async fn change_without(&mut self, node: usize, open: bool) -> anyhow::Result<Instant> {
        self.expect_any(|pair| pair.to != node);
        self.visit = open;
        self.cluster.apply(&visitors(open)).await?;
        Ok(Instant::now())
    }

    /// Visitors' pairs to a node are not judged until they are found right.
    pub(crate) fn release(&self, node: usize) {
        self.expect_any(|pair| pair.to == node);
    }

    /// Some pairs are not judged until they are found right.
    pub(crate) fn exempt(&self, which: impl Fn(&Probed) -> bool) {
        for probed in self.pairs.iter().filter(|probed| which(probed)) {
            probed.pair.expect(Expect::Any);
        }
    }

    /// Exempts probes that are allowed now until they are answered again; what is not is judged all the while.
    pub(crate) fn exempt_open(&self) {
        self.exempt(|probed| probed.pair.ticket().expect == Expect::Open);
    }

    /// Ends all probing, and removes what was made.
    pub(crate) async fn clean_up(mut self) -> anyhow::Result<()> {
        self.pairs.clear();
        self.servers.clear();
        self.cluster.clean_up().await
    }

    /// Addresses of pods of other people, whom no policy of ours is about.
    pub(crate) async fn strange(&self) -> anyhow::Result<HashSet<IpAddr>> {
        let pods = Api::<Pod>::all(self.cluster.client.clone()).list(&ListParams::default()).await?;
        let strange = pods.iter().filter(|pod| pod.namespace().is_some_and(|space| !space.starts_with(SPACE)));
        Ok(strange.filter_map(|pod| pod::address(pod).ok()).collect())
    }

    /// Addresses of all pods.
    pub(crate) async fn addresses(&self) -> anyhow::Result<HashSet<IpAddr>> {
        let pods = Api::<Pod>::all(self.cluster.client.clone()).list(&ListParams::default()).await?;
        Ok(pods.iter().filter_map(|pod| pod::address(pod).ok()).collect())
    }

    /// Range of the addresses of a node's pods.
    pub(crate) async fn range(&self, number: usize) -> anyhow::Result<String> {
        let node = Api::<Node>::all(self.cluster.client.clone()).get(&self.nodes[number - 1]).await?;
        node.spec.and_then(|spec| spec.pod_cidr).with_context(|| format!("node {number} has no range for pods"))
    }
}

/// A pod that does nothing.
pub(crate) fn idle(app: &str, number: usize, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{app}-{number}"), "namespace": SPACE, "labels": {"app": app}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "idle", "image": IMAGE, "args": ["pause"], "imagePullPolicy": "IfNotPresent"}],
        },
    })
}

fn policy(name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": SPACE});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

fn ports() -> Value {
    json!([{"protocol": "TCP", "port": KNOCK}, {"protocol": "TCP", "port": STREAM}, {"protocol": "UDP", "port": ECHO}])
}

fn app(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"app": name}}})
}

/// Policies that stay as they are.
fn policies() -> [Value; 4] {
    let select = |name: &str| json!({"matchLabels": {"app": name}});
    [
        policy(
            "servers",
            &json!({
                "podSelector": select("server"), "policyTypes": ["Ingress"],
                "ingress": [{"from": [app("friend"), app("caged")], "ports": ports()}],
            }),
        ),
        policy(
            "friends",
            &json!({
                "podSelector": select("friend"), "policyTypes": ["Egress"],
                "egress": [{"to": [app("server")], "ports": ports()}],
            }),
        ),
        policy("caged", &json!({"podSelector": select("caged"), "policyTypes": ["Egress"]})),
        // Nobody calls those who call.
        policy(
            "callers",
            &json!({
                "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["server",
                "open"]}]},
                "policyTypes": ["Ingress"],
            }),
        ),
    ]
}

/// The policy that changes.
fn visitors(open: bool) -> Value {
    let whom = if open { "visitor" } else { "nobody" };
    policy(
        "visitors",
        &json!({
            "podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [app(whom)], "ports": ports()}],
        }),
    )
}
