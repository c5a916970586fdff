//! Writes to kernel maps that fail, in tests: as if there were no memory, or no room.

use std::cell::Cell;

use nix::errno::Errno;

thread_local! {
    /// How many more writes of this thread succeed, and how those after fail.
    static PLANNED: Cell<Option<(u32, Errno)>> = const { Cell::new(None) };
}

/// Lets this thread's writes fail with an error, once so many have succeeded, until the closure returns.
pub(crate) fn after<T>(writes: u32, errno: Errno, work: impl FnOnce() -> T) -> T {
    PLANNED.set(Some((writes, errno)));
    let result = work();
    PLANNED.set(None);
    result
}

/// Whether any are to fail.
pub(crate) fn are_planned() -> bool {
    PLANNED.get().is_some()
}

/// One write.
pub(crate) fn strike() -> Result<(), Errno> {
    match PLANNED.get() {
        None => Ok(()),
        Some((0, errno)) => Err(errno),
        Some((writes, errno)) => {
            PLANNED.set(Some((writes - 1, errno)));
            Ok(())
        }
    }
}
