//! Reads from probes when a state began, and which probes contradict it while it is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::prober::Told;

/// So many unanswered probes in a row make a denial, so many answered ones an allowance.
const RUN: usize = 20;

/// The time that a change may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The probes so far.
pub(crate) struct Seen {
    told: Receiver<Told>,
    /// Sent, and not decided yet.
    open: BTreeSet<Instant>,
    /// When the newest probe was sent.
    newest: Option<Instant>,
    /// By the time they were sent: whether they were answered.
    decided: BTreeMap<Instant, bool>,
    /// When the probe was sent with which the present state was certain.
    certain: Option<Instant>,
    tally: Tally,
}

/// The number of probes there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// All.
    pub(crate) all: usize,
    /// While the state was known: sent after it was certain and decided before the next change was asked for.
    pub(crate) known: usize,
    /// Of those, the ones that contradict the state.
    pub(crate) strays: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.known += other.known;
        self.strays += other.strays;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { all, known, strays } = self;
        write!(f, "{all} probes; {known} of them outside of changes, of which {strays} contradict the state.")
    }
}

impl Seen {
    /// Reads from this channel.
    pub(crate) fn new(told: Receiver<Told>) -> Self {
        Self {
            told,
            open: BTreeSet::new(),
            newest: None,
            decided: BTreeMap::new(),
            certain: None,
            tally: Tally::default(),
        }
    }

    /// Waits until a state holds for [`RUN`] probes sent since `since`; returns when the first packet in it was sent.
    pub(crate) fn begin(&mut self, allowed: bool, since: Instant) -> Option<Instant> {
        let end = Instant::now() + CHANGE_TIMEOUT;
        while Instant::now() < end && self.read(Duration::from_millis(2)) {
            if let Some((first, last)) = self.run_since(allowed, since) {
                self.certain = Some(last);
                // A lone answer before the run was let through by the new state already.
                let lone = self.decided.range(since..).find(|(_, answered)| **answered);
                return if allowed { lone.map(|(sent, _)| *sent) } else { Some(first) };
            }
        }
        None
    }

    /// Lets time pass in a known state, and then until all probes sent meanwhile are decided: what is changed when this
    /// returns cannot change their outcome. Counts them.
    pub(crate) fn hold(&mut self, allowed: bool, span: Duration) -> bool {
        let begin = Instant::now();
        while let Some(rest) = span.checked_sub(begin.elapsed()).filter(|rest| !rest.is_zero()) {
            if !self.read(rest) {
                return false;
            }
        }
        let (Some(certain), Some(last)) = (self.certain, self.newest) else { return false };
        while self.open.first().is_some_and(|oldest| *oldest <= last) {
            if begin.elapsed() > CHANGE_TIMEOUT || !self.read(CHANGE_TIMEOUT) {
                return false;
            }
        }
        let known = self.decided.range(certain..=last);
        self.tally.known += known.clone().count();
        self.tally.strays += known.filter(|(_, answered)| **answered != allowed).count();
        self.decided = self.decided.split_off(&last);
        true
    }

    /// Counts so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// The first and the last of the first run of probes with one outcome.
    fn run_since(&self, allowed: bool, since: Instant) -> Option<(Instant, Instant)> {
        let (mut first, mut length) = (None, 0);
        for (sent, answered) in self.decided.range(since..) {
            if *answered == allowed {
                let first = *first.get_or_insert(*sent);
                length += 1;
                if length >= RUN {
                    return Some((first, *sent));
                }
            } else {
                (first, length) = (None, 0);
            }
        }
        None
    }

    /// Waits for something to be told, takes in all there is; false once the prober has ended.
    fn read(&mut self, limit: Duration) -> bool {
        match self.told.recv_timeout(limit) {
            Ok(told) => self.take(told),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(told) = self.told.try_recv() {
            self.take(told);
        }
        true
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Sent(sent) => {
                self.open.insert(sent);
                self.newest = Some(sent);
            }
            Told::Decided { sent, answered } => {
                self.open.remove(&sent);
                self.tally.all += 1;
                self.decided.insert(sent, answered);
            }
        }
    }
}

#[cfg(test)]
#[path = "seen_tests.rs"]
mod tests;
