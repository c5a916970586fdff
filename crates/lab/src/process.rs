//! Processes known by number and start time: a number alone may belong to another by now.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::place::Place;

/// One process, told from any later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub start_time: u64,
}

impl Process {
    /// The process that has the number now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        Ok(Self { pid, start_time: start_time(pid)? })
    }

    /// The calling process.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// True if it still runs; one that ended but was not yet waited for does not.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid).is_ok_and(|start_time| start_time == self.start_time)
    }

    /// Sends it a signal. One that has ended is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Completes when it has ended.
    pub async fn ended(&self) -> io::Result<()> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(()) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // The number may have passed to another process before the handle was opened, not after.
        if !self.is_alive() {
            return Ok(());
        }
        #[expect(deprecated, reason = "its successor is unsafe; an owned descriptor keeps what that asks for")]
        let handle = AsyncFd::with_interest(handle, tokio::io::Interest::READABLE)?;
        handle.readable().await?.retain_ready();
        Ok(())
    }

    /// Kills it and waits until it is gone, blocking at most this long.
    pub fn kill_and_wait(&self, limit: Duration) -> io::Result<()> {
        self.signal(Signal::SIGKILL)?;
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(()) };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        if !self.is_alive() {
            return Ok(());
        }
        let mut watched = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&handle), nix::poll::PollFlags::POLLIN)];
        let limit = nix::poll::PollTimeout::try_from(limit).unwrap_or(nix::poll::PollTimeout::MAX);
        nix::poll::poll(&mut watched, limit)?;
        Ok(())
    }
}

/// Reads a process's start time; an ended one that was not waited for counts as gone.
fn start_time(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    // The second field is the program's name in brackets and may contain anything, brackets too.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "unexpected format of /proc/PID/stat");
    let fields = fields.ok_or_else(malformed)?;
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return Err(io::ErrorKind::NotFound.into());
    }
    fields.get(19).and_then(|field| field.parse().ok()).ok_or_else(malformed)
}

/// Processes that serve the lab of that directory, by their command lines.
pub fn serving(place: &Place) -> Vec<Process> {
    let wanted = serve_command(place);
    let serves = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).skip(1);
        wanted.iter().all(|word| words.next() == Some(word.as_encoded_bytes()))
    };
    all().filter(serves).filter_map(|pid| Process::of(pid).ok()).collect()
}

/// Beginning of the command line of a process that serves the lab of that directory, after the name of the program.
pub(crate) fn serve_command(place: &Place) -> [OsString; 3] {
    ["serve".into(), "--dir".into(), place.root().as_os_str().to_owned()]
}

/// Numbers of all processes there are.
fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All processes inside a network namespace, told by its inode.
pub fn in_network_namespace(inode: u64) -> Vec<Process> {
    let wanted = format!("net:[{inode}]");
    all()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link.to_string_lossy() == wanted))
        .filter_map(|pid| Process::of(pid).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());
        assert!(!Process { start_time: process.start_time + 1, ..process }.is_alive());
        process.kill_and_wait(Duration::from_secs(10)).unwrap();
        assert!(!process.is_alive(), "ended but not waited for is not alive");
        child.wait().unwrap();
        process.signal(Signal::SIGTERM).unwrap();
    }

    #[tokio::test]
    async fn the_end_of_any_process_can_be_awaited() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        process.signal(Signal::SIGTERM).unwrap();
        tokio::time::timeout(Duration::from_secs(10), process.ended()).await.unwrap().unwrap();
        child.wait().unwrap();
    }
}
