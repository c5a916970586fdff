//! Puts the parts together and runs them until told to stop.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use ringfence_api::{Connections, OverCapacity};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::chain::{self, Chain};
use crate::cluster;
use crate::core::{Gone, Handle, Message, Question};
use crate::datapath;
use crate::dns::servers::Trusted;
use crate::dns::{self, Listener};
use crate::metrics::Meters;
use crate::parts::Parts;
use crate::policy_memory::PolicyMemory;
use crate::primary::{self, Nudge, Primary};
use crate::progress::Journal;
use crate::services;
use crate::watch as events;

/// Time between two looks for the end of another agent.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two looks whether the kernel program is attached and pinned.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Configuration of the agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node whose pods to guard.
    pub node: String,
    /// A kubeconfig; none: `KUBECONFIG`, `~/.kube/config`, or the service account of the pod we are in.
    pub kubeconfig: Option<PathBuf>,
    /// Directory of pinned links and maps.
    pub pin_dir: PathBuf,
    /// The Unix socket to listen on.
    pub socket: PathBuf,
    /// TCP address of metrics and probes.
    pub metrics: Option<SocketAddr>,
    /// Open connections that a change denies.
    pub connections: Connections,
    /// Pods whose policies do not fit.
    pub over_capacity: OverCapacity,
    /// Sizes of maps, by name, that differ from the defaults.
    pub map_sizes: Vec<(String, u32)>,
    /// Report connections that are let through too, not only denials.
    pub report_allowed: bool,
    /// Directories in which to install the network plugin; none: nowhere.
    pub chain: Option<Chain>,
    /// Settings of primary mode; none: another is.
    pub primary: Option<Primary>,
    /// Take enforcement down when stopping.
    pub detach: bool,
    /// Namespace and name of the Service of the cluster's DNS.
    pub dns_service: (String, String),
    /// The namespace the agents run in: the Lease is there by which they elect who writes about policies.
    pub namespace: String,
    /// The domain that the cluster's own names are below; none: as the resolver of this process has it.
    pub cluster_domain: Option<String>,
    /// DNS servers to believe besides those behind the Service, such as caches on the nodes.
    pub dns_servers: Vec<SocketAddr>,
}

/// Runs the agent until SIGTERM or SIGINT. Enforcement stands from before the first answer of the API until long after
/// the end, unless asked otherwise.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // As the first process of a container this one is ended only by signals it asked for.
    let mut signals = Signals::new()?;
    let listener = listen(&config.socket)?;
    // A port that is taken is an error before anything is changed on the node.
    let public = match config.metrics {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let client = cluster::client(cluster::config(config.kubeconfig.as_deref()).await?)?;
    let (core, messages) = Handle::channel();
    let (mut enforcer, source) = datapath::open(&config, &core)?;
    let progress = Journal::open(&versions(&config.socket), enforcer.facts().adopted);
    let mut parts = Parts::start(&config, enforcer, (core, messages))?;
    parts.answer(source, listener, public)?;
    let roads = plug_in(&config, &parts.core, &client, Arc::clone(&parts.meters))?;
    if let Some(roads) = &roads {
        parts.tables.tell_roads(roads.clone());
    }
    parts.write(&config, &client);
    parts.core.spawn_task("look", look(parts.core.clone(), config.socket.clone()));
    tracing::info!(node = config.node, socket = %config.socket.display(), "started");
    let (core, memory) = (parts.core.clone(), parts.policy_memory.clone());
    let following = follow(client, progress, &config, core, parts.names.clone(), memory, roads);
    let result = tokio::select! {
        () = signals.stop() => Ok(()),
        _ended = &mut parts.planning_ended => Err(anyhow!("the agent is not whole any more")),
        ended = following => ended.context("the watch of the cluster ended"),
    };
    parts.end(&config.socket, result.is_err()).await?;
    if config.detach {
        cleanup(&config.pin_dir)?;
    }
    tracing::info!(enforcing = !config.detach, "stopped");
    result
}

/// Installs the network plugin, chained or as the only one; then the sender takes news of nodes.
fn plug_in(
    config: &Config,
    core: &Handle,
    client: &kube::Client,
    meters: Arc<Meters>,
) -> anyhow::Result<Option<Sender<Nudge>>> {
    let Some(chain) = config.chain.clone() else {
        return if config.primary.is_some() {
            bail!("where the network configuration is must be told")
        } else {
            Ok(None)
        };
    };
    let program = chain::Program::beside(ringfence_cni::PLUGIN).context(
        "the program of the network plugin is not there\nhint: it belongs in the directory that ringfence is in",
    )?;
    let Some(primary) = &config.primary else {
        let wanted = chain::Wanted::Chained;
        chain::start(chain, program, &config.socket, wanted, core.clone(), meters)
            .context("cannot install the network plugin")?;
        return Ok(None);
    };
    let there = primary::clear(core, client.clone(), config.node.clone());
    primary::start(primary, chain, program, config, core.clone(), there, meters).map(Some)
}

/// Follows the cluster, for ever.
async fn follow(
    client: kube::Client,
    progress: Journal,
    config: &Config,
    core: Handle,
    names: Listener,
    memory: PolicyMemory,
    roads: Option<Sender<Nudge>>,
) -> Result<(), Gone> {
    let others = config.dns_servers.iter().copied().collect();
    let trusted = Trusted { service: config.dns_service.clone(), others };
    let servers = dns::servers::follow(client.clone(), progress.clone(), trusted, core.clone(), names);
    let services = services::follow(client.clone(), progress.clone(), core.clone());
    let policies = events::pump(client, &progress, memory, core, roads);
    tokio::try_join!(policies, servers, services).map(drop)
}

/// Has the planning thread look after what enforces, now and then, until it is gone. For as long as it serves pods the
/// network plugin is told so.
async fn look(core: Handle, socket: PathBuf) {
    let mut times = tokio::time::interval(CHECK_INTERVAL);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while core.tell(Message::Look).is_ok() {
        if let Ok(Ok(())) = core.ask(Question::Serving).await
            && let Err(error) = ringfence_cni::touch(&socket)
        {
            tracing::warn!(%error, "a runtime may take the network for gone as soon as this agent is");
        }
        times.tick().await;
    }
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they do nothing but that [`Self::stop`] comes back.
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits until one comes, or came.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Takes enforcement down: everything pinned in a directory. For when no agent is to come back.
pub fn cleanup(pin_dir: &Path) -> anyhow::Result<()> {
    datapath::remove(pin_dir).with_context(|| format!("cannot remove what is pinned in {}", pin_dir.display()))
}

/// Mounts `/sys/fs/bpf` if nobody has; true if it was mounted now. For before an agent that may not.
pub fn mount_bpf() -> anyhow::Result<bool> {
    Ok(ringfence_datapath::mount_system_bpffs()?)
}

/// Waits until no agent answers on a socket any more.
pub fn wait_for_end(socket: &Path, limit: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    while UnixStream::connect(socket).is_ok() {
        if Instant::now() > end {
            bail!("an agent answers on {}; hint: stop it first", socket.display());
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Removes a socket nobody listens on, what an agent keeps beside it, and the directory if nothing else is in it.
pub fn forget(socket: &Path) -> anyhow::Result<()> {
    wait_for_end(socket, Duration::ZERO)?;
    let kept = [journal(socket), versions(socket), ringfence_cni::stamp(socket)];
    for path in kept.into_iter().chain([socket.to_path_buf()]) {
        absent(fs::remove_file(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let Some(dir) = socket.parent() else { return Ok(()) };
    match fs::remove_dir(dir) {
        // Somebody else uses it, or mounted something there.
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy) => Ok(()),
        removed => absent(removed).with_context(|| format!("cannot remove {}", dir.display())),
    }
}

/// Takes a file that does not exist for removed.
fn absent(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Journal of learnt domain names.
pub(crate) fn journal(socket: &Path) -> PathBuf {
    socket.with_extension("names")
}

/// Journal of the watches' resource versions.
fn versions(socket: &Path) -> PathBuf {
    socket.with_extension("versions")
}

/// Binds the socket, unless somebody answers on it already.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    if UnixStream::connect(path).is_ok() {
        bail!(
            "another agent answers on {}; hint: stop it first, or choose another --socket and --pin-dir",
            path.display()
        );
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}, for probes and metrics\nhint: --metrics (in the chart metrics.port) takes \
            another"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_forgotten_with_its_directory_but_not_while_it_runs() {
        let dir = std::env::temp_dir().join(format!("ringfence-forget-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("agent.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        fs::write(journal(&socket), "").unwrap();
        fs::write(versions(&socket), "").unwrap();
        assert!(forget(&socket).is_err(), "it listens");
        let ending = thread::spawn(move || {
            thread::sleep(POLL_INTERVAL);
            drop(listener);
        });
        wait_for_end(&socket, Duration::from_secs(20)).unwrap();
        ending.join().unwrap();
        fs::write(dir.join("other"), "").unwrap();
        forget(&socket).unwrap();
        assert!(dir.join("other").exists() && !socket.exists());
        assert!(!journal(&socket).exists() && !versions(&socket).exists());
        fs::remove_file(dir.join("other")).unwrap();
        forget(&socket).unwrap();
        assert!(!dir.exists());
        forget(&socket).unwrap();
    }
}
