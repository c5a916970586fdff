//! Writes to kernel maps that fail, in tests: as if there were no memory, or no room.

use std::cell::Cell;

use nix::errno::Errno;

thread_local! {
    /// The number of writes of this thread that still succeed, and the error of the writes after them.
    static PLANNED: Cell<Option<(u32, Errno)>> = const { Cell::new(None) };
}

/// Runs the closure. After so many successful writes, every further write of this thread fails with the error.
pub(crate) fn after<T>(writes: u32, errno: Errno, work: impl FnOnce() -> T) -> T {
    PLANNED.set(Some((writes, errno)));
    let result = work();
    PLANNED.set(None);
    result
}

/// True if writes of this thread will fail.
pub(crate) fn are_planned() -> bool {
    PLANNED.get().is_some()
}

/// Counts one write and fails if it is one of those that should.
pub(crate) fn write() -> Result<(), Errno> {
    match PLANNED.get() {
        None => Ok(()),
        Some((0, errno)) => Err(errno),
        Some((writes, errno)) => {
            PLANNED.set(Some((writes - 1, errno)));
            Ok(())
        }
    }
}
