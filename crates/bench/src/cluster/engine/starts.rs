//! Pods that start: who reaches them before their policy is in force, and whether their first packet is lost.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringfence_e2e::cluster::eventually;
use ringfence_e2e::{knock, pod};
use serde_json::{Value, json};

use super::{Bench, CLIENT, SERVER, deny, server_pod};
use crate::changes::prober::PORT;

/// How often each address is tried.
const INTERVAL: Duration = Duration::from_millis(10);
/// After so long a first packet counts as unanswered.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// How many addresses are tried beyond as many as there are pods: others may be given in between.
const SPARE: usize = 20;
/// A connect that takes so long has lost its first packet: the kernel sends another after a second.
const LOST_SECONDS: f64 = 0.9;

/// How to measure.
#[derive(clap::Args)]
pub(in crate::cluster) struct Options {
    /// How many pods start at once.
    #[arg(long, default_value_t = 50)]
    pods: usize,
}

/// How many of the pods answered a client that no policy allows.
pub(super) fn leak(bench: &Bench, options: &Options) -> anyhow::Result<Value> {
    let [near, far] = bench.two_nodes()?;
    let (client, last) = bench.runtime.block_on(async {
        for name in [CLIENT, SERVER] {
            bench.cluster.namespace(name, &json!({})).await?;
        }
        bench.cluster.apply(&deny(SERVER, "Ingress")).await?;
        let client = bench.cluster.run(&server_pod(CLIENT, "client", &near)).await?;
        // Plugins give addresses in order: those of the pods follow that of this one.
        let last = bench.cluster.run(&server_pod(SERVER, "last", &far)).await?;
        anyhow::Ok((pod::network(&client)?, pod::address::<Ipv4Addr>(&last)?))
    })?;
    let first = u32::from(last) + 1;
    let watched: Vec<Ipv4Addr> = (first..).take(options.pods + SPARE).map(Ipv4Addr::from).collect();
    let stop = AtomicBool::new(false);
    let (started, answered) = std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| client.run(|| sweep(&watched, &stop)));
        let started = bench.runtime.block_on(start(bench, options.pods, |name| server_pod(SERVER, name, &far)));
        stop.store(true, Ordering::Relaxed);
        let answered = sweeper.join().map_err(|_panic| anyhow::anyhow!("the sweeper ended"));
        anyhow::Ok((started?, answered???))
    })?;
    let addresses: BTreeSet<Ipv4Addr> = started.iter().map(pod::address).collect::<anyhow::Result<_>>()?;
    Ok(json!({
        "pods": addresses.len(),
        "leaked": addresses.intersection(&answered).count(),
        "unwatched": addresses.iter().filter(|address| !watched.contains(address)).count(),
    }))
}

/// Tries all addresses again and again; those that answered.
fn sweep(addresses: &[Ipv4Addr], stop: &AtomicBool) -> anyhow::Result<BTreeSet<Ipv4Addr>> {
    // Each try is a file until it is answered.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut answered = BTreeSet::new();
    let mut waiting: Vec<(Ipv4Addr, Instant, OwnedFd)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        for address in addresses {
            let connection = knock::open((*address).into())?;
            knock::send(&connection, SocketAddrV4::new(*address, PORT).into());
            waiting.push((*address, begun, connection));
        }
        let answers = knock::answers(waiting.iter().map(|(_, _, connection)| connection))?;
        let mut answers = answers.into_iter();
        waiting.retain(|(address, sent, _)| {
            let answer = answers.next().flatten();
            if answer == Some(true) {
                answered.insert(*address);
            }
            answer.is_none() && sent.elapsed() < ANSWER_TIMEOUT
        });
        std::thread::sleep(INTERVAL.saturating_sub(begun.elapsed()));
    }
    Ok(answered)
}

/// Makes pods at once, and waits until all are ready.
async fn start(bench: &Bench, count: usize, make: impl Fn(&str) -> Value) -> anyhow::Result<Vec<Pod>> {
    let names: Vec<String> = (0..count).map(|number| format!("start-{number}")).collect();
    for name in &names {
        bench.cluster.create(&make(name)).await?;
    }
    let mut pods = Vec::new();
    for name in &names {
        pods.push(bench.cluster.ready(SERVER, name).await?);
    }
    Ok(pods)
}

/// How many pods lost the first packet to a server that a policy lets them reach.
pub(super) fn first(bench: &Bench, options: &Options) -> anyhow::Result<Value> {
    let [near, far] = bench.two_nodes()?;
    let took = bench.runtime.block_on(async {
        for name in [CLIENT, SERVER] {
            bench.cluster.namespace(name, &json!({})).await?;
        }
        let server = bench.cluster.run(&server_pod(SERVER, "server", &near)).await?;
        let address: Ipv4Addr = pod::address(&server)?;
        bench.cluster.apply(&allow_server()).await?;
        for number in 0..options.pods {
            bench.cluster.create(&connecting_pod(&format!("first-{number}"), &far, address)).await?;
        }
        let mut took = Vec::new();
        for number in 0..options.pods {
            took.push(ended(bench, &format!("first-{number}")).await?);
        }
        anyhow::Ok(took)
    })?;
    let times: Vec<f64> = took.iter().flatten().copied().collect();
    Ok(json!({
        "pods": took.len(),
        "lost": times.iter().filter(|seconds| **seconds >= LOST_SECONDS).count(),
        "failed": took.len() - times.len(),
        "connect_ms": times.iter().map(|seconds| seconds * 1e3).collect::<Vec<_>>(),
    }))
}

/// Lets the pods of the clients' namespace reach the server, and nobody else.
fn allow_server() -> Value {
    let to = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SERVER}},
        "podSelector": {"matchLabels": {"app": "server"}},
    });
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": CLIENT, "name": "server"},
        "spec": {
            "podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"to": [to], "ports": [{"protocol": "TCP", "port": 80}]}],
        },
    })
}

/// Connects as soon as it runs, and leaves behind how many seconds that took.
fn connecting_pod(name: &str, node: &str, server: Ipv4Addr) -> Value {
    let script = format!(
        "curl --silent --output /dev/null --max-time 20 --write-out '%{{time_connect}}' http://{server}/ \
         >/dev/termination-log"
    );
    let mut pod = server_pod(CLIENT, name, node);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    pod
}

/// What a pod left behind that has ended; none if it did not connect.
async fn ended(bench: &Bench, name: &str) -> anyhow::Result<Option<f64>> {
    let api: Api<Pod> = Api::namespaced(bench.cluster.client.clone(), CLIENT);
    eventually(&format!("pod {CLIENT}/{name} has ended"), || async {
        let status = api.get(name).await?.status.unwrap_or_default();
        let state = status.container_statuses.into_iter().flatten().find_map(|status| status.state?.terminated);
        let Some(state) = state else { return Ok(None) };
        let text = state.message.unwrap_or_default();
        if state.exit_code != 0 {
            return Ok(Some(None));
        }
        let seconds = text.trim().parse().with_context(|| format!("pod {name} left {text:?} behind"))?;
        Ok(Some(Some(seconds)))
    })
    .await
}
