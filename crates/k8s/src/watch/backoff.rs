//! How long to wait before trying again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(3);

/// Doubling waits, with up to a quarter more by chance so that the nodes of a cluster do not come back all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Something went well: the next wait is short again.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait now.
    pub(super) fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        // Each RandomState has keys of its own, which is chance enough.
        let quarters = u32::try_from(RandomState::new().hash_one(0) % 256).unwrap_or_default();
        wait + wait * quarters / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..10).map(|_| backoff.step()).collect();
        assert!(waits[0] >= FIRST && waits[0] < FIRST * 5 / 4);
        assert!(waits.iter().all(|wait| *wait < LONGEST * 5 / 4));
        assert!(waits[9] >= LONGEST);
        backoff.reset();
        assert!(backoff.step() < FIRST * 5 / 4);
    }
}
