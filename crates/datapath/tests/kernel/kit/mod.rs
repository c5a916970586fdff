//! What the tests share: namespaces, hand-made plans, packets.

pub(crate) mod packet;
pub(crate) mod plan;
pub(crate) mod space;

/// Whether a test that needs root and the kernel program can run; says why not. In CI it has to.
pub(crate) fn can_run() -> bool {
    let features = ringfence_datapath::features::probe();
    if features.is_supported() {
        return true;
    }
    let reasons: Vec<_> = features.missing.iter().map(ToString::to_string).collect();
    assert!(std::env::var_os("CI").is_none(), "in CI this has to run: {}", reasons.join("; "));
    eprintln!("skipped: {}", reasons.join("; "));
    false
}
