//! Takes a lab down, whatever state it is in: processes, mounts, namespaces, files, in this order.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, umount2};
use ringfence_netns::Namespace;

use super::state::{self, State};
use crate::place::Place;
use crate::process;

/// Entries of the lab's directory. Anything else there is not the lab's and stays.
const ENTRIES: [&str; 13] = [
    "agent-program",
    "api",
    "bpf",
    "kubeconfig",
    "kubeconfig-inside",
    "lab.json",
    "nodes",
    "pods",
    "program",
    "ready",
    "serve.log",
    "steps",
    "lock",
];
/// The time that killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// Removes everything of a lab. What cannot be removed is named; the rest is removed nevertheless.
pub fn down(place: &Place, out: &mut dyn Write) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab is taken down by root\nhint: sudo ringfence lab down");
    }
    let leftover = Namespace::list(place.prefix())?;
    if !place.root().exists() && leftover.is_empty() {
        writeln!(out, "no lab is up in {}", place.root().display())?;
        return Ok(());
    }
    let _alone = state::lock(place)?;
    let mut problems = Vec::new();
    let mut note = |step: anyhow::Result<()>| problems.extend(step.err().map(|error| format!("{error:#}")));
    // First who would start things again.
    note(end_server(place));
    note(end_processes(place));
    note(unmount_all(place.root()));
    for name in Namespace::list(place.prefix())? {
        note(Namespace::delete(&name).map_err(Into::into));
    }
    note(remove_files(place));
    if !problems.is_empty() {
        bail!(
            "not everything of the lab could be removed:\n{}\nhint: run `ringfence lab down` again",
            problems.join("\n")
        );
    }
    writeln!(out, "the lab is down")?;
    Ok(())
}

fn end_server(place: &Place) -> anyhow::Result<()> {
    // A state that cannot be read must not keep the rest from being removed.
    if let Ok(Some(state)) = State::load(place) {
        state.process.kill_and_wait(KILL_TIMEOUT).context("the lab's process")?;
    }
    for process in process::serving(place) {
        process.kill_and_wait(KILL_TIMEOUT).context("a process of the lab")?;
    }
    Ok(())
}

/// Kills everything inside the lab's network namespaces until nothing is left there.
fn end_processes(place: &Place) -> anyhow::Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    for name in Namespace::list(place.prefix())? {
        // What is no namespace any more holds no processes.
        let Ok(namespace) = Namespace::open(&name) else { continue };
        let inode = namespace.inode()?;
        loop {
            let inside = process::in_network_namespace(inode);
            if inside.is_empty() {
                break;
            }
            for process in &inside {
                process.signal(nix::sys::signal::Signal::SIGKILL)?;
            }
            for process in &inside {
                process.kill_and_wait(deadline.saturating_duration_since(Instant::now()))?;
            }
            if Instant::now() > deadline {
                bail!("{} processes in {name} do not end", inside.len());
            }
        }
    }
    Ok(())
}

/// Unmounts everything below the lab's directory, innermost first.
fn unmount_all(root: &Path) -> anyhow::Result<()> {
    let mut mounts = mounts_below(root)?;
    mounts.reverse();
    for path in mounts {
        umount2(&path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    Ok(())
}

fn mounts_below(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(root) && point != root).collect())
}

/// True if something is mounted on exactly this path.
pub(super) fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(mounts_below(parent)?.iter().any(|point| point == path))
}

/// The kernel writes blanks and the like in paths as octal numbers.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

fn remove_files(place: &Place) -> anyhow::Result<()> {
    for name in ENTRIES {
        let path = place.root().join(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    match fs::remove_dir(place.root()) {
        Ok(()) => Ok(()),
        // Somebody else's files are in it.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| place.root().display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mounts_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/plain\\x"), Path::new("/plain\\x"));
    }

    #[test]
    fn files_that_are_not_the_labs_stay() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        fs::create_dir_all(place.pod_directory("u")).unwrap();
        fs::write(directory.path().join("mine"), "").unwrap();
        remove_files(&place).unwrap();
        assert!(!place.pods_directory().exists());
        assert!(directory.path().join("mine").exists());
        fs::remove_file(directory.path().join("mine")).unwrap();
        remove_files(&place).unwrap();
        assert!(!directory.path().exists());
    }
}
