//! The network namespace of a datapath.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::Error;

/// A network namespace, kept open.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
    /// Identifies the namespace while it exists.
    pub(crate) inode: u64,
}

const PATH: &str = "/proc/thread-self/ns/net";

impl Namespace {
    /// Opens the namespace of the calling thread.
    pub(crate) fn current() -> Result<Self, Error> {
        let path = Path::new(PATH);
        let file = File::open(path).map_err(Error::path("open", path))?;
        let inode = file.metadata().map_err(Error::path("stat", path))?.ino();
        Ok(Self { file, inode })
    }

    /// Opens the same namespace a second time.
    pub(crate) fn again(&self) -> Result<Self, Error> {
        let file = self.file.try_clone().map_err(Error::path("keep open", PATH))?;
        Ok(Self { file, inode: self.inode })
    }

    /// Runs `work` inside the namespace. If the calling thread is elsewhere by now, this takes a thread of its own.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        if Self::current()?.inode == self.inode {
            return work();
        }
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|e| Error::path("enter", PATH)(e.into()))?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
