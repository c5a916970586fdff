//! The thread that plans and applies: the only owner of the planner, of the kernel side and of what is known.
//!
//! It sleeps until a message comes, takes every other message that is ready, and carries the sum of them to the kernel
//! in one step. Nothing waits for a clock, nothing is shared and locked; whoever wants to know something asks.

mod commit;
mod disputes;
mod domains;
mod ending;
mod inheritance;
mod known;
mod links;
mod memory;
mod names;
mod naming;
mod report;
mod room;
mod rule_counters;
mod sandboxes;
mod state;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;
mod warnings;

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringfence_api as api;
use ringfence_datapath::{self as kernel, GuardReport};
use ringfence_k8s::watch::Event;
use ringfence_model::Domain;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::cni_cache::Told;
use crate::dns::Learning;
use crate::flows::Resolved;
use crate::forget::Given;
use crate::interfaces::Found;
use crate::metrics::Gauges;
use crate::ports::Ports;
use crate::problem::{Account, Claim};
use crate::services::News;

pub(crate) use state::{Core, Setup};

/// A message to the planning thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened in the cluster.
    Event {
        /// The event.
        event: Event,
        /// When the watch delivered it.
        received: Instant,
        /// Its place among what waits to be taken in; given back once this is dropped.
        waits: Option<OwnedSemaphorePermit>,
    },
    /// A look's result about the links of this node.
    Found(Found),
    /// A plugin's report about a pod that it has just connected, its link, and the settings of bridges if it is on one.
    /// To be told before anybody waits for that pod.
    Placed(Told, Ports, Option<api::BridgeNetfilter>),
    /// The work done at links of pods.
    Guarded(GuardReport),
    /// State of the network plugin in the node's configuration.
    Chain(api::CniConfig),
    /// State of the routes between nodes.
    Network(api::NodeRoutes),
    /// Names and their addresses now, without addresses where these are not known any more; and the number of this
    /// change.
    Domains {
        /// The names.
        domains: Vec<Domain>,
        /// To be told back once it is carried out.
        change: u64,
    },
    /// The connections that earlier pods had under an address are forgotten, or could not be.
    Forgotten(Given, bool),
    /// State of the learning of names.
    Learning(Learning),
    /// State of a watch of a kind that is no object of policy.
    Watched(api::Watch),
    /// A change of Services.
    Services(News),
    /// It is time to look whether what enforces is still where it belongs: nobody tells when it is not.
    Look,
    /// A part of the agent ended that has to live as long as the process: the agent is not whole without it.
    Ended(&'static str),
    /// Somebody wants to know something.
    Ask(Question),
    /// The end: what is in the kernel stays there.
    Stop,
}

/// A query, and where its answer goes.
#[derive(Debug)]
pub(crate) enum Question {
    /// The reason why this node is not ready, if it is not; else what there is to say all the same.
    Ready(oneshot::Sender<Result<String, String>>),
    /// The reason why pods of this node cannot be served, if they cannot.
    Serving(oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<api::Status>),
    Plan(oneshot::Sender<serde_json::Value>),
    Gauges(oneshot::Sender<Gauges>),
    /// Answered when the pod's policy is in the kernel.
    Wait(api::WaitRequest, oneshot::Sender<Vec<IpAddr>>),
    /// Answered when the addresses of a pod whose sandbox is gone are closed.
    Release(api::ReleaseRequest, oneshot::Sender<()>),
    /// Reports about policies that changed since an earlier revision; and the revision now.
    Accounts(u64, oneshot::Sender<(u64, Vec<Account>)>),
    /// Reports about pods that claim addresses.
    Claims(oneshot::Sender<Vec<Claim>>),
    /// Answered when the addresses of all sandboxes are closed that are not listed.
    Collect(api::CollectRequest, oneshot::Sender<()>),
    /// Succeeds if the pod's policy is in the kernel now; else says why it is not.
    Check(api::WaitRequest, oneshot::Sender<Result<Vec<IpAddr>, String>>),
    /// Answered once the policy of the whole cluster is in the kernel.
    InSync(oneshot::Sender<()>),
    /// The number of nodes.
    Nodes(oneshot::Sender<usize>),
    /// Events as flows.
    Resolve(Vec<kernel::Event>, oneshot::Sender<Resolved>),
}

/// The thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub(crate) struct Gone;

/// Sender of messages to the planning thread.
#[derive(Clone, Debug)]
pub(crate) struct Handle(mpsc::Sender<Message>);

impl Handle {
    /// A handle and what the thread reads from.
    pub(crate) fn channel() -> (Self, Receiver<Message>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// Tells the thread something.
    pub(crate) fn tell(&self, message: Message) -> Result<(), Gone> {
        self.0.send(message).map_err(|mpsc::SendError(_)| Gone)
    }

    /// Asks from a thread that may block.
    pub(crate) fn ask_blocking<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Ask(question(reply)))?;
        answer.blocking_recv().map_err(|_closed| Gone)
    }

    /// Starts a thread that has to live as long as the process. The process does not outlive it, nor a panic in it.
    pub(crate) fn spawn(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let end = self.part(name);
        let work = move || {
            let _end = end;
            work();
        };
        thread::Builder::new().name(name.into()).spawn(work)
    }

    /// The same of a task.
    pub(crate) fn spawn_task(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let end = self.part(name);
        tokio::spawn(async move {
            let _end = end;
            task.await;
        })
    }

    /// A guard for a part of the agent that has to live as long as the process: it is missed once this is dropped.
    fn part(&self, name: &'static str) -> Part {
        Part { name, core: self.clone() }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Ask(question(reply)))?;
        answer.await.map_err(|_closed| Gone)
    }
}

/// A part of the agent that lives.
#[derive(Debug)]
struct Part {
    name: &'static str,
    core: Handle,
}

impl Drop for Part {
    fn drop(&mut self) {
        // Where the thread is gone already the agent is stopping, and all parts end.
        let _ = self.core.tell(Message::Ended(self.name));
    }
}

/// Most messages that go into one step, so that an endless stream of them cannot keep any from the kernel.
const BATCH: usize = 4096;

impl Core {
    /// Works until told to stop, until nobody is left to tell it anything, or until a part of the agent has ended,
    /// whose name it gives.
    pub(crate) fn run(mut self, messages: &Receiver<Message>) -> Option<&'static str> {
        loop {
            let first = match self.retry_at() {
                None => messages.recv().ok(),
                Some(at) => match messages.recv_timeout(at.saturating_duration_since(Instant::now())) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => {
                        self.commit();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            if !first.is_some_and(|first| self.step(first, messages)) {
                return self.missing;
            }
        }
    }

    /// Takes in one message and all that are ready behind it, then brings the kernel up to date. False at the end.
    pub(crate) fn step(&mut self, first: Message, messages: &Receiver<Message>) -> bool {
        let mut more = self.take(first);
        for _ in 1..BATCH {
            let Ok(message) = messages.try_recv() else { break };
            more &= self.take(message);
        }
        self.commit();
        more
    }

    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Event { event, received, waits } => {
                self.event(event, received);
                drop(waits);
            }
            Message::Found(found) => self.found(found),
            Message::Placed(told, ports, bridge) => self.placed(told, ports, bridge),
            Message::Guarded(done) => self.settled(done),
            Message::Chain(chain) => self.chain = Some(chain),
            Message::Network(network) => self.network = Some(network),
            Message::Domains { domains, change } => self.domains(domains, change),
            Message::Forgotten(given, done) => self.forgotten(&given, done),
            Message::Learning(learning) => self.learning = learning,
            Message::Watched(watch) => drop(self.others.insert(watch.kind.clone(), watch)),
            Message::Look => self.look(),
            Message::Ended(part) => {
                self.missing = Some(part);
                return false;
            }
            Message::Services(news) => {
                self.known.services(&news);
                self.services(news);
            }
            Message::Ask(question) => self.answer(question),
            Message::Stop => return false,
        }
        true
    }
}

/// Time after the n-th failure of the kernel in a row until the next attempt.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(200) * 2_u32.pow(failures.min(8))
}
