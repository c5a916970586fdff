//! Many pods start at once: under a policy that denies everything, and with a first act that is allowed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use parking_lot::RwLock;
use ringfence_e2e::pod;
use ringfence_install::rollout::is_ready;
use serde_json::{Value, json};

use super::super::ledger::{Expect, Pair};
use super::super::prober::End;
use super::super::server;
use super::super::server::{ECHO, KNOCK, Load, STREAM};
use super::super::stage::{SPACE, Stage, idle};
use super::super::sweep::{Sweep, hosts};
use super::super::witness::{self, Callers};
use super::{Options, Scenario, everywhere};

pub(super) const DENIED: Scenario = Scenario {
    name: "starts-denied",
    about: "Pods start, many at once, under a policy that denies all",
    obstacle: everywhere,
    run: |stage, options| Box::pin(denied(stage, options)),
};

pub(super) const ALLOWED: Scenario = Scenario {
    name: "starts-allowed",
    about: "Pods start, many at once, whose first act is a connection that is allowed",
    obstacle: everywhere,
    run: |stage, options| Box::pin(allowed(stage, options)),
};

/// Namespace of the pods that start.
const STARTS: &str = "e2e-faults-starts";
/// How long a wave may take.
const WAVE: Duration = Duration::from_mins(5);
/// Requests to the API at a time.
const AT_ONCE: usize = 10;
/// A connection that takes so long to open lost its first packet: the kernel's second comes after a second.
const LOST: f64 = 0.9;
/// How many pods start without a policy first, to show that the instrument would see them.
const CONTROL: usize = 10;

/// What pods do first under a policy that denies all: call who would let them.
const TRY_OUT: &str = include_str!("starts/try-out.bash");
/// What pods do first that may: open a connection, and tell how long it took and how many packets were sent again.
const CALL: &str = include_str!("starts/call.bash");

/// Pods without policies that anybody may call, one a node, and what arrives there.
struct Targets {
    callers: Vec<Arc<Callers>>,
    addresses: Vec<IpAddr>,
    _threads: Vec<End>,
}

/// Under a policy that denies all: nothing may reach the pods, and nothing of them may arrive.
async fn denied(stage: &mut Stage, options: &Options) -> anyhow::Result<String> {
    let targets = Targets::make(stage).await?;
    let mut sweeps = Vec::new();
    for number in 1..=stage.nodes.len() {
        sweeps.push((number, sweep(stage, number).await?));
    }
    let seen = |sweeps: &[(usize, Option<Sweep>)], pods: &[Pod]| {
        let answers: Vec<_> = sweeps.iter().filter_map(|(_, sweep)| sweep.as_ref()).map(Sweep::answers).collect();
        let answered = |pod: &&Pod| match pod::address(pod) {
            Ok(IpAddr::V4(address)) => answers.iter().any(|answers| answers.contains_key(&address)),
            _ => false,
        };
        pods.iter().filter(answered).count()
    };
    // Without a policy every pod must be seen, or the instrument is blind.
    let control = wave(stage, CONTROL, TRY_OUT, |number| targets.next(number)).await?;
    let end = Instant::now() + Duration::from_secs(10);
    let swept = sweeps.iter().any(|(_, sweep)| sweep.is_some());
    while (swept && seen(&sweeps, &control) < CONTROL) || !targets.all_called() {
        anyhow::ensure!(
            Instant::now() < end,
            "the instrument is blind: {} of {CONTROL} pods without policy were seen, and their calls {}",
            seen(&sweeps, &control),
            if targets.all_called() { "too" } else { "were not" }
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.cluster.apply(&policy("deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))).await?;
    remove(stage).await?;
    drop(sweeps);
    let mut sweeps = Vec::new();
    let mut strange = stage.strange().await?;
    for number in 1..=stage.nodes.len() {
        sweeps.push((number, sweep(stage, number).await?));
    }
    targets.expect(Expect::Shut);
    let (mut started, mut sent) = (0, 0);
    while started < options.pods {
        let pods =
            wave(stage, options.wave.min(options.pods - started), TRY_OUT, |number| targets.next(number)).await?;
        started += pods.len();
        eprintln!("  {started} pods started under a policy that denies all");
        // What they do first takes a little more than a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        remove(stage).await?;
    }
    strange.extend(stage.strange().await?);
    for (number, sweep) in &sweeps {
        let Some(sweep) = sweep else { continue };
        sent += sweep.sent();
        for address in sweep.answers().into_keys().filter(|address| !strange.contains(&IpAddr::V4(*address))) {
            let text = format!("leak: a first packet to {address} on node {number} was answered");
            stage.ledger.note(|counts| counts.leaked += 1, &text);
        }
    }
    finish(stage, targets).await?;
    Ok(format!(
        "{started} pods, {} at once; {sent} first packets to every address they may get, from a pod on each node; each \
         pod's own first packets are watched for where they would arrive; without the policy {CONTROL} of {CONTROL} \
         were seen",
        options.wave
    ))
}

/// Under policies that allow their first act.
async fn allowed(stage: &mut Stage, options: &Options) -> anyhow::Result<String> {
    let targets = Targets::make(stage).await?;
    let to = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SPACE}},
        "podSelector": {"matchLabels": {"app": "open"}}}]);
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "egress": [{"to": to, "ports": [{"protocol": "TCP", "port": STREAM}]}],
    });
    stage.cluster.apply(&policy("first", &spec)).await?;
    let (mut started, mut slowest) = (0, 0.0_f64);
    while started < options.pods {
        let pods = wave(stage, options.wave.min(options.pods - started), CALL, |number| targets.next(number)).await?;
        started += pods.len();
        stage.ledger.sent(pods.len() as u64);
        for pod in &pods {
            slowest = slowest.max(judge(stage, pod));
        }
        eprintln!("  {started} pods started whose first act is allowed");
        remove(stage).await?;
    }
    finish(stage, targets).await?;
    Ok(format!(
        "{started} pods, {} at once, half of them calling their own node and half another; slowest first connection \
         {:.0} ms",
        options.wave,
        slowest * 1000.0
    ))
}

/// Counts a pod whose first connection failed, or needed a packet twice. Gives how long it took, in seconds.
fn judge(stage: &Stage, pod: &Pod) -> f64 {
    let said = outcome(pod).unwrap_or_default();
    let words: Vec<&str> = said.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok());
    let (result, begun, ended, again) = (words.first().copied(), number(1), number(2), number(3));
    let took = begun.zip(ended).map(|(begun, ended)| ended - begun);
    let well = result == Some("ok") && again == Some(0.0) && took.is_some_and(|took| took < LOST);
    // It is told by the pod itself that nothing was sent twice: then the first packet was answered, however late.
    let slow = result == Some("ok") && again == Some(0.0) && took.is_some();
    if !well {
        let text = format!("pod {} began with: {said:?} (result, begun, ended, packets sent again)", pod.name_any());
        if slow {
            stage.ledger.note(|counts| counts.held_up += 1, &format!("held up: {text}"));
        } else {
            // Without its times it may have been whenever a queue was full: that is no excuse.
            let (from, until) =
                begun.zip(ended).map_or_else(|| (Instant::now(), Instant::now()), |(b, e)| (moment(b), moment(e)));
            stage.ledger.unanswered(from, until, &text);
        }
    }
    took.unwrap_or_default()
}

/// A moment of this machine's clock, in seconds since 1970, as one of the clock that is never set.
fn moment(seconds: f64) -> Instant {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64() - seconds;
    Duration::try_from_secs_f64(since).ok().and_then(|ago| Instant::now().checked_sub(ago)).unwrap_or_else(Instant::now)
}

fn outcome(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.first()?.state.as_ref()?.terminated.as_ref()?.message.clone()
}

impl Targets {
    async fn make(stage: &Stage) -> anyhow::Result<Self> {
        stage.cluster.namespace(STARTS, &json!({})).await?;
        let (mut callers, mut addresses, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for (number, node) in (1..).zip(&stage.nodes) {
            let pod = stage.cluster.run(&idle("open", number, node)).await?;
            let (namespace, address) = (pod::network(&pod)?, pod::address(&pod)?);
            let others = Pair::new(format!("a starting pod -> open-{number}"), &stage.ledger, Expect::Any);
            let here = Arc::new(Callers { known: RwLock::default(), others, arrived: AtomicU64::new(0) });
            threads.push(witness::start(&namespace, address, &here)?);
            threads.push(server::start(&namespace, address, &Arc::new(Load::default()))?);
            callers.push(here);
            addresses.push(address);
        }
        Ok(Self { callers, addresses, _threads: threads })
    }

    /// Whom a pod calls: by turns both nodes' pods, whichever node it is on.
    fn next(&self, number: usize) -> IpAddr {
        self.addresses[number / 2 % self.addresses.len()]
    }

    /// Whether something arrived everywhere.
    fn all_called(&self) -> bool {
        self.callers.iter().all(|callers| callers.arrived.load(Ordering::Relaxed) > 0)
    }

    fn expect(&self, expect: Expect) {
        for callers in &self.callers {
            callers.others.expect(expect);
        }
    }
}

/// Removes what the scenario made.
async fn finish(stage: &Stage, targets: Targets) -> anyhow::Result<()> {
    targets.expect(Expect::Any);
    drop(targets);
    for (number, node) in (1..).zip(&stage.nodes) {
        stage.cluster.delete(&idle("open", number, node)).await?;
    }
    remove(stage).await?;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STARTS}});
    stage.cluster.delete(&space).await.map(drop)
}

fn policy(name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": STARTS});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

/// First packets to all addresses of a node's pods, from a pod on the other node and so across (IPv4).
async fn sweep(stage: &Stage, number: usize) -> anyhow::Result<Option<Sweep>> {
    // A stranger of the other node for one, of the same for the other.
    let stranger = stage.cluster.ready(SPACE, &format!("stranger-{}", stage.nodes.len() + 1 - number)).await?;
    let IpAddr::V4(from) = pod::address(&stranger)? else { return Ok(None) };
    let mut range = Vec::new();
    for number in 1..=stage.nodes.len() {
        range.extend(hosts(&stage.range(number).await?)?.into_iter().skip(1));
    }
    // Those who are there already are probed otherwise.
    let there = stage.addresses().await?;
    range.retain(|address| !there.contains(&IpAddr::V4(*address)));
    Sweep::start(pod::network(&stranger)?, from, range, &stage.ledger).map(Some)
}

/// Starts pods, by turns on every node, and waits until each has done its first act: runs, or has ended.
async fn wave(stage: &Stage, pods: usize, act: &str, server: impl Fn(usize) -> IpAddr) -> anyhow::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), STARTS);
    let bodies: Vec<Pod> =
        (0..pods).map(|number| starting(stage, number, act, server(number))).collect::<anyhow::Result<_>>()?;
    for some in bodies.chunks(AT_ONCE) {
        let mut tasks = tokio::task::JoinSet::new();
        for body in some {
            let (api, body) = (api.clone(), body.clone());
            tasks.spawn(async move { api.create(&PostParams::default(), &body).await });
        }
        for made in tasks.join_all().await {
            made.context("cannot make a pod")?;
        }
    }
    let end = Instant::now() + WAVE;
    loop {
        let there = api.list(&ListParams::default()).await?.items;
        // Those that tell how it went end by themselves.
        let is_done = |pod: &&Pod| if act == CALL { outcome(pod).is_some() } else { is_ready(pod) };
        let done = there.iter().filter(is_done).count();
        if done >= pods {
            return Ok(there);
        }
        if Instant::now() > end {
            bail!("{done} of {pods} pods started within {WAVE:?}");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn starting(stage: &Stage, number: usize, act: &str, server: IpAddr) -> anyhow::Result<Pod> {
    let mut pod = idle("starting", number, &stage.nodes[number % stage.nodes.len()]);
    pod["metadata"]["namespace"] = json!(STARTS);
    pod["spec"]["restartPolicy"] = json!("Never");
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!("docker.io/library/busybox:latest");
    let [echo, knock, stream] = [ECHO, KNOCK, STREAM].map(|port| port.to_string());
    container["args"] = json!(["bash", "-c", act, "act", server, echo, knock, stream]);
    Ok(serde_json::from_value(pod)?)
}

/// Removes the pods, and waits until they are gone.
async fn remove(stage: &Stage) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), STARTS);
    let now = DeleteParams::default().grace_period(0);
    api.delete_collection(&now, &ListParams::default()).await?;
    let end = Instant::now() + WAVE;
    while !api.list(&ListParams::default()).await?.items.is_empty() {
        anyhow::ensure!(Instant::now() < end, "pods are not gone within {WAVE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
