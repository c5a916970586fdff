//! State of a pod's containers, and the status that follows from it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::container::Exit;

/// Phase of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not running (yet): why, as a word, and more about it.
    Waiting(String, Option<String>),
    /// Running since.
    Running(Timestamp),
    /// Ended for good.
    Ended(Exit),
}

/// State of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place.
    pub phase: Phase,
    /// Its exit before the last restart.
    pub last: Option<Exit>,
    /// Number of restarts.
    pub restarts: u32,
    /// True if its readiness probe, if any, says it may be called.
    pub ready: bool,
    /// True if its startup probe, if any, has succeeded.
    pub started: bool,
}

impl Default for Entry {
    fn default() -> Self {
        let reason = "ContainerCreating".to_owned();
        Self { phase: Phase::Waiting(reason, None), last: None, restarts: 0, ready: false, started: false }
    }
}

/// State of a pod. Whoever changes it wakes whoever tells the API.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    /// For whoever tells the API.
    changed: Notify,
    /// For those who wait for a container.
    moved: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    addresses: Vec<IpAddr>,
    initialised: bool,
    terminal: bool,
    conditions: BTreeMap<&'static str, (bool, Timestamp)>,
    start_time: Option<Timestamp>,
}

impl Board {
    /// Changes what is known about a container.
    pub(super) fn update(&self, container: &str, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state.lock();
        let entry = state.entries.entry(container.to_owned()).or_default();
        let before = entry.clone();
        change(entry);
        if *entry != before {
            self.changed.notify_one();
            self.moved.notify_waiters();
        }
    }

    /// Completes once something holds of a container.
    pub(super) async fn until(&self, container: &str, holds: impl Fn(&Entry) -> bool) {
        loop {
            // Registered before looking, so that no change in between is missed.
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if self.state.lock().entries.get(container).is_some_and(&holds) {
                return;
            }
            moved.await;
        }
    }

    /// The pod has its addresses.
    pub(super) fn set_addresses(&self, addresses: &[IpAddr]) {
        addresses.clone_into(&mut self.state.lock().addresses);
        self.changed.notify_one();
    }

    /// All init containers have done their work.
    pub(super) fn set_initialised(&self) {
        self.state.lock().initialised = true;
        self.changed.notify_one();
    }

    /// All containers have ended for good.
    pub(super) fn set_terminal(&self) {
        self.state.lock().terminal = true;
        self.changed.notify_one();
    }

    /// Completes when something changed since the last time it did.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The status to tell. Conditions keep the time of their last change.
    pub(super) fn status(&self, pod: &Pod, node_addresses: &[IpAddr]) -> PodStatus {
        let mut state = self.state.lock();
        let now = Timestamp::now();
        let start_time = *state.start_time.get_or_insert_with(|| {
            pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(now, |time| time.0)
        });
        let conditions = state.conditions(pod, now);
        status(&state, pod, node_addresses, start_time, conditions)
    }
}

impl State {
    fn conditions(&mut self, pod: &Pod, now: Timestamp) -> Vec<PodCondition> {
        let ready = !self.terminal
            && names(pod).chain(sidecars(pod)).all(|name| self.entries.get(name).is_some_and(|entry| entry.ready));
        let values = [
            ("PodReadyToStartContainers", !self.addresses.is_empty() && !self.terminal),
            ("Initialized", self.initialised),
            ("ContainersReady", ready),
            ("Ready", ready),
        ];
        let told = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut conditions: Vec<PodCondition> =
            told.filter(|condition| values.iter().all(|(name, _)| *name != condition.type_)).cloned().collect();
        for (name, value) in values {
            let entry = self.conditions.entry(name).or_insert((value, now));
            if entry.0 != value {
                *entry = (value, now);
            }
            let (reason, message) = self.why_not(name, value, pod);
            conditions.push(PodCondition {
                type_: name.to_owned(),
                status: if value { "True" } else { "False" }.to_owned(),
                last_transition_time: self.conditions.get(name).map(|(_, time)| Time(*time)),
                reason,
                message,
                ..PodCondition::default()
            });
        }
        conditions
    }

    /// Reason and message of a condition that is false.
    fn why_not(&self, name: &str, value: bool, pod: &Pod) -> (Option<String>, Option<String>) {
        if value || !name.ends_with("Ready") {
            return (None, None);
        }
        if self.terminal {
            return (Some("PodCompleted".to_owned()), None);
        }
        let unready: Vec<&str> = names(pod)
            .chain(sidecars(pod))
            .filter(|name| !self.entries.get(*name).is_some_and(|entry| entry.ready))
            .collect();
        (
            Some("ContainersNotReady".to_owned()),
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        )
    }
}

fn status(
    state: &State,
    pod: &Pod,
    node_addresses: &[IpAddr],
    start_time: Timestamp,
    conditions: Vec<PodCondition>,
) -> PodStatus {
    let spec = pod.spec.as_ref();
    let tell = |containers: Option<&Vec<Container>>| -> Option<Vec<ContainerStatus>> {
        let containers = containers.filter(|containers| !containers.is_empty())?;
        Some(containers.iter().map(|container| container_status(state, container)).collect())
    };
    PodStatus {
        phase: Some(phase(state, pod).to_owned()),
        conditions: Some(conditions),
        host_ip: node_addresses.first().map(ToString::to_string),
        host_ips: Some(node_addresses.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: state.addresses.first().map(ToString::to_string),
        pod_ips: (!state.addresses.is_empty())
            .then(|| state.addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: Some(Time(start_time)),
        qos_class: Some("BestEffort".to_owned()),
        container_statuses: tell(spec.map(|spec| &spec.containers)),
        init_container_statuses: tell(spec.and_then(|spec| spec.init_containers.as_ref())),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    pod.spec.iter().flat_map(|spec| spec.containers.iter()).map(|container| container.name.as_str())
}

/// Names of the init containers that stay beside the others.
fn sidecars(pod: &Pod) -> impl Iterator<Item = &str> {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    inits.filter(|container| container.restart_policy.as_deref() == Some("Always")).map(|container| &*container.name)
}

fn phase(state: &State, pod: &Pod) -> &'static str {
    let phases: Vec<Option<&Phase>> = names(pod).map(|name| Some(&state.entries.get(name)?.phase)).collect();
    if state.terminal {
        let all_well = phases.iter().all(|phase| matches!(phase, Some(Phase::Ended(exit)) if exit.code == 0));
        return if all_well { "Succeeded" } else { "Failed" };
    }
    let begun = |name: &str| {
        state.entries.get(name).is_some_and(|entry| entry.last.is_some() || !matches!(entry.phase, Phase::Waiting(..)))
    };
    // A container that was never started keeps the pod pending.
    if state.initialised && names(pod).all(begun) { "Running" } else { "Pending" }
}

fn container_status(state: &State, container: &Container) -> ContainerStatus {
    let entry = state.entries.get(&container.name).cloned().unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    let known = !matches!(&entry.phase, Phase::Waiting(reason, _) if reason.contains("Image"));
    let mut current = ContainerState::default();
    match &entry.phase {
        Phase::Waiting(reason, message) => {
            let reason = if state.initialised || reason != "ContainerCreating" { reason } else { "PodInitializing" };
            current.waiting = Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.clone() });
        }
        Phase::Running(since) => current.running = Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
        Phase::Ended(exit) => current.terminated = Some(terminated(&container.name, exit)),
    }
    ContainerStatus {
        name: container.name.clone(),
        container_id: known.then(|| format!("ringfence://{}", container.name)),
        image_id: if known { image.clone() } else { String::new() },
        image,
        ready: entry.ready,
        started: Some(matches!(entry.phase, Phase::Running(_)) && entry.started),
        restart_count: i32::try_from(entry.restarts).unwrap_or(i32::MAX),
        last_state: Some(ContainerState {
            terminated: entry.last.as_ref().map(|exit| terminated(&container.name, exit)),
            ..ContainerState::default()
        }),
        state: Some(current),
        ..ContainerStatus::default()
    }
}

fn terminated(container: &str, exit: &Exit) -> ContainerStateTerminated {
    let reason = match (&exit.error, exit.code) {
        (Some(_), _) => "StartError",
        (None, 0) => "Completed",
        (None, _) => "Error",
    };
    ContainerStateTerminated {
        exit_code: exit.code,
        reason: Some(reason.to_owned()),
        message: exit.error.clone(),
        signal: (exit.code > 128 && exit.code < 128 + 65).then(|| exit.code - 128),
        started_at: Some(Time(exit.started_at)),
        finished_at: Some(Time(exit.finished_at)),
        container_id: Some(format!("ringfence://{container}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        let spec = json!({"containers": [{"name": "a", "image": "nginx"}, {"name": "b", "image": "nginx"}]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn exit(code: i32) -> Exit {
        let now = Timestamp::now();
        Exit { attempt: 0, code, error: None, started_at: now, finished_at: now }
    }

    fn condition(status: &PodStatus, name: &str) -> String {
        status.conditions.iter().flatten().find(|condition| condition.type_ == name).unwrap().status.clone()
    }

    #[test]
    fn a_pod_runs_when_every_container_was_started_and_is_ready_when_every_one_is() {
        let (board, pod) = (Board::default(), pod());
        assert_eq!(board.status(&pod, &[]).phase.unwrap(), "Pending");
        board.set_initialised();
        board.update("a", |entry| (entry.phase, entry.ready) = (Phase::Running(Timestamp::now()), true));
        assert_eq!(board.status(&pod, &[]).phase.unwrap(), "Pending");
        board.update("b", |entry| entry.phase = Phase::Running(Timestamp::now()));
        let status = board.status(&pod, &[]);
        assert_eq!((status.phase.as_deref(), condition(&status, "Ready").as_str()), (Some("Running"), "False"));
        board.update("b", |entry| entry.ready = true);
        assert_eq!(condition(&board.status(&pod, &[]), "Ready"), "True");
    }

    #[test]
    fn a_pod_fails_if_any_container_did() {
        let (board, pod) = (Board::default(), pod());
        board.set_initialised();
        for (name, code) in [("a", 0), ("b", 143)] {
            board.update(name, |entry| entry.phase = Phase::Ended(exit(code)));
        }
        board.set_terminal();
        let status = board.status(&pod, &[]);
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        let states = status.container_statuses.unwrap();
        let ended = states[1].state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((ended.exit_code, ended.signal), (143, Some(15)));
    }

    #[test]
    fn a_container_between_restarts_keeps_the_pod_running() {
        let (board, pod) = (Board::default(), pod());
        board.set_initialised();
        board.update("a", |entry| entry.phase = Phase::Running(Timestamp::now()));
        board.update("b", |entry| {
            entry.phase = Phase::Waiting("CrashLoopBackOff".into(), None);
            entry.last = Some(exit(1));
        });
        assert_eq!(board.status(&pod, &[]).phase.unwrap(), "Running");
    }
}
