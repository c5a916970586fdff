//! Exponential back-off.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Waits for a random time up to a bound that doubles, so that the nodes of a cluster do not return together.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    bound: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: FIRST, longest: LONGEST, bound: FIRST }
    }
}

impl Backoff {
    /// A back-off divided by a factor, for tests.
    #[cfg(test)]
    pub(super) fn hurried(times: u32) -> Self {
        Self { first: FIRST / times, longest: LONGEST / times, bound: FIRST / times }
    }

    /// A back-off of up to an hour, for tests.
    #[cfg(test)]
    pub(super) fn patient() -> Self {
        let hour = Duration::from_hours(1);
        Self { first: hour, longest: hour, bound: hour }
    }

    /// Has to be called after a success: the next wait is short again.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }

    /// Returns the time to wait, at least the time that the server asked for.
    pub fn step(&mut self, asked: Option<Duration>) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(self.longest);
        asked.unwrap_or_default() + rand::random_range(Duration::ZERO..=bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_below_a_bound_that_doubles() {
        let waits = |number: usize| -> Vec<Duration> {
            let nth = |_| {
                let mut backoff = Backoff::default();
                (0..=number).map(|_| backoff.step(None)).last().unwrap()
            };
            (0..200).map(nth).collect()
        };
        for (number, bound) in [(0, FIRST), (1, FIRST * 2), (9, LONGEST)] {
            let waits = waits(number);
            assert!(waits.iter().all(|wait| *wait <= bound), "{waits:?}");
            assert!(waits.iter().any(|wait| *wait < bound / 4) && waits.iter().any(|wait| *wait > bound * 3 / 4));
        }
    }

    #[test]
    fn the_other_side_is_left_alone_for_as_long_as_it_asks() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_secs(40);
        let wait = backoff.step(Some(asked));
        assert!(wait >= asked && wait <= asked + FIRST, "{wait:?}");
        backoff.step(None);
        backoff.reset();
        assert!(backoff.step(None) <= FIRST);
    }
}
