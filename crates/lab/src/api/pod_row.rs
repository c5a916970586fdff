//! A pod's columns in `kubectl get pods`: how many containers are ready, and why it is not running.

use serde_json::Value;

use super::columns;
use super::json::Json as _;

pub(crate) fn cells(pod: &Value) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match &summary.restarted {
        Some(last) if summary.restarts > 0 => format!("{} ({} ago)", summary.restarts, columns::since(last)),
        _ => summary.restarts.to_string(),
    };
    vec![
        columns::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        columns::age(pod),
        columns::or_none(pod.list("/status/podIPs").first().map_or("", |ip| ip.text("/ip"))),
        columns::or_none(pod.text("/spec/nodeName")),
        columns::or_none(pod.text("/status/nominatedNodeName")),
        readiness_gates(pod),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    restarted: Option<String>,
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += container.int("/restartCount");
        let finished = container.text("/lastState/terminated/finishedAt");
        if !finished.is_empty() && self.restarted.as_deref().is_none_or(|last| last < finished) {
            self.restarted = Some(finished.to_owned());
        }
    }
}

fn summarise(pod: &Value) -> Summary {
    let phase = pod.text("/status/phase");
    let reason = match pod.text("/status/reason") {
        "" => phase,
        reason => reason,
    };
    let sidecars = pod.list("/spec/initContainers").iter().filter(|container| is_sidecar(container)).count();
    let total = pod.list("/spec/containers").len() + sidecars;
    let mut summary = Summary { ready: 0, total, reason: reason.to_owned(), restarts: 0, restarted: None };
    if !initialising(pod, &mut summary) {
        running(pod, &mut summary);
    }
    if pod["metadata"].get("deletionTimestamp").is_some() && !matches!(phase, "Succeeded" | "Failed") {
        summary.reason = "Terminating".into();
    }
    summary
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// True if the pod's init containers are not through; then the summary says where they are.
fn initialising(pod: &Value, summary: &mut Summary) -> bool {
    let specs = pod.list("/spec/initContainers");
    let initialised = pod.condition("Initialized").is_some_and(|condition| condition["status"] == "True");
    let mut sidecar_restarts = Summary { ready: 0, total: 0, reason: String::new(), restarts: 0, restarted: None };
    for (index, container) in pod.list("/status/initContainerStatuses").iter().enumerate() {
        summary.count_restarts(container);
        let sidecar = specs.iter().any(|spec| spec["name"] == container["name"] && is_sidecar(spec));
        if sidecar {
            sidecar_restarts.count_restarts(container);
        }
        let terminated = container.pointer("/state/terminated");
        if terminated.is_some_and(|state| state.int("/exitCode") == 0) {
            continue;
        }
        if sidecar && container.flag("/started") {
            summary.ready += usize::from(container.flag("/ready"));
            continue;
        }
        let waiting = container.text("/state/waiting/reason");
        let reason = match terminated {
            Some(state) => ended(state),
            None if !waiting.is_empty() && waiting != "PodInitializing" => waiting.to_owned(),
            None => format!("{index}/{}", specs.len()),
        };
        summary.reason = format!("Init:{reason}");
        if !initialised {
            return true;
        }
        break;
    }
    (summary.restarts, summary.restarted) = (sidecar_restarts.restarts, sidecar_restarts.restarted);
    false
}

fn running(pod: &Value, summary: &mut Summary) {
    let mut any_running = false;
    for container in pod.list("/status/containerStatuses").iter().rev() {
        summary.count_restarts(container);
        let waiting = container.text("/state/waiting/reason");
        if !waiting.is_empty() {
            summary.reason = waiting.into();
        } else if let Some(state) = container.pointer("/state/terminated") {
            summary.reason = ended(state);
        } else if container.flag("/ready") && container.pointer("/state/running").is_some() {
            any_running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && any_running {
        let ready = pod.condition("Ready").is_some_and(|condition| condition["status"] == "True");
        summary.reason = if ready { "Running" } else { "NotReady" }.into();
    }
}

fn ended(state: &Value) -> String {
    match (state.text("/reason"), state.int("/signal")) {
        ("", 0) => format!("ExitCode:{}", state.int("/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = pod.list("/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open =
        |gate: &&Value| pod.condition(gate.text("/conditionType")).is_some_and(|state| state["status"] == "True");
    format!("{}/{}", gates.iter().filter(open).count(), gates.len()).into()
}
