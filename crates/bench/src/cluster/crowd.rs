//! Many pods and policies in the API server, of nodes that nobody runs, and what the agents make of them.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use ringfence_e2e::cluster::{Cluster, LABEL};
use serde_json::{Value, json};

use super::Bench;
use super::agents::{self, Agent, Usage};
use super::load::{self, Load};
use crate::figures::table;
use crate::side_by_side::side_by_side;

/// So many at a time.
const AT_ONCE: usize = 16;
/// So many namespaces, which share the pods and the policies.
const NAMESPACES: usize = 40;
/// So many nodes that nobody runs.
const NODES: usize = 20;
/// Label of a node's operating system: of another than Linux, it gets no agent and nothing to clean.
const OS: &str = "kubernetes.io/os";
/// So many values of the label by which policies select.
const APPS: usize = 20;
/// So many pods that really run, on each node.
const REAL: usize = 10;

/// Options of the measurement.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Pods in the API server.
    #[arg(long, default_value_t = 20_000)]
    pods: usize,
    /// Policies in the API server.
    #[arg(long, default_value_t = 2_000)]
    policies: usize,
    /// Changes of pods a second, half of them of labels and half of the status.
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// The time that the agents are watched while nothing changes, and while pods change.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// Measures and reports.
pub(super) fn run(bench: &Bench, options: &Options) -> anyhow::Result<String> {
    let result = bench.runtime.block_on(fill(&bench.cluster, options)).and_then(|()| measure(bench, options));
    let tidied = bench.runtime.block_on(tidy(&bench.cluster));
    let report = result?;
    tidied?;
    Ok(report)
}

/// Resource use and requests between two moments.
struct Phase {
    name: &'static str,
    seconds: f64,
    /// Of each agent: before and after.
    usage: Vec<(Usage, Usage)>,
    load: (Load, Load),
}

fn measure(bench: &Bench, options: &Options) -> anyhow::Result<String> {
    let cluster = &bench.cluster;
    let load = || bench.runtime.block_on(load::load(&cluster.client));
    bench.runtime.block_on(load::count_apart(cluster))?;
    bench.ringfence(&["uninstall"])?;
    let (without, begun) = (load()?, Instant::now());
    bench.ringfence(&["install"])?;
    let took = begun.elapsed().as_secs_f64();
    // Started, they have not done everything yet.
    std::thread::sleep(Duration::from_secs(2));
    let agents = bench.runtime.block_on(agents::find(cluster))?;
    let usage = agents::usage_of(&agents)?.into_iter().map(|used| (Usage::default(), used)).collect();
    let started = load()?;
    let start = Phase { name: "start", seconds: took, usage, load: (without, started) };
    let span = Duration::from_secs(options.seconds);
    let idle = phase("idle", &agents, &load, || {
        std::thread::sleep(span);
        Ok(())
    })?;
    let mut made = 0;
    let busy = phase("pods change", &agents, &load, || {
        made = bench.runtime.block_on(change(&cluster.client, options, span))?;
        Ok(())
    })?;
    let rows: Vec<_> = [&start, &idle, &busy].into_iter().flat_map(Phase::rows).collect();
    let headings = ["", "node", "seconds", "processors", "MB resident", "MB at most", "requests/s of an agent"];
    #[expect(clippy::cast_precision_loss, reason = "few nodes")]
    let watches = (started.watches - without.watches) / agents.len() as f64;
    Ok(format!(
        "{}\n{:.0} changes a second were made. An agent holds {watches:.1} watches; its start took {:.0} requests.\n",
        table(&headings, &rows),
        f64::from(made) / busy.seconds,
        (started.requests - without.requests) / float(agents.len()),
    ))
}

fn phase(
    name: &'static str,
    agents: &[Agent],
    load: &dyn Fn() -> anyhow::Result<Load>,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Phase> {
    let (before, asked, begun) = (agents::usage_of(agents)?, load()?, Instant::now());
    act()?;
    let seconds = begun.elapsed().as_secs_f64();
    let usage = before.into_iter().zip(agents::usage_of(agents)?).collect();
    Ok(Phase { name, seconds, usage, load: (asked, load()?) })
}

impl Phase {
    fn rows(&self) -> Vec<Vec<String>> {
        let requests = (self.load.1.requests - self.load.0.requests) / float(self.usage.len()) / self.seconds;
        let row = |(node, (before, after)): (usize, &(Usage, Usage))| {
            vec![
                self.name.to_owned(),
                (node + 1).to_string(),
                format!("{:.1}", self.seconds),
                format!("{:.3}", (after.seconds - before.seconds) / self.seconds),
                format!("{:.0}", after.resident),
                format!("{:.0}", after.peak),
                format!("{requests:.2}"),
            ]
        };
        self.usage.iter().enumerate().map(row).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

fn namespace(number: usize) -> String {
    format!("bench-crowd-{}", number % NAMESPACES)
}

fn app(number: usize) -> String {
    format!("a{}", number / NAMESPACES % APPS)
}

/// Writes everything to the API server.
async fn fill(cluster: &Cluster, options: &Options) -> anyhow::Result<()> {
    let nodes = cluster.nodes().await?;
    for number in 0..NAMESPACES {
        cluster.namespace(&namespace(number), &json!({"team": format!("t{}", number % 5)})).await?;
    }
    for number in 0..NODES {
        let node = json!({
            "metadata": {"name": format!("bench-crowd-{number}"), "labels": {LABEL: "yes", OS: "none"}},
            "spec": {"unschedulable": true},
        });
        Api::<Node>::all(cluster.client.clone()).create(&PostParams::default(), &serde_json::from_value(node)?).await?;
    }
    for node in &nodes {
        for number in 0..REAL {
            cluster.create(&pod(&format!("real-{node}-{number}"), number * NAMESPACES, node)).await?;
        }
    }
    for node in &nodes {
        for number in 0..REAL {
            cluster.ready(&namespace(0), &format!("real-{node}-{number}")).await?;
        }
    }
    eprintln!("writing {} policies and {} pods", options.policies, options.pods);
    let client = &cluster.client;
    side_by_side(0..options.policies, AT_ONCE, |number| write_policy(client.clone(), number)).await?;
    side_by_side(0..options.pods, AT_ONCE, |number| write_pod(client.clone(), number)).await
}

fn pod(name: &str, number: usize, node: &str) -> Value {
    json!({
        "metadata": {
            "namespace": namespace(number), "name": name,
            "labels": {"app": app(number), "tier": format!("t{}", number % 3)},
        },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "main", "image": "nginx", "imagePullPolicy": "IfNotPresent",
                "ports": [{"name": "web", "containerPort": 80}],
            }],
        },
    })
}

async fn write_pod(client: Client, number: usize) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client, &namespace(number));
    let name = format!("p{number}");
    let pod = pod(&name, number, &format!("bench-crowd-{}", number % NODES));
    api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let address = format!("10.{}.{}.{}", 160 + number / 62_500, number / 250 % 250, number % 250 + 1);
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Every fifth has a block among its peers, every third is about egress, and every tenth about all pods of its
/// namespace.
async fn write_policy(client: Client, number: usize) -> anyhow::Result<()> {
    let api: Api<NetworkPolicy> = Api::namespaced(client, &namespace(number));
    let mut peers = vec![json!({"podSelector": {"matchLabels": {"app": app(number + NAMESPACES)}}})];
    if number.is_multiple_of(2) {
        peers.push(json!({
            "namespaceSelector": {"matchLabels": {"team": format!("t{}", number % 5)}},
            "podSelector": {"matchLabels": {"tier": format!("t{}", number % 3)}},
        }));
    }
    if number.is_multiple_of(5) {
        peers.push(json!({"ipBlock": {"cidr": format!("198.18.{}.0/24", number / 5 % 256)}}));
    }
    let ports = json!([{"protocol": "TCP", "port": 8000 + number / NAMESPACES}]);
    let selector = if number.is_multiple_of(10) { json!({}) } else { json!({"matchLabels": {"app": app(number)}}) };
    let spec = if number.is_multiple_of(3) {
        json!({"podSelector": selector, "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]})
    } else {
        json!({"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [{"from": peers, "ports": ports}]})
    };
    let policy = json!({"metadata": {"name": format!("n{number}")}, "spec": spec});
    api.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
    Ok(())
}

/// Changes pods at a steady rate; returns how often.
async fn change(client: &Client, options: &Options, span: Duration) -> anyhow::Result<u32> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / options.changes.max(1));
    let mut workers = tokio::task::JoinSet::new();
    let (begun, mut made) = (Instant::now(), 0_u32);
    while begun.elapsed() < span {
        ticks.tick().await;
        while let Some(done) = workers.try_join_next() {
            done??;
        }
        // Far apart from one to the next, and each but once for a long time.
        let number = (made as usize).wrapping_mul(7919) % options.pods.max(1);
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace(number));
        let round = made;
        workers.spawn(async move {
            let name = format!("p{number}");
            let parameters = PatchParams::default();
            if round % 2 == 0 {
                let part = json!({"metadata": {"labels": {"app": app(number + NAMESPACES), "round": format!("r{}",
                    round % 4)}}});
                api.patch(&name, &parameters, &Patch::Merge(part)).await?;
            } else {
                let part = json!({"status": {"message": format!("changed {round}")}});
                api.patch_status(&name, &parameters, &Patch::Merge(part)).await?;
            }
            anyhow::Ok(())
        });
        made += 1;
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(made)
}

/// Removes what does not go with the namespaces.
async fn tidy(cluster: &Cluster) -> anyhow::Result<()> {
    load::count_together(cluster).await?;
    let force = DeleteParams::default().grace_period(0);
    for number in 0..NAMESPACES {
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace(number));
        pods.delete_collection(&force, &ListParams::default().fields("spec.nodeName!=")).await?;
    }
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    for node in nodes.list(&ListParams::default().labels(LABEL)).await? {
        nodes.delete(&node.name_any(), &DeleteParams::default()).await?;
    }
    Ok(())
}
