//! Puts the parts together and runs them until told to stop.

use std::convert::Infallible;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
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
use axum::Router;
use ringfence_model::Name;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::chain::{self, Chain};
use crate::clerk::{Clerk, Election, Terms, Writer};
use crate::cluster;
use crate::cni_cache;
use crate::core::{Core, Gone, Handle, Message, Part, Question, Setup};
use crate::datapath;
use crate::dns::servers::Trusted;
use crate::dns::{self, Listener};
use crate::flows::Flows;
use crate::interfaces;
use crate::metrics::Meters;
use crate::primary::{self, Nudge, Primary};
use crate::progress::Journal;
use crate::server::Server;
use crate::services;
use crate::tables;
use crate::watch as events;

/// What happens to an open connection that a change of policy denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// It ends with its next packet.
    Cut,
    /// It may go on until it ends by itself.
    Drain,
}

/// How long to wait at the end for the Lease to be given back.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// How often it is looked whether another agent has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked whether what enforces is still attached and pinned.
const LOOK: Duration = Duration::from_secs(2);

/// What the agent is told on its command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node whose pods to guard.
    pub node: String,
    /// A kubeconfig; none: `KUBECONFIG`, `~/.kube/config`, or the service account of the pod we are in.
    pub kubeconfig: Option<PathBuf>,
    /// Where links and maps are pinned.
    pub pin_dir: PathBuf,
    /// The Unix socket to listen on.
    pub socket: PathBuf,
    /// Where to serve metrics and probes on TCP.
    pub metrics: Option<SocketAddr>,
    /// Open connections that a change denies.
    pub connections: Connections,
    /// Sizes of maps, by name, that differ from the defaults.
    pub map_sizes: Vec<(String, u32)>,
    /// Report connections that are let through too, not only denials.
    pub report_allowed: bool,
    /// Where to put the network plugin; none: nowhere.
    pub chain: Option<Chain>,
    /// How to be the network plugin; none: another is.
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

impl std::fmt::Display for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cut => "cut",
            Self::Drain => "drain",
        })
    }
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
    let (mut enforcer, source) = datapath::open(&config)?;
    let progress = Journal::open(&versions(&config.socket), enforcer.facts().adopted);
    let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
    let (core, messages) = Handle::channel();
    let scout = interfaces::start(&core).context("cannot start a thread")?;
    let meters = Arc::new(Meters::new());
    let (tables, keeping) = tables::start(Arc::clone(&meters)).context("cannot start a thread")?;
    let journal = journal(&config.socket);
    let (names, learning) =
        dns::start(core.clone(), &journal, Arc::clone(&meters), tables.clone()).context("cannot start a thread")?;
    let (changed, changes) = watch::channel(0);
    let clerk = Clerk {
        election: Election::new(client.clone(), &config.namespace, identity(&config.node), Terms::default()),
        core: core.clone(),
        writer: Writer::new(client.clone(), core.clone(), changes.clone(), Arc::clone(&meters), config.node.clone()),
        meters: Arc::clone(&meters),
    };
    let mut own = Writer::new(client.clone(), core.clone(), changes, Arc::clone(&meters), config.node.clone());
    let setup = Setup {
        node: Name::from(config.node.as_str()),
        connections: config.connections.to_string(),
        pin_dir: config.pin_dir.display().to_string(),
        enforcer,
        meters: Arc::clone(&meters),
        scout: Some(scout),
        sandboxes: cni_cache::sandboxes(Path::new(cni_cache::RESULTS)),
        forget: Some(crate::forget::start(core.clone()).context("cannot start a thread")?),
        listener: Some(names.clone()),
        cluster_domain: dns::own::domain(config.cluster_domain.as_deref()),
        clerk: changed,
    };
    let (planning_lives, planning_ended) = oneshot::channel::<Infallible>();
    let planning = thread::Builder::new().name("core".into()).spawn(move || {
        let _lives = planning_lives;
        Core::new(setup).run(&messages)
    })?;
    let flows = Flows::new();
    let (reading, told, counts) = (flows.clone(), core.clone(), Arc::clone(&meters));
    core.spawn("flows", move || reading.run(source, &told, &counts))?;
    let server = Server { core: core.clone(), flows, meters: Arc::clone(&meters) };
    serve(listener, server.clone().socket(), closed.clone(), core.part("socket"));
    if let Some(listener) = public {
        serve(listener, server.public(), stop.clone(), core.part("probes and metrics"));
    }
    let roads = plug_in(&config, &core, &client, meters)?;
    if let Some(roads) = &roads {
        tables.tell_roads(roads.clone());
    }
    let clerk = tokio::spawn(living(core.part("clerk"), clerk.run(stop.clone())));
    tokio::spawn(look(core.clone(), config.socket.clone()));
    tokio::spawn(async move { own.tell_own().await });
    tracing::info!(node = config.node, socket = %config.socket.display(), "started");
    let result = tokio::select! {
        () = signals.stop() => Ok(()),
        _ended = planning_ended => Err(anyhow!("the agent is not whole any more")),
        ended = follow(client, progress, &config, core.clone(), names.clone(), roads) => ended.context("the watch of the cluster ended"),
    };
    stop.cancel();
    // The change the thread is carrying out, if any, is finished first.
    let _ = core.tell(Message::Stop);
    let planned = planning.join();
    let _ = tokio::time::timeout(GIVING_BACK, clerk).await;
    // Answers that are held go on, and nobody makes tables anew that are to be taken away.
    names.tell(dns::Tell::Stop);
    let _ = learning.join();
    tables.stop();
    let _ = keeping.join();
    // As long as it answers nobody cleans up behind it.
    closed.cancel();
    let _ = fs::remove_file(&config.socket);
    let missing = match &planned {
        // Told to stop, parts end.
        Ok(missing) => missing.filter(|_| result.is_err()),
        Err(_panic) => Some("core"),
    };
    if let Some(part) = missing {
        bail!("the part {part:?} of the agent ended; what is in the kernel stays in force");
    }
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
    let there = Arc::new(Notify::new());
    tokio::spawn(primary::clear(client.clone(), config.node.clone(), Arc::clone(&there)));
    primary::start(primary, chain, program, config, core.clone(), there, meters).map(Some)
}

/// Follows the cluster, for ever.
async fn follow(
    client: kube::Client,
    progress: Journal,
    config: &Config,
    core: Handle,
    names: Listener,
    roads: Option<Sender<Nudge>>,
) -> Result<(), Gone> {
    let others = config.dns_servers.iter().copied().collect();
    let trusted = Trusted { service: config.dns_service.clone(), others };
    let servers = dns::servers::follow(client.clone(), progress.clone(), trusted, core.clone(), names);
    let services = services::follow(client.clone(), progress.clone(), core.clone());
    tokio::try_join!(events::pump(client, &progress, core, roads), servers, services).map(drop)
}

/// Has the planning thread look after what enforces, now and then, until it is gone. For as long as it serves pods the network
/// plugin is told so.
async fn look(core: Handle, socket: PathBuf) {
    let mut times = tokio::time::interval(LOOK);
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

/// What this process is called in an election: another one on the node is another candidate.
fn identity(node: &str) -> String {
    format!("{node}_{:016x}", RandomState::new().hash_one(0))
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
        thread::sleep(PAUSE);
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

/// What is not there need not be removed.
fn absent(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where learnt domain names are written down.
fn journal(socket: &Path) -> PathBuf {
    socket.with_extension("names")
}

/// Where it is written down how far the watches have come.
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
        format!("cannot listen on {address}, for probes and metrics\nhint: --metrics (in the chart metrics.port) takes another")
    })
}

fn serve<L>(listener: L, app: Router, stop: CancellationToken, part: Part)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
    tokio::spawn(living(part, async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the socket is not served any more");
        }
    }));
}

/// A task that is missed when it ends.
async fn living(part: Part, task: impl Future<Output = ()>) {
    task.await;
    drop(part);
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
            thread::sleep(PAUSE);
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
