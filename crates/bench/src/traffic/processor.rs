//! The one processor on which both ends of a measurement run.

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Ties the calling thread to one processor.
pub(crate) fn pin(processor: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Both ends run on the last processor this process may use: what is measured is the work a packet costs, not how the
/// scheduler places two threads.
pub(crate) fn last_processor() -> anyhow::Result<usize> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let may = |processor: &usize| set.is_set(*processor).unwrap_or(false);
    (0..CpuSet::count()).rev().find(may).context("no processor")
}
