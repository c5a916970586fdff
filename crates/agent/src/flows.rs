//! What the kernel reports about connections, with names, for logs and for whoever listens.
//!
//! Both are bounded ([`budget`]): pods decide what is reported, and must fill neither a disk nor a log in which others'
//! denials are to be found. Counters are exact whatever is left out here.

mod bucket;
mod budget;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use ringfence_engine::RuleId;
use ringfence_model::{Direction, Protocol};
use tokio::sync::broadcast;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::api;
use crate::core::{Gone, Handle, Message, Question};
use crate::metrics::Meters;
use bucket::Rate;
use budget::{Budget, Limits, Told};

/// What the kernel reported about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What became of it.
    pub verdict: Outcome,
    /// Which end decided; none if neither was asked.
    pub direction: Option<Direction>,
    /// IP protocol.
    pub protocol: Protocol,
    /// Who opened it: address and port (0 if the protocol has none).
    pub source: (IpAddr, u16),
    /// Who was called.
    pub destination: (IpAddr, u16),
    /// The node itself opened it, not a pod on it.
    pub from_node: bool,
    /// Index of the interface its packet came in by; 0 if the node made it.
    pub interface: u32,
    /// Like ones since the last report, which were only counted.
    pub repeated: u64,
    /// Who or what decided.
    pub why: Why,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Let through.
    Allowed,
    /// Dropped.
    Denied,
    /// Was open, is dropped from now on.
    Cut,
}

/// Who or what decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A cause of the plan.
    Cause(RuleId),
    /// The kernel program itself: a word such as `spoofed-source`, and a sentence.
    Program {
        /// The word.
        reason: &'static str,
        /// The sentence.
        message: &'static str,
    },
}

/// The word for a packet whose source address is not that of the pod that sent it.
pub(crate) const SPOOFED: &str = "spoofed-source";

impl Record {
    /// Whether the source is certainly not who sent the packet.
    fn is_spoofed(&self) -> bool {
        matches!(self.why, Why::Program { reason: SPOOFED, .. })
    }
}

/// Where records come from. Reading blocks for at most `patience`.
pub trait Source: Send {
    /// Appends what there is.
    fn read(&mut self, patience: Duration, records: &mut Vec<Record>) -> anyhow::Result<()>;
}

/// A record with names.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) outcome: Outcome,
    pub(crate) flow: api::Flow,
}

/// What listeners get: a flow, or how many are left out there.
pub(crate) type Line = Arc<api::FlowLine>;

/// Hands flows on to everybody who listens.
#[derive(Clone, Debug)]
pub(crate) struct Flows(broadcast::Sender<Line>);

/// Lines kept for a slow listener before it loses the oldest.
const BACKLOG: usize = 2048;
/// How long reading blocks: how late a stop is noticed.
const PATIENCE: Duration = Duration::from_millis(100);
/// Least time between two looks at what the kernel reports, so that a flood is read in big pieces; what the ring buffer
/// has no room for meanwhile is counted by the kernel.
const PAUSE: Duration = Duration::from_millis(10);

/// Lines of the log about denials. At 500 bytes a line 25 kB a second at most.
const LOG: Limits = Limits { source: Rate { second: 10, burst: 20 }, node: Rate { second: 50, burst: 100 } };
/// Flows for listeners.
const LISTENERS: Limits =
    Limits { source: Rate { second: 500, burst: 1000 }, node: Rate { second: 2000, burst: 4000 } };

impl Flows {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Line> {
        self.0.subscribe()
    }

    /// Reads, names, logs and hands on until the planning thread is gone.
    pub(crate) fn run(&self, mut source: Box<dyn Source>, core: &Handle, meters: &Meters) {
        let mut teller = Teller { log: Budget::new(LOG, Instant::now()), shown: None, asked: None };
        let mut records = Vec::new();
        loop {
            let patience = if teller.asked.is_some() { PAUSE } else { PATIENCE };
            if let Err(error) = source.read(patience, &mut records) {
                tracing::error!(%error, "cannot read what the kernel reports about connections");
                return;
            }
            let busy = !records.is_empty();
            teller.take(&mut records, self.0.receiver_count() > 0, meters);
            if teller.tell(core, &self.0).is_err() {
                return;
            }
            if busy {
                thread::sleep(PAUSE);
            }
        }
    }
}

/// Tells within budgets. It never waits for names: meanwhile what the kernel reports would be lost, whoever's it is.
struct Teller {
    log: Budget,
    /// While anybody listens.
    shown: Option<Budget>,
    asked: Option<Asked>,
}

/// What names were asked for.
struct Asked {
    names: oneshot::Receiver<Vec<Named>>,
    /// For each: where it goes, and of how many packets more it was the last.
    places: Vec<(Place, Option<u64>)>,
}

/// Where something is told.
#[derive(Clone, Copy)]
enum Place {
    Log,
    Listeners,
}

impl Teller {
    /// Takes in what the kernel reported.
    fn take(&mut self, records: &mut Vec<Record>, listened: bool, meters: &Meters) {
        let now = Instant::now();
        if listened {
            self.shown.get_or_insert_with(|| Budget::new(LISTENERS, now));
        } else {
            self.shown = None;
        }
        for record in records.drain(..) {
            if let Some(shown) = &mut self.shown {
                shown.offer(record.clone(), now);
            }
            if record.verdict != Outcome::Allowed && !self.log.offer(record, now) {
                meters.reports_left_out.inc();
            }
        }
    }

    /// Tells what has its names by now, and asks for the names of what may be told next.
    fn tell(&mut self, core: &Handle, listeners: &broadcast::Sender<Line>) -> Result<(), Gone> {
        if let Some(asked) = &mut self.asked {
            match asked.names.try_recv() {
                Ok(named) => {
                    for (named, (place, more)) in named.into_iter().zip(std::mem::take(&mut asked.places)) {
                        tell(named, place, more, listeners);
                    }
                    self.asked = None;
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Closed) => return Err(Gone),
            }
        }
        let now = Instant::now();
        let log = self.log.take(now).into_iter().map(|told| (Place::Log, told));
        let shown = self.shown.as_mut().map(|shown| shown.take(now)).unwrap_or_default();
        let told = log.chain(shown.into_iter().map(|told| (Place::Listeners, told)));
        let (records, places): (Vec<_>, Vec<_>) = told
            .map(|(place, told)| match told {
                Told::Report(record) => (record, (place, None)),
                Told::More(record, packets) => (record, (place, Some(packets))),
            })
            .unzip();
        if !records.is_empty() {
            let (reply, names) = oneshot::channel();
            core.tell(Message::Ask(Question::Names(records, reply)))?;
            self.asked = Some(Asked { names, places });
        }
        Ok(())
    }
}

fn tell(named: Named, place: Place, more: Option<u64>, listeners: &broadcast::Sender<Line>) {
    let Named { outcome, flow } = named;
    match (place, more) {
        (Place::Log, None) => log(outcome, &flow),
        (Place::Log, Some(packets)) => log_more(packets, &flow),
        (Place::Listeners, more) => {
            let line = match more {
                None => api::FlowLine::Flow(Box::new(flow)),
                Some(packets) => api::FlowLine::Lost(api::FlowsLost::new(packets, Some(flow.source))),
            };
            // Nobody listening is no error.
            let _ = listeners.send(Arc::new(line));
        }
    }
}

/// Denied and cut connections go to the log.
fn log(outcome: Outcome, flow: &api::Flow) {
    tracing::info!(
        source = %flow.source, destination = %flow.destination, protocol = flow.protocol,
        direction = flow.direction.as_deref(), reason = flow.reason, rule = flow.rule, hint = flow.hint,
        repeated = (flow.repeated > 0).then_some(flow.repeated), "{outcome}: {}", flow.message
    );
}

/// The port is not told: a flood mostly has many.
fn log_more(packets: u64, flow: &api::Flow) {
    let (source, destination) = (Bare(&flow.source), Bare(&flow.destination));
    tracing::info!(
        %source, reason = flow.reason,
        "denied: and {packets} more packets of {source}, the last of them to {destination}; counters have them all"
    );
}

/// An end without its port.
struct Bare<'a>(&'a api::Peer);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        api::Peer { port: None, ..self.0.clone() }.fmt(f)
    }
}
