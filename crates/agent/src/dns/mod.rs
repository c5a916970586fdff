//! Learns which addresses names stand for, for rules that allow by name (`domainNames`).
//!
//! ```text
//! server ─answer─► held by the kernel ─► Worker: what is new? ──► Core ──► kernel
//! pod ◄──────────────── let go ◄───────────── Committed(change) ◄──┘
//! ```
//!
//! Only answers of the cluster's own DNS servers are read, and only while some rule names a domain. An answer that
//! brings nothing new goes on at once; one that does goes on when its addresses are in the kernel, so the pod's first
//! connection is not lost. Whatever goes wrong, answers go on: then the addresses stay denied. All that takes long is
//! done by others: the rule that holds answers is put by the thread that keeps tables, and connections are looked at
//! aside.

mod answer;
mod clock;
mod journal;
mod learner;
pub(crate) mod own;
mod packet;
mod reader;
pub(crate) mod servers;
mod stream;
#[cfg(test)]
mod whole_path;
mod worker;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use ipnet::IpNet;
use nix::sys::eventfd::{EfdFlags, EventFd};
use ringfence_model::DomainPattern;

use crate::core::Handle;
use crate::metrics::Meters;
use crate::tables::{Rule, Tables};

/// The names that the planning thread needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// The names that rules mean.
    pub(crate) patterns: BTreeSet<DomainPattern>,
    /// Ranges of this node's pods, and those of their addresses that are outside.
    pub(crate) pods: BTreeSet<IpNet>,
    /// Addresses of this node's pods.
    pub(crate) endpoints: BTreeSet<IpAddr>,
}

/// A message to the worker.
#[derive(Debug)]
pub(crate) enum Tell {
    /// The names that are needed, in place of the earlier ones.
    Demand(Demand),
    /// The cluster's DNS servers, in place of those before.
    Servers(BTreeSet<SocketAddr>),
    /// Changes up to this number are in the kernel, or were refused by it.
    Committed(u64),
    /// State of the rule that sends responses to the queue.
    Rule(Rule),
    /// Of the addresses that lingered when this change was in the kernel, those to which connections are open.
    Open {
        /// The change.
        since: u64,
        /// The addresses.
        addresses: BTreeSet<IpAddr>,
    },
    /// The end: everything that is held goes on.
    Stop,
}

/// State of the learning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learning {
    /// Answers are read.
    pub(crate) active: bool,
    /// The DNS servers that are believed.
    pub(crate) servers: BTreeSet<SocketAddr>,
    /// The reason why responses are not read although a rule needs them.
    pub(crate) error: Option<String>,
}

/// Sender of messages to the worker.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    sender: mpsc::Sender<Tell>,
    wake: Arc<EventFd>,
}

impl Listener {
    /// A listener and what the worker reads from.
    pub(crate) fn channel() -> io::Result<(Self, mpsc::Receiver<Tell>)> {
        let (sender, told) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        Ok((Self { sender, wake }, told))
    }

    /// Tells the worker something; if it is gone the agent is stopping.
    pub(crate) fn tell(&self, tell: Tell) {
        if self.sender.send(tell).is_ok() {
            let _counts_up = self.wake.write(1);
        }
    }
}

/// Starts the worker in the network namespace of the calling thread. What an earlier process wrote into the journal is
/// with the planning thread when this returns.
pub(crate) fn start(
    core: &Handle,
    journal: &Path,
    meters: Arc<Meters>,
    tables: Tables,
) -> io::Result<(Listener, JoinHandle<()>)> {
    let (listener, told) = Listener::channel()?;
    let worker = worker::Worker::new(core.clone(), journal, meters, told, listener.clone(), tables);
    let thread = core.spawn("names", move || worker.run())?;
    Ok((listener, thread))
}
