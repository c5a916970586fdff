//! The pin directory, whose pins keep maps and links in the kernel while no process has them open.
//!
//! ```text
//! <pin_dir>/maps-<layout>/<map>              maps of one layout
//! <pin_dir>/links-<layout>-<program>/<hook>  links of one program on these maps
//! ```
//! A directory is filled under a name ending in `-new` and renamed once it is complete, because the process may die at
//! any instant. A directory whose name ends in `-new` is ignored and removed.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::object::{MAPS, Version};
use crate::{Error, mounts};

const SYSTEM_BPFFS: &str = "/sys/fs/bpf";
/// bpffs allows no dots in names.
const STAGING: &str = "-new";

/// The pin directory, locked against other processes.
#[derive(Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    version: Version,
    lock: Flock<File>,
    /// True if the file system is also mounted on the node, and this process runs in a container that receives mount
    /// events of the node.
    receives: bool,
}

impl Pins {
    /// Creates the directory, mounts a bpffs for it if there is none, and locks the directory.
    pub(crate) fn open(root: &Path, version: Version) -> Result<Self, Error> {
        prepare(root)?;
        let lock = lock(root)?;
        let receives = mounts::receives(root);
        let pins = Self { root: root.to_path_buf(), version, lock, receives };
        for name in pins.names()?.iter().filter(|name| name.ends_with(STAGING)) {
            pins.remove(name)?;
        }
        Ok(pins)
    }

    /// Does the same again if the directory is gone or another one has its name. Returns true in that case.
    pub(crate) fn restore(&mut self) -> Result<bool, Error> {
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let own = self.lock.metadata().map(identity).map_err(Error::path("stat", &self.root))?;
        if fs::metadata(&self.root).is_ok_and(|found| identity(found) == own) {
            let is_seen = !self.receives || mounts::receives(&self.root);
            return if is_seen { Ok(false) } else { Err(Error::Unmounted(self.root.clone())) };
        }
        prepare(&self.root)?;
        self.lock = lock(&self.root)?;
        Ok(true)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-{:016x}", self.version.layout))
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root.join(format!("{}{:016x}", self.links_prefix(), self.version.program))
    }

    fn links_prefix(&self) -> String {
        format!("links-{:016x}-", self.version.layout)
    }

    /// Every directory with links, of whichever version.
    pub(crate) fn all_links(&self) -> Result<Vec<PathBuf>, Error> {
        Ok(self.names()?.iter().filter(|name| name.starts_with("links-")).map(|name| self.root.join(name)).collect())
    }

    /// Handles pins of our layout that others removed in part. Links without their maps, or incomplete ones, are
    /// renamed and stay in force until new links replace them. Incomplete maps are removed.
    pub(crate) fn set_incomplete_aside(&self) -> Result<(), Error> {
        let whole = MAPS.iter().all(|name| self.maps().join(name).exists());
        if !whole && self.maps().exists() {
            remove_directory(&self.maps())?;
        }
        let ours = self.links_prefix();
        for path in self.all_links()? {
            let is_ours = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(ours.as_bytes()));
            if is_ours && !whole {
                self.rename(&path, "links-aside-")?;
            } else if path == self.links() && !crate::links::are_attached(self) {
                // These links use our maps, and the new name still says so.
                self.rename(&path, &format!("{ours}aside-"))?;
            }
        }
        Ok(())
    }

    /// Renames a directory to the first free name with this prefix.
    fn rename(&self, path: &Path, prefix: &str) -> Result<(), Error> {
        let mut names = (0_u32..).map(|number| self.root.join(format!("{prefix}{number}")));
        let free = names.find(|name| !name.exists()).unwrap_or_else(|| self.root.join(prefix));
        fs::rename(path, free).map_err(Error::path("rename", path))
    }

    /// Returns the link directories of other programs, and true if all of them use our maps.
    pub(crate) fn other_links(&self) -> Result<(Vec<PathBuf>, bool), Error> {
        let own = self.links();
        let others: Vec<_> = self
            .names()?
            .iter()
            .filter(|name| name.starts_with("links-"))
            .map(|name| self.root.join(name))
            .filter(|path| *path != own)
            .collect();
        let prefix = self.root.join(self.links_prefix());
        let shared = others
            .iter()
            .all(|path| path.as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes()));
        Ok((others, shared))
    }

    /// Returns a directory with maps, preferably ours.
    pub(crate) fn any_maps(&self) -> Result<Option<PathBuf>, Error> {
        if self.maps().exists() {
            return Ok(Some(self.maps()));
        }
        Ok(self.names()?.iter().find(|name| name.starts_with("maps-")).map(|name| self.root.join(name)))
    }

    /// Removes maps of other layouts.
    pub(crate) fn remove_other_maps(&self) -> Result<(), Error> {
        let own = self.maps();
        for name in self.names()?.iter().filter(|name| name.starts_with("maps-")) {
            if self.root.join(name) != own {
                self.remove(name)?;
            }
        }
        Ok(())
    }

    /// Removes everything, links first, and the directory; unmounts the bpffs if it is the directory itself.
    pub(crate) fn remove_all(self) -> Result<(), Error> {
        let mut names = self.names()?;
        names.sort_unstable();
        for name in names {
            self.remove(&name)?;
        }
        drop(self.lock);
        if is_mount_point(&self.root)? {
            umount2(&self.root, MntFlags::MNT_DETACH).map_err(|e| Error::path("unmount", &self.root)(e.into()))?;
        }
        fs::remove_dir(&self.root).map_err(Error::path("remove", &self.root))
    }

    /// Names of our directories. The kernel puts files of its own into the root of a bpffs.
    fn names(&self) -> Result<Vec<String>, Error> {
        let entries = fs::read_dir(&self.root).map_err(Error::path("list", &self.root))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.starts_with("maps-") || name.starts_with("links-")).collect())
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.root.join(name);
        if name.starts_with("links-") { crate::links::remove(&path) } else { remove_directory(&path) }
    }
}

/// Creates a directory completely or not at all: `fill` is given a staging directory, which is renamed to `target` once
/// it returns.
pub(crate) fn stage<T>(target: &Path, fill: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
    let mut name = target.as_os_str().to_owned();
    name.push(STAGING);
    let staging = PathBuf::from(name);
    fs::create_dir(&staging).map_err(Error::path("create", &staging))?;
    let result = fill(&staging);
    if result.is_ok() {
        fs::rename(&staging, target).map_err(Error::path("rename", &staging))?;
    } else if let Err(error) = remove_directory(&staging) {
        tracing::warn!(%error, "an incomplete pin directory could not be removed");
    }
    result
}

/// Removes a directory and the pins in it.
pub(crate) fn remove_directory(path: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(path).map_err(Error::path("list", path))?.flatten() {
        fs::remove_file(entry.path()).map_err(Error::path("remove", entry.path()))?;
    }
    fs::remove_dir(path).map_err(Error::path("remove", path))
}

/// Mounts the system's bpffs (`/sys/fs/bpf`) if it is not mounted. Returns true if it was mounted now. Needs
/// `CAP_SYS_ADMIN`.
pub fn mount_system_bpffs() -> Result<bool, Error> {
    let system = Path::new(SYSTEM_BPFFS);
    if is_bpffs(system)? {
        return Ok(false);
    }
    mount_bpffs(system).map(|()| true)
}

fn lock(root: &Path) -> Result<Flock<File>, Error> {
    let directory = File::open(root).map_err(Error::path("open", root))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| Error::Busy(root.to_path_buf()))
}

/// Creates the directory, on a bpffs.
fn prepare(root: &Path) -> Result<(), Error> {
    if root.starts_with(SYSTEM_BPFFS) {
        mount_system_bpffs()?;
    }
    fs::create_dir_all(root).map_err(Error::path("create", root))?;
    if is_bpffs(root)? { Ok(()) } else { mount_bpffs(root) }
}

fn is_bpffs(path: &Path) -> Result<bool, Error> {
    let found = statfs(path).map_err(|e| Error::path("stat the file system of", path)(e.into()))?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs(path: &Path) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|error| Error::Mount { path: path.to_owned(), error: error.into() })
}

/// True if a file system is mounted at the directory itself, not above it.
fn is_mount_point(path: &Path) -> Result<bool, Error> {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).map_err(Error::path("stat", path));
    let Some(parent) = path.parent() else { return Ok(true) };
    Ok(device(path)? != device(parent)?)
}
