//! The few system calls that no library wraps.

use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

/// `MEMBARRIER_CMD_GLOBAL` (include/uapi/linux/membarrier.h).
const MEMBARRIER_GLOBAL: libc::c_int = 1;

/// Far longer than any packet is in the program; for kernels that refuse the call (those with `nohz_full`).
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// Returns when every packet that was being judged when it was called has been: after a grace period of RCU, under
/// whose protection netfilter hooks run. Takes milliseconds.
#[expect(unsafe_code, reason = "no library wraps membarrier")]
pub(crate) fn grace_period() {
    // SAFETY: membarrier takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result != 0 {
        tracing::debug!(error = %Errno::last(), "membarrier is refused, waiting instead");
        thread::sleep(LONG_ENOUGH);
    }
}
