//! A token bucket: so many a second, and so many at once.

use std::time::{Duration, Instant};

/// Rate at which a bucket fills, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Tokens a second; not 0.
    pub(super) second: u32,
    /// Tokens at once.
    pub(super) burst: u32,
}

/// Tokens, as time brings them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: u32,
    /// Time up to which `tokens` are counted.
    counted: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, counted: now }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let there = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        there
    }

    /// True if it is full: nothing is lost if it is made anew.
    pub(super) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= rate.burst
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let interval = Duration::from_secs(1) / rate.second;
        let passed = now.saturating_duration_since(self.counted).as_nanos() / interval.as_nanos().max(1);
        let new = u32::try_from(passed).unwrap_or(u32::MAX);
        let full = self.tokens.saturating_add(new) >= rate.burst;
        self.tokens = self.tokens.saturating_add(new).min(rate.burst);
        // Parts of a token are kept by not counting the time they took.
        self.counted = if full { now.max(self.counted) } else { self.counted + interval * new };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (rate, start) = (Rate { second: 10, burst: 5 }, Instant::now());
        let mut bucket = Bucket::new(rate, start);
        let mut taken = |after: u64| {
            let now = start + Duration::from_millis(after);
            (0..100).filter(|_| bucket.take(rate, now)).count()
        };
        assert_eq!([0, 99, 100, 150, 199, 200, 450, 9000].map(&mut taken), [5, 0, 1, 0, 0, 1, 2, 5]);
        assert_eq!(taken(8000), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn in_a_long_time_it_gives_its_rate_however_it_is_asked() {
        let (rate, start) = (Rate { second: 7, burst: 3 }, Instant::now());
        let mut bucket = Bucket::new(rate, start);
        let taken = (0..100_000_u64).filter(|ms| bucket.take(rate, start + Duration::from_millis(*ms))).count();
        assert!((700..=703).contains(&taken), "{taken} in 100 seconds");
    }
}
