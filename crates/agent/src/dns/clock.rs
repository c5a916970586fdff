//! The clock by which addresses of names stand.

use std::fs;
use std::time::{Duration, Instant};

/// Milliseconds since the machine was started: the same clock for every process, which nobody can set.
#[derive(Debug)]
pub(super) struct Clock {
    started: u64,
    since: Instant,
}

impl Clock {
    /// Reads how long the machine has been running.
    pub(super) fn new() -> Self {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default();
        let started = u64::try_from(Duration::try_from_secs_f64(seconds).unwrap_or_default().as_millis());
        Self { started: started.unwrap_or_default(), since: Instant::now() }
    }

    /// Now.
    pub(super) fn now(&self) -> u64 {
        self.started + u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
