//! When this machine's processors had no room for a packet: nodes that are namespaces of one machine share their
//! queues, and what is lost there is lost whoever's it is.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often it is looked.
const PERIOD: Duration = Duration::from_millis(20);
/// How much is remembered: ten minutes, longer than a wave of starting pods takes, which are judged at its end.
const KEPT: usize = 30_000;

/// Packets that found a processor's queue full since the machine started; none if this machine does not tell.
pub(crate) fn overflown() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").ok()?;
    let dropped = text.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    dropped.sum()
}

/// What was seen of the queues lately.
#[derive(Default)]
pub(crate) struct Queues(Mutex<VecDeque<(Instant, u64)>>);

impl Queues {
    /// Looks for as long as somebody holds it.
    pub(crate) fn watched() -> Arc<Self> {
        let queues = Arc::new(Self::default());
        let watched: Weak<Self> = Arc::downgrade(&queues);
        thread::spawn(move || {
            while let Some(queues) = watched.upgrade() {
                if let Some(count) = overflown() {
                    queues.note(Instant::now(), count);
                }
                drop(queues);
                thread::sleep(PERIOD);
            }
        });
        queues
    }

    fn note(&self, at: Instant, count: u64) {
        let mut seen = self.0.lock();
        seen.push_back((at, count));
        if seen.len() > KEPT {
            seen.pop_front();
        }
    }

    /// Whether a packet was lost there between two moments. Not, if nothing was seen from before the first.
    pub(crate) fn lost_between(&self, from: Instant, until: Instant) -> bool {
        let seen = self.0.lock();
        let before = seen.partition_point(|(at, _)| *at <= from).checked_sub(1);
        let after = seen.partition_point(|(at, _)| *at < until).min(seen.len().saturating_sub(1));
        before.is_some_and(|before| seen[after].1 > seen[before].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_lost_meanwhile_counts() {
        let queues = Queues::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert!(!queues.lost_between(start, at(500)), "nothing was seen");
        for (millis, count) in [(100, 7), (200, 7), (300, 9), (400, 9)] {
            queues.note(at(millis), count);
        }
        assert!(queues.lost_between(at(150), at(500)) && queues.lost_between(at(299), at(500)));
        assert!(queues.lost_between(at(150), at(250)), "seen when it was looked next");
        assert!(!queues.lost_between(at(300), at(500)), "lost before");
        assert!(!queues.lost_between(at(100), at(200)), "lost later");
        assert!(!queues.lost_between(at(50), at(500)), "nobody looked then");
    }
}
