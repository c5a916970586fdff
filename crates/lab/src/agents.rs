//! One agent per node: started in the node's network namespace, started again when it ends, shown as a pod.

use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client as KubeClient;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use ringfence_api::client::Client;
use ringfence_netns::Namespace;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::files;
use crate::image;
use crate::kubelet::MIRROR;
use crate::network::Node;
use crate::place::Place;
use crate::process::Process;

/// The agent's program, which is looked for beside the lab's.
pub(crate) const AGENT_PROGRAM: &str = "ringfence-agent";
/// Namespace of the agents' pods.
const NAMESPACE: &str = "kube-system";
/// Port of each agent's metrics, on its node's address.
const METRICS_PORT: u16 = 9464;
/// Shortest and longest pause before an agent is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Time that an agent may take to answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two queries of a running agent, and between two looks at its pod.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const READY_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// State of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AgentState {
    /// When it was started; none while it does not run.
    pub(crate) since: Option<Timestamp>,
    /// True if everything is in the kernel, by its own word.
    pub(crate) ready: bool,
    /// Number of restarts.
    pub(crate) restarts: u32,
}

/// Keeps a node's agent running, for ever; tells how it is.
pub(crate) async fn supervise(place: Place, node: Node, state: watch::Sender<AgentState>) {
    let mut pause = BACKOFF.0;
    if let Err(error) = end_earlier(&place, &node).await {
        tracing::warn!(%error, node = node.name, "an earlier agent could not be ended");
    }
    loop {
        let begun = Instant::now();
        let (start_place, start_node) = (place.clone(), node.clone());
        let started = tokio::task::spawn_blocking(move || start(&start_place, &start_node)).await;
        match started.map_err(io::Error::other).flatten() {
            Ok((mut child, process)) => {
                state.send_modify(|state| state.since = Some(Timestamp::now()));
                tokio::select! {
                    _ended = process.ended() => {}
                    () = follow_readiness(&place, &node, &state) => {}
                }
                let status = tokio::task::spawn_blocking(move || child.wait()).await;
                tracing::warn!(node = node.name, ?status, log = %place.agent_log(&node.name).display(), "agent ended");
            }
            Err(error) => tracing::error!(%error, node = node.name, "agent not started"),
        }
        state.send_modify(|state| {
            *state = AgentState { since: None, ready: false, restarts: state.restarts + 1 };
        });
        if begun.elapsed() > BACKOFF.1 {
            pause = BACKOFF.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Ends the agent of a lab process that died: what it put into the kernel stays there for the next.
async fn end_earlier(place: &Place, node: &Node) -> io::Result<()> {
    let record = place.node_directory(&node.name).join("agent.json");
    let Some(process) = files::read_json::<Process>(&record)? else { return Ok(()) };
    tokio::task::spawn_blocking(move || process.kill_and_wait(Duration::from_secs(10)))
        .await
        .map_err(io::Error::other)?
}

fn start(place: &Place, node: &Node) -> io::Result<(Child, Process)> {
    let directory = place.node_directory(&node.name);
    std::fs::create_dir_all(&directory)?;
    let pins = place.bpf_mount().join(&node.name);
    let log = File::options().create(true).append(true).open(place.agent_log(&node.name))?;
    let address = node.addresses.first().ok_or_else(|| io::Error::other("the node has no address"))?;
    let mut command = Command::new(place.agent_program());
    command
        .args(["--node", &node.name, "--kubeconfig"])
        .arg(place.inner_kubeconfig())
        .arg("--pin-dir")
        .arg(pins)
        .arg("--socket")
        .arg(place.agent_socket(&node.name))
        .args(["--metrics", &std::net::SocketAddr::new(*address, METRICS_PORT).to_string()])
        .env_remove("KUBECONFIG")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let namespace = Namespace::open(&place.node_namespace(&node.name)).map_err(io::Error::other)?;
    let child = namespace.spawn(&mut command).map_err(io::Error::other)?;
    let process = Process::of(child.id())?;
    files::write_json(&directory.join("agent.json"), &process)?;
    Ok((child, process))
}

/// Asks the agent again and again whether it is ready.
async fn follow_readiness(place: &Place, node: &Node, state: &watch::Sender<AgentState>) {
    let agent = Client::new(place.agent_socket(&node.name));
    loop {
        let asked = tokio::time::timeout(STATUS_TIMEOUT, agent.status()).await;
        let ready = asked.is_ok_and(|answer| answer.is_ok_and(|status| status.ready));
        state.send_if_modified(|state| std::mem::replace(&mut state.ready, ready) != ready);
        tokio::time::sleep(if ready { READY_POLL_INTERVAL } else { POLL_INTERVAL }).await;
    }
}

/// Keeps a pod that shows the agent, for ever.
pub(crate) async fn mirror(client: KubeClient, node: Node, mut state: watch::Receiver<AgentState>) {
    let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
    loop {
        let now = *state.borrow_and_update();
        if let Err(error) = show(&api, &node, now).await {
            tracing::debug!(%error, node = node.name, "agent's pod not shown");
        }
        let _changed_or_time = tokio::time::timeout(READY_POLL_INTERVAL, state.changed()).await;
    }
}

async fn show(api: &Api<Pod>, node: &Node, state: AgentState) -> Result<(), kube::Error> {
    let name = format!("ringfence-{}", node.name);
    let mut found = api.get_opt(&name).await?;
    if found.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()) {
        // Deleting the picture does not end what it shows: there is a new one at once.
        api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        found = None;
    }
    let current = if let Some(pod) = found {
        pod
    } else {
        let pod = serde_json::from_value(object(&name, node)).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &pod).await?
    };
    let wanted = status(node, state, &current);
    let told = serde_json::to_value(&current.status).map_err(kube::Error::SerdeError)?;
    let differs = wanted.as_object().into_iter().flatten().any(|(key, value)| told.get(key) != Some(value));
    if differs {
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&json!({"status": wanted}))).await?;
    }
    Ok(())
}

fn object(name: &str, node: &Node) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"k8s-app": "ringfence"},
            "annotations": {MIRROR: "lab", "kubernetes.io/config.source": "file"},
        },
        "spec": {
            "nodeName": node.name,
            "hostNetwork": true,
            "priorityClassName": "system-node-critical",
            "containers": [{"name": "agent", "image": image::AGENT}],
        },
    })
}

/// The status, with the times of a status told before where nothing changed.
fn status(node: &Node, state: AgentState, current: &Pod) -> Value {
    let addresses: Vec<_> = node.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    let before = current.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let before: Vec<_> = before.cloned().collect();
    let now = Timestamp::now().to_string();
    let conditions: Vec<Value> =
        [("PodScheduled", true), ("Initialized", true), ("ContainersReady", state.ready), ("Ready", state.ready)]
            .into_iter()
            .map(|(name, value)| {
                let value = if value { "True" } else { "False" };
                let kept = before.iter().find(|condition| condition.type_ == name && condition.status == value);
                let since = kept.and_then(|kept| serde_json::to_value(kept.last_transition_time.as_ref()?).ok());
                json!({"type": name, "status": value, "lastTransitionTime": since.unwrap_or_else(|| json!(now))})
            })
            .collect();
    let container = match state.since {
        Some(since) => json!({"running": {"startedAt": seconds(since)}}),
        None => json!({"waiting": {"reason": "CrashLoopBackOff", "message": "the agent ended and is started again"}}),
    };
    json!({
        "phase": "Running",
        "hostIP": addresses.first().map(|first| first["ip"].clone()),
        "hostIPs": addresses,
        "podIP": addresses.first().map(|first| first["ip"].clone()),
        "podIPs": addresses,
        "conditions": conditions,
        "containerStatuses": [{
            "name": "agent", "image": image::AGENT, "imageID": image::AGENT,
            "ready": state.ready, "started": state.since.is_some(), "restartCount": state.restarts,
            "state": container,
        }],
    })
}

/// As the API writes times: whole seconds.
fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// The task pair of one node's agent; gives how it is.
pub(crate) fn run(place: &Place, client: &KubeClient, node: &Arc<Node>) -> watch::Receiver<AgentState> {
    let (sender, receiver) = watch::channel(AgentState { since: None, ready: false, restarts: 0 });
    tokio::spawn(supervise(place.clone(), Node::clone(node), sender));
    tokio::spawn(mirror(client.clone(), Node::clone(node), receiver.clone()));
    receiver
}
