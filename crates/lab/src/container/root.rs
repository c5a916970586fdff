//! A container's file system: an overlay over the machine's, put together in the shim's mount namespace.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot, pivot_root};

use super::config::{Config, ContainerDirectory};

/// Most a container can write, in memory.
const WRITABLE: &str = "size=512m,mode=0755";

/// An error with what was tried.
pub(super) fn context<E: Into<io::Error>>(what: impl std::fmt::Display) -> impl FnOnce(E) -> io::Error {
    move |cause| {
        let cause: io::Error = cause.into();
        io::Error::new(cause.kind(), format!("{what}: {cause}"))
    }
}

/// Puts the file system together below the container's directory; gives its path.
pub(super) fn assemble(directory: &ContainerDirectory, config: &Config) -> io::Result<PathBuf> {
    // Nothing mounted from here on may be seen outside, nor keep anything of the outside busy.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(context("make mounts private"))?;
    let base = directory.root();
    fs::create_dir_all(&base).map_err(context(base.display()))?;
    mount(Some("tmpfs"), &base, Some("tmpfs"), MsFlags::empty(), Some(WRITABLE)).map_err(context("mount tmpfs"))?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| base.join(name));
    for path in [&upper, &work, &root] {
        fs::create_dir(path).map_err(context(path.display()))?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(context("mount overlay over the machine's file system (does the kernel have overlayfs?)"))?;
    system_mounts(&root, &config.program)?;
    for file in &config.files {
        write_inside(&root, &file.path, &file.content, file.executable)?;
    }
    for entry in &config.mounts {
        let target = inside(&root, &entry.target)?;
        fs::create_dir_all(&target).map_err(context(&entry.target))?;
        bind(&entry.source, &target, entry.read_only)?;
    }
    Ok(root)
}

/// `/dev`, `/sys`, empty `/tmp` and `/run`, and this program. `/proc` must wait for the new PID namespace.
fn system_mounts(root: &Path, own_program: &Path) -> io::Result<()> {
    for name in ["proc", "sys", "dev", "tmp", "run"] {
        let path = root.join(name);
        if !path.is_dir() {
            fs::create_dir(&path).map_err(context(path.display()))?;
        }
    }
    mount(Some("/dev"), &root.join("dev"), None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(context("mount /dev"))?;
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), guarded | MsFlags::MS_RDONLY, None::<&str>)
        .map_err(context("mount /sys"))?;
    for (name, options) in [("tmp", "mode=1777,size=256m"), ("run", "mode=0755,size=64m")] {
        mount(Some("tmpfs"), &root.join(name), Some("tmpfs"), guarded, Some(options)).map_err(context(name))?;
    }
    let program = root.join(super::PROGRAM.trim_start_matches('/'));
    fs::write(&program, "").map_err(context(program.display()))?;
    bind(own_program, &program, true)
}

fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    let what = || context::<nix::Error>(format!("mount {} on {}", source.display(), target.display()));
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(what())?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(what())?;
    }
    Ok(())
}

/// Writes a file inside. Whatever had the name before is replaced, not followed: `/etc/resolv.conf` is a link on many
/// machines.
fn write_inside(root: &Path, path: &str, content: &str, executable: bool) -> io::Result<()> {
    let target = inside(root, path)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(context(path))?;
    }
    match fs::remove_file(&target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(context(path)(error)),
    }
    fs::write(&target, content).map_err(context(path))?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(&target, fs::Permissions::from_mode(mode)).map_err(context(path))
}

/// The place of a path below the root; links on the way are not looked at, so the path must be plain.
fn inside(root: &Path, path: &str) -> io::Result<PathBuf> {
    let relative = path.trim_start_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| part == "..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is no path inside the container")));
    }
    Ok(root.join(relative))
}

/// Mounts `/proc` of the new PID namespace and makes the file system the root of the calling process.
pub(super) fn enter(root: &Path) -> io::Result<()> {
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &root.join("proc"), Some("proc"), guarded, None::<&str>).map_err(context("mount /proc"))?;
    chdir(root).map_err(context("enter the container's root"))?;
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).map_err(context("leave the machine's root"))?,
        // The machine's root is an initial ram disk, which cannot be moved away: cover it.
        Err(nix::Error::EINVAL) => {
            mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(context("move root"))?;
            chroot(".").map_err(context("change root"))?;
        }
        Err(error) => return Err(context("change to the container's root")(error)),
    }
    chdir("/").map_err(context("change to /"))
}
