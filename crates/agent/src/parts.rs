//! The parts of an agent: how they are started, and in which order they end.

use std::convert::Infallible;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use ringfence_model::Name;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task;
use tokio_util::sync::CancellationToken;

use crate::clerk::{Clerk, Election, Terms, Writer};
use crate::cni_cache;
use crate::core::{Core, Handle, Message, Setup};
use crate::dns::{self, Listener};
use crate::enforcer::Enforcer;
use crate::flows::{Flows, Source};
use crate::forget;
use crate::interfaces;
use crate::metrics::Meters;
use crate::policy_memory::PolicyMemory;
use crate::run::{Config, journal};
use crate::server::Server;
use crate::tables::{self, Tables};

/// Longest time at the end until the Lease is released.
const LEASE_RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of an agent that runs.
pub(crate) struct Parts {
    pub(crate) core: Handle,
    pub(crate) meters: Arc<Meters>,
    pub(crate) names: Listener,
    pub(crate) tables: Tables,
    pub(crate) policy_memory: PolicyMemory,
    /// Fails when the planning thread has ended.
    pub(crate) planning_ended: oneshot::Receiver<Infallible>,
    planning: JoinHandle<Option<&'static str>>,
    learning: JoinHandle<()>,
    keeping: JoinHandle<()>,
    /// Something else is to be said of a policy.
    changes: watch::Receiver<u64>,
    clerk: Option<task::JoinHandle<()>>,
    stop: CancellationToken,
    closed: CancellationToken,
}

impl Parts {
    /// Starts what plans and what the planning thread works with.
    pub(crate) fn start(
        config: &Config,
        enforcer: Box<dyn Enforcer>,
        (core, messages): (Handle, Receiver<Message>),
    ) -> anyhow::Result<Self> {
        let meters = Arc::new(Meters::new());
        let scout = interfaces::start(&core).context("cannot start a thread")?;
        let (tables, keeping) = tables::start(&core, Arc::clone(&meters)).context("cannot start a thread")?;
        let (names, learning) = dns::start(&core, &journal(&config.socket), Arc::clone(&meters), tables.clone())
            .context("cannot start a thread")?;
        let (changed, changes) = watch::channel(0);
        let policy_memory = PolicyMemory::of_this_process();
        let setup = Setup {
            node: Name::from(config.node.as_str()),
            policy_memory: policy_memory.clone(),
            connections: config.connections,
            over_capacity: config.over_capacity,
            pin_dir: config.pin_dir.display().to_string(),
            enforcer,
            meters: Arc::clone(&meters),
            scout: Some(scout),
            sandboxes: cni_cache::sandboxes(Path::new(cni_cache::RESULTS)),
            forget: Some(forget::start(&core).context("cannot start a thread")?),
            listener: Some(names.clone()),
            cluster_domain: dns::own::domain(config.cluster_domain.as_deref()),
            clerk: changed,
        };
        let (planning_lives, planning_ended) = oneshot::channel::<Infallible>();
        let planning = thread::Builder::new().name("core".into()).spawn(move || {
            let _lives = planning_lives;
            Core::new(setup).run(&messages)
        })?;
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let clerk = None;
        Ok(Self {
            core,
            meters,
            names,
            tables,
            policy_memory,
            planning_ended,
            planning,
            learning,
            keeping,
            changes,
            clerk,
            stop,
            closed,
        })
    }

    /// Answers on a socket, and where probes and metrics are asked for; tells what the kernel reports to whoever
    /// listens.
    pub(crate) fn answer(
        &self,
        source: Box<dyn Source>,
        socket: UnixListener,
        public: Option<TcpListener>,
    ) -> io::Result<()> {
        let flows = Flows::new();
        let (reading, told, counts) = (flows.clone(), self.core.clone(), Arc::clone(&self.meters));
        self.core.spawn("flows", move || reading.run(source, &told, &counts))?;
        let server = Server { core: self.core.clone(), flows, meters: Arc::clone(&self.meters) };
        serve(&self.core, "socket", socket, server.clone().socket(), self.closed.clone());
        if let Some(listener) = public {
            serve(&self.core, "probes and metrics", listener, server.public(), self.stop.clone());
        }
        Ok(())
    }

    /// Writes into the API what there is to say of policies: of those of this node, and of all if it is elected.
    pub(crate) fn write(&mut self, config: &Config, client: &kube::Client) {
        let writer = || {
            let (core, meters) = (self.core.clone(), Arc::clone(&self.meters));
            Writer::new(client.clone(), core, self.changes.clone(), meters, config.node.clone())
        };
        let clerk = Clerk {
            election: Election::new(client.clone(), &config.namespace, identity(&config.node), Terms::default()),
            core: self.core.clone(),
            writer: writer(),
            meters: Arc::clone(&self.meters),
        };
        let mut own = writer();
        self.core.spawn_task("events", async move {
            let _gone = own.tell_own().await;
        });
        self.clerk = Some(self.core.spawn_task("clerk", clerk.run(self.stop.clone())));
    }

    /// Ends all of them. `failed`: though nobody told the agent to stop.
    ///
    /// # Errors
    /// If one of them had ended by itself.
    pub(crate) async fn end(self, socket: &Path, failed: bool) -> anyhow::Result<()> {
        self.stop.cancel();
        // The change the thread is carrying out, if any, is finished first.
        let _ = self.core.tell(Message::Stop);
        let planned = self.planning.join();
        if let Some(clerk) = self.clerk {
            let _ = tokio::time::timeout(LEASE_RELEASE_TIMEOUT, clerk).await;
        }
        // Answers that are held go on, and nobody makes tables anew that are to be taken away.
        self.names.tell(dns::Tell::Stop);
        let _ = self.learning.join();
        self.tables.stop();
        let _ = self.keeping.join();
        // As long as it answers nobody cleans up behind it.
        self.closed.cancel();
        let _ = fs::remove_file(socket);
        let missing = match planned {
            // Told to stop, parts end.
            Ok(missing) => missing.filter(|_| failed),
            Err(_panic) => Some("core"),
        };
        match missing {
            Some(part) => bail!("the part {part:?} of the agent ended; what is in the kernel stays in force"),
            None => Ok(()),
        }
    }
}

/// Identity of this process in an election: another one on the node is another candidate.
fn identity(node: &str) -> String {
    format!("{node}_{:016x}", RandomState::new().hash_one(0))
}

fn serve<L>(core: &Handle, part: &'static str, listener: L, app: Router, stop: CancellationToken)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
    core.spawn_task(part, async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the socket is not served any more");
        }
    });
}
