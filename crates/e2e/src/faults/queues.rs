//! When this machine's processors had no room for a packet: nodes that are namespaces of one machine share their queues,
//! and what is lost there is lost whoever's it is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked.
const PERIOD: Duration = Duration::from_millis(20);
/// How long it is remembered: longer than it takes until a probe is judged.
const KEPT: usize = 500;

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
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push_back((at, count));
        if seen.len() > KEPT {
            seen.pop_front();
        }
    }

    /// Whether a packet was lost there since a moment. Not, if nothing was seen from before it.
    pub(crate) fn lost_since(&self, moment: Instant) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.iter().rev().find(|(at, _)| *at <= moment);
        before.zip(seen.back()).is_some_and(|((_, then), (_, now))| now > then)
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
        assert!(!queues.lost_since(start), "nothing was seen");
        for (millis, count) in [(100, 7), (200, 7), (300, 9), (400, 9)] {
            queues.note(at(millis), count);
        }
        assert!(queues.lost_since(at(150)) && queues.lost_since(at(299)));
        assert!(!queues.lost_since(at(300)), "lost before");
        assert!(!queues.lost_since(at(50)), "nobody looked then");
    }
}
