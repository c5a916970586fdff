//! Reads from probes when a state began.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::prober::{PATIENCE, Probe};

/// So many unanswered probes in a row make a denial, so many answered ones an allowance.
const RUN: usize = 20;

/// How long a change may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The probes so far.
pub(super) struct Seen {
    probes: Receiver<Probe>,
    /// By the time they were sent: whether they were answered.
    decided: BTreeMap<Instant, bool>,
    /// Spans in which the state was known: first and last instant, and whether probes must be answered.
    spans: Vec<(Instant, Instant, bool)>,
    count: usize,
    strays: usize,
}

impl Seen {
    /// Reads from this channel.
    pub(super) fn new(probes: Receiver<Probe>) -> Self {
        Self { probes, decided: BTreeMap::new(), spans: Vec::new(), count: 0, strays: 0 }
    }

    /// Waits until a state holds for [`RUN`] probes sent since `since`; returns when the first packet in it was sent.
    pub(super) fn begin(&mut self, allowed: bool, since: Instant) -> Option<Instant> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            self.read(Duration::from_millis(2));
            if let Some(first) = self.run_since(allowed, since) {
                // A lone answer before the run was let through by the new state already.
                let lone = self.decided.range(since..).find(|(_, answered)| **answered);
                return if allowed { lone.map(|(sent, _)| *sent) } else { Some(first) };
            }
        }
        None
    }

    /// Lets time pass in a known state.
    pub(super) fn hold(&mut self, allowed: bool, span: Duration) {
        let begin = Instant::now();
        while let Some(rest) = span.checked_sub(begin.elapsed()).filter(|rest| !rest.is_zero()) {
            self.read(rest);
        }
        self.spans.push((begin, Instant::now(), allowed));
        self.settle();
    }

    /// Probes that contradicted a known state.
    pub(super) fn strays(&mut self) -> usize {
        let end = Instant::now() + PATIENCE + Duration::from_millis(100);
        while Instant::now() < end {
            if !self.read(Duration::from_millis(10)) {
                break;
            }
        }
        self.count_strays(|_| true);
        self.strays
    }

    /// All probes.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn run_since(&self, allowed: bool, since: Instant) -> Option<Instant> {
        let (mut first, mut length) = (None, 0);
        for (sent, answered) in self.decided.range(since..) {
            if *answered == allowed {
                first = first.or(Some(*sent));
                length += 1;
                if length >= RUN {
                    return first;
                }
            } else {
                (first, length) = (None, 0);
            }
        }
        None
    }

    /// Waits for a probe, takes in all there are; false once the prober has ended.
    fn read(&mut self, limit: Duration) -> bool {
        match self.probes.recv_timeout(limit) {
            Ok(probe) => self.take(probe),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(probe) = self.probes.try_recv() {
            self.take(probe);
        }
        true
    }

    fn take(&mut self, probe: Probe) {
        self.count += 1;
        self.decided.insert(probe.sent, probe.answered);
    }

    /// Counts and forgets what is certainly decided.
    fn settle(&mut self) {
        let sure = Instant::now().checked_sub(PATIENCE + Duration::from_millis(100));
        if let Some(sure) = sure {
            self.count_strays(|end| end < sure);
        }
    }

    fn count_strays(&mut self, over: impl Fn(Instant) -> bool) {
        let done = self.spans.iter().take_while(|(_, end, _)| over(*end)).count();
        for (begin, end, allowed) in self.spans.drain(..done) {
            self.strays += self.decided.range(begin..=end).filter(|(_, answered)| **answered != allowed).count();
            self.decided = self.decided.split_off(&end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Probes a millisecond apart; `#` answered, `.` not.
    fn seen(pattern: &str) -> (Seen, Instant) {
        let (sender, receiver) = mpsc::channel();
        let begin = Instant::now();
        for (number, outcome) in (0..).zip(pattern.chars()) {
            let sent = begin + Duration::from_millis(number);
            sender.send(Probe { sent, answered: outcome == '#' }).unwrap();
        }
        (Seen::new(receiver), begin)
    }

    #[test]
    fn a_denial_begins_with_its_first_unanswered_packet() {
        let (mut seen, begin) = seen(&format!("###.#{}", ".".repeat(RUN)));
        assert_eq!(seen.begin(false, begin), Some(begin + Duration::from_millis(5)));
    }

    #[test]
    fn an_allowance_begins_with_the_first_answer() {
        let (mut seen, begin) = seen(&format!("..#.{}", "#".repeat(RUN)));
        assert_eq!(seen.begin(true, begin), Some(begin + Duration::from_millis(2)));
    }

    #[test]
    fn contradictions_are_counted() {
        let (mut seen, begin) = seen("##.#");
        seen.spans.push((begin, begin + Duration::from_millis(3), true));
        assert_eq!(seen.strays(), 1);
        assert_eq!(seen.count(), 4);
    }
}
