//! The directory with the names of namespaces, which all programs of the machine share.
//!
//! The first `ip netns add` on a machine mounts the directory over itself, with what is mounted below. Namespaces that
//! had their names before are then mounted twice, and the lower mounts are covered: no path leads there, and the file
//! they are on cannot be removed. So [`share`] does the same before the first namespace, and [`uncovered`] reaches what
//! is covered.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// The directory of named namespaces, shared with `ip netns`.
pub const RUN_DIR: &str = "/run/netns";

const NOTHING: Option<&str> = None;

/// Makes the directory a shared mount, as iproute2 does and under the same lock. No program then mounts it again.
pub(crate) fn share() -> io::Result<()> {
    fs::create_dir_all(RUN_DIR)?;
    let _lock = Flock::lock(File::open(RUN_DIR)?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let shared = || mount(NOTHING, RUN_DIR, NOTHING, MsFlags::MS_SHARED | MsFlags::MS_REC, NOTHING);
    match shared() {
        // The directory is no mount yet.
        Err(Errno::EINVAL) => {
            mount(Some(RUN_DIR), RUN_DIR, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
            Ok(shared()?)
        }
        other => Ok(other?),
    }
}

/// Runs a closure in a mount namespace in which everything that was mounted over the directory is unmounted.
pub(crate) fn uncovered<T: Send>(closure: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_thread("netns-uncover", || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // Unmounting here leaves other mounts of the same file system alone.
        mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
        unmount_all(Path::new(RUN_DIR))?;
        closure()
    })
    .flatten()
}

/// Removes the file of a name on which a covered mount is. The kernel refuses that if the mount is visible here.
/// Everywhere else it removes the mount together with the file.
pub(crate) fn remove_covered(path: &Path) -> io::Result<()> {
    uncovered(|| {
        unmount_all(path)?;
        fs::remove_file(path)
    })
}

/// Unmounts all mounts of a path.
fn unmount_all(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs a closure on a thread of its own and waits for it. A panic there is returned as an error.
pub(crate) fn on_thread<T: Send>(name: &str, closure: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, closure)?;
        handle.join().map_err(|_panic| io::Error::other("the thread inside the namespace panicked"))
    })
}
