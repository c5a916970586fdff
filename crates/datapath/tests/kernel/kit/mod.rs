//! Shared parts of the tests: namespaces, hand-made plans, packets.

pub(crate) mod fixture;
pub(crate) mod foreign;
pub(crate) mod net;
pub(crate) mod packet;
pub(crate) mod plan;
pub(crate) mod space;
pub(crate) mod stream;
pub(crate) mod talk;
pub(crate) mod wire;

use std::time::{Duration, Instant};

/// True if a test that needs root and the kernel program can run; prints the reason if not. In CI it has to run.
pub(crate) fn can_run() -> bool {
    let features = ringfence_datapath::features::probe();
    if features.is_supported() {
        return true;
    }
    let reasons: Vec<_> = features.missing.iter().map(ToString::to_string).collect();
    skip(&reasons.join("; "));
    false
}

/// Prints the reason why a test is skipped. In CI no test may be skipped.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "in CI this has to run: {why}");
    eprintln!("skipped: {why}");
}

/// Waits until a condition is true, at most ten seconds.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
