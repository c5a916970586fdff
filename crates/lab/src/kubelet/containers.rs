//! One container of a pod: started, watched, probed, restarted with back-off, ended.

use std::io::{self, BufRead as _, BufReader};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use nix::sys::signal::Signal;
use ringfence_netns::Namespace;

use super::board::Phase;
use super::events::Tone;
use super::pod::PodContext;
use super::probe::{self, Target, Timing};
use super::spec;
use crate::container::config::ContainerDirectory;
use crate::container::{Config, Exit, FileContent, Running, Started, shim};
use crate::image;

/// First and longest pause between restarts, and how long a container must run for the pause to start over.
const BACKOFF: (Duration, Duration, Duration) =
    (Duration::from_secs(10), Duration::from_mins(5), Duration::from_mins(10));

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Whatever its exit code.
    Always,
    /// Unless it ended with 0.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    /// Of a pod's ordinary containers.
    pub(super) fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn again(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// Runs a container until it has ended for good; gives how. What ran before the kubelet was started goes on.
pub(super) async fn run(pod: &Arc<PodContext>, container: &Container, restart: Restart) -> Exit {
    let directory = pod.directory(&container.name);
    let mut attempt = 0;
    let mut back_off = BACKOFF.0;
    let mut adopted = directory.running().ok().flatten();
    loop {
        let running = match adopted.take() {
            Some(running) => Ok(running),
            None => start_when_possible(pod, container, &directory, attempt).await,
        };
        let exit = match running {
            Ok(running) => {
                attempt = running.attempt;
                attend(pod, container, &directory, running).await
            }
            Err(message) => failed_to_start(attempt, message),
        };
        let entry = |phase| {
            pod.board.update(&container.name, |entry| {
                (entry.phase, entry.ready, entry.started, entry.restarts) = (phase, false, false, attempt);
            });
        };
        if !restart.again(exit.code) {
            entry(Phase::Ended(exit.clone()));
            return exit;
        }
        pod.board.update(&container.name, |entry| entry.last = Some(exit.clone()));
        if exit.finished_at.duration_since(exit.started_at).unsigned_abs() > BACKOFF.2 {
            back_off = BACKOFF.0;
        }
        // The first restart is at once, as a kubelet's.
        if attempt > 0 {
            let pause = format!("back-off {}s restarting failed container={}", back_off.as_secs(), container.name);
            entry(Phase::Waiting("CrashLoopBackOff".into(), Some(pause.clone())));
            pod.tell(Tone::Warning, "BackOff", &pause).await;
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(BACKOFF.1);
        }
        attempt += 1;
    }
}

fn failed_to_start(attempt: u32, message: String) -> Exit {
    let now = Timestamp::now();
    Exit { attempt, code: 128, error: Some(message), started_at: now, finished_at: now }
}

/// Starts a container once its image is one the lab knows and what it needs is there.
async fn start_when_possible(
    pod: &Arc<PodContext>,
    container: &Container,
    directory: &ContainerDirectory,
    attempt: u32,
) -> Result<Running, String> {
    let image = known_image(pod, container).await;
    let named = image_of(pod, container);
    pod.tell(Tone::Normal, "Pulled", &format!("Container image {named:?} already present on machine")).await;
    let config = loop {
        match spec::configure(&pod.pod(), container, &image, &pod.surroundings(), attempt) {
            Ok(config) => break config,
            Err(message) => {
                let phase = Phase::Waiting("CreateContainerConfigError".into(), Some(message.clone()));
                pod.board.update(&container.name, |entry| entry.phase = phase);
                pod.tell(Tone::Warning, "Failed", &format!("Error: {message}")).await;
                tokio::time::sleep(BACKOFF.0).await;
            }
        }
    };
    let config = with_api_access(pod, container, config)?;
    directory.set_config(&config).map_err(|error| error.to_string())?;
    let namespace = pod.network_namespace();
    let place = directory.clone();
    let started = tokio::task::spawn_blocking(move || launch(&namespace, &place)).await;
    match started.map_err(io::Error::other).flatten() {
        Ok(running) => {
            pod.tell(Tone::Normal, "Started", &format!("Started container {}", container.name)).await;
            Ok(running)
        }
        Err(error) => {
            pod.tell(Tone::Warning, "Failed", &format!("Error: {error}")).await;
            Err(error.to_string())
        }
    }
}

/// The lab's own images find there how to reach the API; pods of users do not.
fn with_api_access(pod: &PodContext, container: &Container, mut config: Config) -> Result<Config, String> {
    if container.image.as_deref() == Some(image::DNS) {
        let path = pod.kubelet.place.inner_kubeconfig();
        let content = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        config.files.push(FileContent { path: crate::dns::KUBECONFIG.to_owned(), content, executable: false });
    }
    Ok(config)
}

/// The image the container names now.
fn image_of(pod: &PodContext, container: &Container) -> String {
    pod.image_of(&container.name).or_else(|| container.image.clone()).unwrap_or_default()
}

/// Waits until the container names an image the lab knows: a pod's image may be changed.
async fn known_image(pod: &Arc<PodContext>, container: &Container) -> image::Image {
    let mut told = String::new();
    loop {
        let named = image_of(pod, container);
        if let Some(image) = image::find(&named) {
            return image;
        }
        let message = format!("the lab does not know the image {named:?}; it knows {}", image::KNOWN);
        let waiting = |reason: &str| {
            let phase = Phase::Waiting(reason.to_owned(), Some(message.clone()));
            pod.board.update(&container.name, |entry| entry.phase = phase);
        };
        if told != named {
            waiting("ErrImagePull");
            pod.tell(Tone::Warning, "Failed", &format!("Failed to pull image {named:?}: {message}")).await;
            pod.tell(Tone::Warning, "Failed", "Error: ErrImagePull").await;
            told = named;
        }
        if tokio::time::timeout(BACKOFF.0, pod.spec_changed()).await.is_err() {
            waiting("ImagePullBackOff");
            pod.spec_changed().await;
        }
    }
}

/// Starts a shim inside a network namespace and hears whether the container runs.
fn launch(namespace: &str, directory: &ContainerDirectory) -> io::Result<Running> {
    let namespace = Namespace::open(namespace).map_err(io::Error::other)?;
    let mut child = namespace.spawn(&mut shim::command(directory)).map_err(io::Error::other)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let started: Result<Started, _> = serde_json::from_str(&line);
    match started {
        Ok(Started::Running(running)) => {
            let shim = running.shim;
            tokio::spawn(async move {
                // Collects the ended shim, whoever waits for it otherwise.
                if shim.ended().await.is_ok() {
                    let _status = tokio::task::spawn_blocking(move || child.wait()).await;
                }
            });
            Ok(running)
        }
        Ok(Started::Failed(message)) => {
            child.wait()?;
            Err(io::Error::other(message))
        }
        Err(_) => {
            let status = child.wait()?;
            Err(io::Error::other(format!("the container's shim ended without a word ({status}); see the lab's log")))
        }
    }
}

/// Stays with a running container until it has ended.
async fn attend(
    pod: &Arc<PodContext>,
    container: &Container,
    directory: &ContainerDirectory,
    running: Running,
) -> Exit {
    let probed_ready = container.readiness_probe.is_some();
    let probed_start = container.startup_probe.is_some();
    pod.board.update(&container.name, |entry| {
        entry.phase = Phase::Running(running.started_at);
        entry.restarts = running.attempt;
        entry.started = !probed_start;
        entry.ready = !probed_ready && !probed_start;
    });
    let target = Target { node_namespace: pod.node_namespace(), address: pod.address(), directory: directory.clone() };
    let probes = async {
        watch_over(pod, container, &target, &running).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ended = running.shim.ended() => {}
        () = probes => {}
    }
    let told = directory.exit().ok().flatten().filter(|exit| exit.attempt == running.attempt);
    told.unwrap_or_else(|| Exit {
        attempt: running.attempt,
        code: 137,
        error: None,
        started_at: running.started_at,
        finished_at: Timestamp::now(),
    })
}

/// Asks the container's probes: first the startup probe until it succeeds, then the others for ever.
async fn watch_over(pod: &Arc<PodContext>, container: &Container, target: &Target, running: &Running) {
    if let Some(startup) = &container.startup_probe {
        let patient = Patience { name: "Startup", probe: startup, until_first_success: true };
        patient.run(pod, container, target, running).await;
        pod.board.update(&container.name, |entry| {
            entry.started = true;
            entry.ready = container.readiness_probe.is_none();
        });
    }
    let ready = async {
        if let Some(readiness) = &container.readiness_probe {
            follow_readiness(pod, container, readiness, target).await;
        }
    };
    let alive = async {
        if let Some(liveness) = &container.liveness_probe {
            let patient = Patience { name: "Liveness", probe: liveness, until_first_success: false };
            patient.run(pod, container, target, running).await;
        }
    };
    tokio::join!(ready, alive);
}

/// A probe by which a container is killed once it has failed often enough in a row.
struct Patience<'a> {
    name: &'static str,
    probe: &'a Probe,
    /// True if one success is all that is asked for.
    until_first_success: bool,
}

impl Patience<'_> {
    /// Asks until the first success, if that is enough, else for ever. Does not come back once the container is killed.
    async fn run(&self, pod: &Arc<PodContext>, container: &Container, target: &Target, running: &Running) {
        let timing = Timing::of(self.probe);
        tokio::time::sleep(timing.delay).await;
        let mut failures = 0;
        while failures < timing.failures {
            match probe::ask(self.probe, container, target).await {
                Ok(()) if self.until_first_success => return,
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    pod.tell(Tone::Warning, "Unhealthy", &format!("{} probe failed: {error}", self.name)).await;
                }
            }
            if failures < timing.failures {
                tokio::time::sleep(timing.period).await;
            }
        }
        let probe = self.name.to_ascii_lowercase();
        let message = format!("Container {} failed {probe} probe, will be restarted", container.name);
        pod.tell(Tone::Normal, "Killing", &message).await;
        let _gone_already = running.init.signal(Signal::SIGKILL);
        std::future::pending::<()>().await;
    }
}

async fn follow_readiness(pod: &Arc<PodContext>, container: &Container, probe: &Probe, target: &Target) {
    let timing = Timing::of(probe);
    tokio::time::sleep(timing.delay).await;
    let (mut successes, mut failures) = (0, 0);
    loop {
        match probe::ask(probe, container, target).await {
            Ok(()) => {
                (successes, failures) = (successes + 1, 0);
                if successes == timing.successes {
                    pod.board.update(&container.name, |entry| entry.ready = true);
                }
            }
            Err(error) => {
                (successes, failures) = (0, failures + 1);
                if failures == timing.failures {
                    pod.board.update(&container.name, |entry| entry.ready = false);
                    pod.tell(Tone::Warning, "Unhealthy", &format!("Readiness probe failed: {error}")).await;
                }
            }
        }
        // While it is not ready yet, ask soon: a kubelet does so too when a container has just started.
        let soon = successes == 0 && failures < timing.failures;
        tokio::time::sleep(if soon { Duration::from_millis(200).min(timing.period) } else { timing.period }).await;
    }
}

/// Ends a container of a pod, and tells. Comes back when it is gone.
pub(super) async fn stop(pod: &PodContext, name: &str, grace: Duration) {
    let directory = pod.directory(name);
    let Ok(Some(running)) = directory.running() else { return };
    let told = async {
        if running.init.is_alive() {
            pod.tell(Tone::Normal, "Killing", &format!("Stopping container {name}")).await;
        }
    };
    tokio::join!(told, end(&directory, name, grace));
    if let Ok(Some(exit)) = directory.exit() {
        pod.board.update(name, |entry| (entry.phase, entry.ready) = (Phase::Ended(exit), false));
    }
}

/// Ends what runs in a container's directory: asks it to, waits, then kills it. Comes back when it is gone.
pub(super) async fn end(directory: &ContainerDirectory, name: &str, grace: Duration) {
    let Ok(Some(running)) = directory.running() else { return };
    let _gone_already = running.init.signal(Signal::SIGTERM);
    if tokio::time::timeout(grace, running.shim.ended()).await.is_err() {
        let _gone_already = running.init.signal(Signal::SIGKILL);
        if tokio::time::timeout(Duration::from_secs(10), running.shim.ended()).await.is_err() {
            tracing::warn!(container = name, pid = running.shim.pid, "killed container does not end");
        }
    }
}
