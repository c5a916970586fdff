//! Flows: the kernel's events with names, for the log and for whoever listens on the socket.
//!
//! Both are bounded ([`budget`]): pods decide what is reported, and must fill neither a disk nor a log in which others'
//! denials are to be found. Counters are exact whatever is left out here.

mod bucket;
mod budget;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ringfence_api::{Flow, FlowEnd, FlowLine, FlowsLost, Loss, Verdict};
use ringfence_datapath::{DropReason, Event, EventVerdict};
use tokio::sync::broadcast;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::core::{Gone, Handle, Message, Question};
use crate::metrics::Meters;
use bucket::Rate;
use budget::{Budget, Limits, Told};

/// The source of events. Reading blocks for at most `timeout`.
pub trait Source: Send {
    /// Appends the events there are.
    fn read(&mut self, timeout: Duration, events: &mut Vec<Event>) -> anyhow::Result<()>;
}

/// The verdict about the connection of an event.
pub(crate) fn verdict(event: &Event) -> Verdict {
    match event.verdict {
        EventVerdict::Allowed(_) => Verdict::Allowed,
        EventVerdict::Denied(DropReason::Policy { cut: true, .. }) => Verdict::Cut,
        EventVerdict::Denied(_) => Verdict::Denied,
    }
}

/// True if the source address is certainly not the sender's.
fn is_spoofed(event: &Event) -> bool {
    event.verdict == EventVerdict::Denied(DropReason::Spoofed)
}

/// Events as flows, and how many events the kernel's ring buffer had no room for until now.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) flows: Vec<Flow>,
    pub(crate) events_lost: u64,
}

/// A line for listeners.
pub(crate) type Line = Arc<FlowLine>;

/// Hands flows on to everybody who listens.
#[derive(Clone, Debug)]
pub(crate) struct Flows(broadcast::Sender<Line>);

/// Lines kept for a slow listener before it loses the oldest.
const BACKLOG: usize = 2048;
/// Longest time that reading blocks: how late a stop is noticed.
const READ_TIMEOUT: Duration = Duration::from_millis(100);
/// Least time between two reads, so that a flood is read in big pieces. The kernel counts events that do not fit into
/// the ring buffer meanwhile.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// Least time between two lines of the log about lost events.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(5);

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

    /// Reads events, resolves them to flows, logs and sends these on, until the planning thread is gone.
    pub(crate) fn run(&self, mut source: Box<dyn Source>, core: &Handle, meters: &Meters) {
        let mut reporter = Reporter::new(Instant::now());
        let mut events = Vec::new();
        loop {
            let timeout = if reporter.pending.is_some() { READ_INTERVAL } else { READ_TIMEOUT };
            if let Err(error) = source.read(timeout, &mut events) {
                tracing::error!(%error, "cannot read what the kernel reports about connections");
                return;
            }
            let busy = !events.is_empty();
            reporter.take(&mut events, self.0.receiver_count() > 0, meters);
            if reporter.report(core, &self.0).is_err() {
                return;
            }
            if busy {
                thread::sleep(READ_INTERVAL);
            }
        }
    }
}

/// Reports within budgets. It never waits for names: meanwhile events would be lost, whoever's they are.
struct Reporter {
    log: Budget,
    /// While anybody listens.
    listeners: Option<Budget>,
    pending: Option<Pending>,
    losses: Losses,
}

/// Events that the planning thread is resolving.
struct Pending {
    resolved: oneshot::Receiver<Resolved>,
    /// For each event: where its flow goes, and of how many packets more it was the last.
    destinations: Vec<(Destination, Option<u64>)>,
}

/// Destination of a flow.
#[derive(Clone, Copy)]
enum Destination {
    Log,
    Listeners,
}

/// Events that the kernel lost.
struct Losses {
    /// The kernel's counter when it was read last; none before the first time.
    seen: Option<u64>,
    /// Those that are not in the log yet.
    unlogged: u64,
    logged_at: Instant,
}

impl Reporter {
    fn new(now: Instant) -> Self {
        let losses = Losses { seen: None, unlogged: 0, logged_at: now };
        Self { log: Budget::new(LOG, now), listeners: None, pending: None, losses }
    }

    /// Takes in events.
    fn take(&mut self, events: &mut Vec<Event>, listened: bool, meters: &Meters) {
        let now = Instant::now();
        if listened {
            self.listeners.get_or_insert_with(|| Budget::new(LISTENERS, now));
        } else {
            self.listeners = None;
        }
        for event in events.drain(..) {
            if let Some(listeners) = &mut self.listeners {
                listeners.offer(event.clone(), now);
            }
            if verdict(&event) != Verdict::Allowed && !self.log.offer(event, now) {
                meters.flows_not_logged.inc();
            }
        }
    }

    /// Reports flows that are resolved by now, and has the next ones resolved that may be reported.
    fn report(&mut self, core: &Handle, listeners: &broadcast::Sender<Line>) -> Result<(), Gone> {
        if let Some(pending) = &mut self.pending {
            match pending.resolved.try_recv() {
                Ok(Resolved { flows, events_lost }) => {
                    for (flow, (destination, more)) in flows.into_iter().zip(std::mem::take(&mut pending.destinations))
                    {
                        send(flow, destination, more, listeners);
                    }
                    self.pending = None;
                    self.losses.report(events_lost, Instant::now(), listeners);
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Closed) => return Err(Gone),
            }
        }
        let now = Instant::now();
        let log = self.log.take(now).into_iter().map(|told| (Destination::Log, told));
        let listened = self.listeners.as_mut().map(|listeners| listeners.take(now)).unwrap_or_default();
        let (events, destinations): (Vec<_>, Vec<_>) = log
            .chain(listened.into_iter().map(|told| (Destination::Listeners, told)))
            .map(|(destination, told)| match told {
                Told::Report(event) => (event, (destination, None)),
                Told::More(event, packets) => (event, (destination, Some(packets))),
            })
            .unzip();
        if !events.is_empty() {
            let (reply, resolved) = oneshot::channel();
            core.tell(Message::Ask(Question::Resolve(events, reply)))?;
            self.pending = Some(Pending { resolved, destinations });
        }
        Ok(())
    }
}

impl Losses {
    /// Reports by how much the kernel's counter rose: at once to listeners, now and then in the log.
    fn report(&mut self, counter: u64, now: Instant, listeners: &broadcast::Sender<Line>) {
        // The counter outlives agents: an earlier one reported what it stood at before.
        let lost = counter.saturating_sub(*self.seen.get_or_insert(counter));
        if lost > 0 {
            self.seen = Some(counter);
            self.unlogged += lost;
            // Nobody listening is no error.
            let _ = listeners.send(Arc::new(FlowLine::Lost(FlowsLost::new(lost, Loss::RingBufferFull, None))));
        }
        if self.unlogged > 0 && now >= self.logged_at + LOSS_LOG_INTERVAL {
            tracing::warn!(
                events = self.unlogged,
                "the kernel lost events about packets, as its ring buffer was full; counters have them all"
            );
            (self.unlogged, self.logged_at) = (0, now);
        }
    }
}

fn send(flow: Flow, destination: Destination, more: Option<u64>, listeners: &broadcast::Sender<Line>) {
    match (destination, more) {
        (Destination::Log, None) => log(&flow),
        (Destination::Log, Some(packets)) => log_more(packets, &flow),
        (Destination::Listeners, more) => {
            let line = match more {
                None => FlowLine::Flow(Box::new(flow)),
                Some(packets) => FlowLine::Lost(FlowsLost::new(packets, Loss::RateLimited, Some(flow.source))),
            };
            // Nobody listening is no error.
            let _ = listeners.send(Arc::new(line));
        }
    }
}

/// Logs a denied or cut connection.
fn log(flow: &Flow) {
    let explanation = &flow.explanation;
    tracing::info!(
        source = %flow.source, destination = %flow.destination, protocol = flow.protocol,
        direction = flow.direction.map(tracing::field::display), reason = %explanation.reason,
        rule = explanation.rule, hint = explanation.hint,
        repeated = (flow.repeated > 0).then_some(flow.repeated), "{}: {}", flow.verdict, explanation.message
    );
}

/// Logs a number of packets. Without ports: a flood mostly has many.
fn log_more(packets: u64, flow: &Flow) {
    let bare = |end: &FlowEnd| FlowEnd { port: None, ..end.clone() };
    let (source, destination) = (bare(&flow.source), bare(&flow.destination));
    tracing::info!(
        %source, reason = %flow.explanation.reason,
        "denied: and {packets} more packets of {source}, the last of them to {destination}; counters have them all"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_in_the_kernel_is_reported_once_and_only_what_is_new() {
        let (sender, mut listener) = broadcast::channel(8);
        let start = Instant::now();
        let mut losses = Losses { seen: None, unlogged: 0, logged_at: start };
        losses.report(100, start, &sender);
        assert!(listener.try_recv().is_err(), "an earlier agent's");
        losses.report(130, start, &sender);
        losses.report(130, start, &sender);
        losses.report(0, start, &sender);
        losses.report(131, start, &sender);
        let lost = std::iter::from_fn(|| listener.try_recv().ok()).map(|line| match &*line {
            FlowLine::Lost(gap) => (gap.lost, gap.reason),
            FlowLine::Flow(flow) => panic!("{flow}"),
        });
        assert_eq!(lost.collect::<Vec<_>>(), [(30, Loss::RingBufferFull), (1, Loss::RingBufferFull)]);
        assert_eq!(losses.unlogged, 31);
        losses.report(131, start + LOSS_LOG_INTERVAL, &sender);
        assert_eq!(losses.unlogged, 0, "logged");
    }
}
