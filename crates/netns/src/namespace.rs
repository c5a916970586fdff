//! Named network namespaces: created, found, entered by threads and processes of their own, deleted.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::run_dir::{RUN_DIR, on_thread, remove_covered, share, uncovered};
use crate::{Error, Netlink, Result};

/// A network namespace held open. Dropping it closes the handle; a named namespace stays until it is deleted.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Creates a namespace under an unused name. Its loopback link is down.
    pub fn create(name: &str) -> Result<Self> {
        let fail = |cause: io::Error| Error::new("create network namespace", name, cause);
        let path = named_path(name).map_err(fail)?;
        share().map_err(fail)?;
        File::options().write(true).create_new(true).open(&path).map_err(fail)?;
        let bound = on_thread("netns-create", || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        bound.flatten().and_then(|()| File::open(&path)).map(|file| Self { name: name.to_owned(), file }).map_err(
            |cause| {
                // The name alone is useless, so it is removed. Nothing has been mounted there.
                let _ = fs::remove_file(&path);
                fail(cause)
            },
        )
    }

    /// Opens the namespace of this name.
    pub fn open(name: &str) -> Result<Self> {
        let fail = |cause: io::Error| Error::new("open network namespace", name, cause);
        let path = named_path(name).map_err(fail)?;
        let mut file = File::open(&path).map_err(fail)?;
        if !is_namespace(&file) {
            file = uncovered(|| File::open(&path)).map_err(fail)?;
        }
        if !is_namespace(&file) {
            let cause = io::Error::new(io::ErrorKind::InvalidData, "the file is no namespace (left by a crash?)");
            return Err(fail(cause));
        }
        Ok(Self { name: name.to_owned(), file })
    }

    /// Opens a namespace by the path of its file, such as `/proc/PID/ns/net`.
    pub fn open_path(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|cause| Error::new("open network namespace", &name, cause))?;
        Ok(Self { name, file })
    }

    /// Opens the namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// Removes the name. The kernel deletes the namespace when nothing (process, socket, handle) uses it any more. No
    /// error if the name does not exist.
    pub fn delete(name: &str) -> Result<()> {
        let fail = |cause: io::Error| Error::new("delete network namespace", name, cause);
        let path = named_path(name).map_err(fail)?;
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(cause) => return Err(fail(cause.into())),
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::ResourceBusy => remove_covered(&path).map_err(fail),
            Err(cause) => Err(fail(cause)),
        }
    }

    /// Returns the names of all named namespaces that begin with `prefix`, sorted.
    pub fn list(prefix: &str) -> Result<Vec<String>> {
        let fail = |cause| Error::new("list network namespaces in", RUN_DIR, cause);
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(fail(cause)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Name by which the namespace was created or opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of a named namespace's file.
    pub fn path(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.name)
    }

    /// The inode number of the namespace's file (`net:[NUMBER]`), which is unique among live namespaces.
    pub fn inode(&self) -> Result<u64> {
        let metadata = self.file.metadata().map_err(|cause| Error::new("identify namespace", &self.name, cause))?;
        Ok(metadata.ino())
    }

    /// Runs a closure inside the namespace, on a thread of its own, and returns its result. Sockets opened inside
    /// belong to the namespace for good, wherever they are used afterwards.
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread("netns-run", || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok::<T, io::Error>(closure())
        })
        .flatten()
        .map_err(|cause| Error::new("enter network namespace", &self.name, cause))
    }

    /// Starts a process inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?.map_err(|cause| Error::new("start program", program, cause))
    }

    /// Opens a netlink connection to the namespace, usable from any thread.
    pub fn netlink(&self) -> Result<Netlink> {
        self.run(Netlink::open)?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Returns the path of a name, which must be a plain file name.
fn named_path(name: &str) -> io::Result<PathBuf> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not usable as a file name"));
    }
    Ok(Path::new(RUN_DIR).join(name))
}

/// True if an open file is a namespace. Only namespaces are on the kernel's nsfs, as `/proc/self/ns` is.
fn is_namespace(file: &File) -> bool {
    let device = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| metadata.dev()).ok();
    let known = device(fs::metadata("/proc/thread-self/ns/net"));
    known.is_some() && known == device(file.metadata())
}
