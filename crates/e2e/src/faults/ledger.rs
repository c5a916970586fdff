//! Expectation and observation of each pair of pods.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::queues::Queues;

/// So long after a probe was sent its outcome is decided, whatever it is.
pub(crate) const DECIDED: Duration = Duration::from_millis(1200);
/// Incidents that are kept for people.
const KEPT: usize = 200;

/// Expected result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It is answered.
    Open,
    /// Nothing of it arrives.
    Shut,
    /// A change is under way, or the fault takes an end of it away.
    Any,
}

/// Expectation at the time when a probe was sent. Only what still holds at the end is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The expectation.
    pub(crate) expect: Expect,
    generation: u64,
}

/// Sums over all pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Probes: first packets of connections, datagrams, messages on open connections.
    pub(crate) sent: u64,
    /// Packets that arrived where they must not, and answers that must not be.
    pub(crate) leaked: u64,
    /// Probes without an answer in time that must have one.
    pub(crate) dropped: u64,
    /// Open connections that ended or fell silent, though allowed.
    pub(crate) broken: u64,
    /// Unanswered while the far end's own process was held up, as a probe beside it through the loopback shows.
    pub(crate) held_up: u64,
    /// Unanswered while a queue of this machine was full, and packets were lost in it.
    pub(crate) full: u64,
}

impl std::ops::Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            leaked: self.leaked - earlier.leaked,
            dropped: self.dropped - earlier.dropped,
            broken: self.broken - earlier.broken,
            held_up: self.held_up - earlier.held_up,
            full: self.full - earlier.full,
        }
    }
}

/// Record of all observations.
pub(crate) struct Ledger {
    begun: Instant,
    sent: AtomicU64,
    inner: Mutex<(Counts, Vec<String>)>,
    /// Longest time in milliseconds by which a prober was late, since it was last asked.
    late: AtomicU64,
    queues: Arc<Queues>,
}

impl Ledger {
    /// Nothing yet.
    pub(crate) fn new() -> Arc<Self> {
        let (sent, late) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { begun: Instant::now(), sent, inner: Mutex::default(), late, queues: Queues::watched() })
    }

    fn lock(&self) -> MutexGuard<'_, (Counts, Vec<String>)> {
        self.inner.lock()
    }

    /// The sums up to now.
    pub(crate) fn counts(&self) -> Counts {
        Counts { sent: self.sent.load(Ordering::Relaxed), ..self.lock().0 }
    }

    /// Incidents recorded since the last call.
    pub(crate) fn incidents(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().1)
    }

    /// Longest delay of a prober since this was last called.
    pub(crate) fn latest(&self) -> Duration {
        Duration::from_millis(self.late.swap(0, Ordering::Relaxed))
    }

    /// A prober was late.
    pub(crate) fn late(&self, by: Duration) {
        self.late.fetch_max(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Probes were sent.
    pub(crate) fn sent(&self, number: u64) {
        self.sent.fetch_add(number, Ordering::Relaxed);
    }

    /// Something was unanswered between two moments that must be answered: a drop, unless packets were lost in a full
    /// queue of this machine meanwhile.
    pub(crate) fn unanswered(&self, from: Instant, until: Instant, what: &str) {
        if self.queues.lost_between(from, until) {
            self.note(|counts| counts.full += 1, &format!("queue full: {what}"));
        } else {
            self.note(|counts| counts.dropped += 1, &format!("drop: {what}"));
        }
    }

    /// Counts something, and writes it down for people.
    pub(crate) fn note(&self, count: impl FnOnce(&mut Counts), text: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        let mut inner = self.lock();
        count(&mut inner.0);
        if inner.1.len() < KEPT {
            inner.1.push(format!("{at:9.3} s  {text}"));
        }
    }
}

/// When probes were sent that ended one way and the other.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    answered: Option<Instant>,
    unanswered: Option<Instant>,
}

/// One pod that calls another.
pub(crate) struct Pair {
    /// Caller and callee.
    pub(crate) name: String,
    /// The ledger.
    pub(crate) ledger: Arc<Ledger>,
    state: Mutex<(Ticket, Seen)>,
}

impl Pair {
    /// A pair, and what must be of it.
    pub(crate) fn new(name: String, ledger: &Arc<Ledger>, expect: Expect) -> Arc<Self> {
        let state = Mutex::new((Ticket { expect, generation: 0 }, Seen::default()));
        Arc::new(Self { name, ledger: Arc::clone(ledger), state })
    }

    fn lock(&self) -> MutexGuard<'_, (Ticket, Seen)> {
        self.state.lock()
    }

    /// From now on something else is expected.
    pub(crate) fn expect(&self, expect: Expect) {
        let ticket = &mut self.lock().0;
        if ticket.expect != expect {
            *ticket = Ticket { expect, generation: ticket.generation + 1 };
        }
    }

    /// The present expectation.
    pub(crate) fn ticket(&self) -> Ticket {
        self.lock().0
    }

    /// Decides about a first packet: judged if nothing changed since it was sent.
    pub(crate) fn decide(&self, ticket: Ticket, sent: Instant, answered: bool) {
        let now = {
            let (now, seen) = &mut *self.lock();
            let last = if answered { &mut seen.answered } else { &mut seen.unanswered };
            *last = (*last).max(Some(sent));
            *now
        };
        if now == ticket {
            match (ticket.expect, answered) {
                (Expect::Open, false) => self.dropped(sent, "a first packet"),
                (Expect::Shut, true) => self.leaked("a first packet was answered"),
                _ => {}
            }
        }
    }

    /// Something passed that must not.
    pub(crate) fn leaked(&self, what: &str) {
        self.ledger.note(|counts| counts.leaked += 1, &format!("leak: {}: {what}", self.name));
    }

    /// Something did not pass that must.
    pub(crate) fn dropped(&self, sent: Instant, what: &str) {
        let ago = sent.elapsed().as_millis();
        let text = format!("{}: {what}, sent {ago} ms before, is unanswered", self.name);
        self.ledger.unanswered(sent, Instant::now(), &text);
    }

    /// Time since which the state has been as wanted: since when the last contrary probe was sent; none if it is not so
    /// yet.
    pub(crate) fn settled(&self, open: bool, changed: Instant) -> Option<Duration> {
        let seen = self.lock().1;
        let (agrees, contrary) = if open { (seen.answered, seen.unanswered) } else { (seen.unanswered, seen.answered) };
        let since = contrary.map_or(changed, |contrary| contrary.max(changed));
        let agrees = agrees? > since + Duration::from_millis(200) && since.elapsed() > DECIDED;
        agrees.then(|| since.duration_since(changed))
    }
}
