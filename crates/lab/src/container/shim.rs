//! `ringfence lab-container DIRECTORY`: starts one container and writes down how it went.

use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use jiff::Timestamp;
use nix::sched::{CloneFlags, unshare};

use super::config::{Config, ContainerDirectory, Exit, Running, Started};
use super::root;
use super::streams::{Ends, Pumps};
use crate::process::Process;

/// Runs the container described in the directory until it ends. Prints one [`Started`] as a line of JSON.
pub fn main(directory: &Path) -> io::Result<()> {
    let directory = ContainerDirectory::at(directory);
    let config = directory.config()?;
    let started_at = Timestamp::now();
    // A session of its own: signals to the terminal or group of whoever started the lab do not reach containers.
    let _leader_already = nix::unistd::setsid();
    let Outcome { mut init, pumps } = match start(&directory, &config) {
        Ok(started) => started,
        Err(error) => return tell(&Started::Failed(error.to_string())),
    };
    let running =
        Running { shim: Process::current()?, init: Process::of(init.id())?, attempt: config.attempt, started_at };
    directory.set_running(&running)?;
    // Nobody may listen any more; that is no reason to end the container.
    let _unheard = tell(&Started::Running(running));
    let status = init.wait()?;
    // All writers are gone with the container: what they wrote last is read, and then it ends.
    pumps.finish();
    directory.set_exit(&Exit {
        attempt: config.attempt,
        code: exit_code(status),
        error: said(&directory),
        started_at,
        finished_at: Timestamp::now(),
    })
}

/// A container that was started.
struct Outcome {
    init: Child,
    /// Threads that copy its output.
    pumps: Pumps,
}

/// Puts the file system together and starts the container's init.
fn start(directory: &ContainerDirectory, config: &Config) -> io::Result<Outcome> {
    let Ends { stdout, stderr, stdin, pumps } = Ends::open(directory, config)?;
    // Before there are namespaces: a thread whose children belong to another PID namespace can have no more threads.
    let pumps = pumps.start(directory)?;
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID;
    unshare(own).map_err(root::context("make namespaces"))?;
    nix::unistd::sethostname(&config.hostname).map_err(root::context("set the host name"))?;
    let root = root::assemble(directory, config)?;
    // Of an init before it.
    let _none = std::fs::remove_file(directory.report());
    let init = Command::new("/proc/self/exe")
        .arg("lab-init")
        .arg(directory.path())
        .arg(&root)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(root::context("start the container's first process"))?;
    Ok(Outcome { init, pumps })
}

fn tell(started: &Started) -> io::Result<()> {
    let mut line = serde_json::to_vec(started)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

/// Report of the init before it ended.
fn said(directory: &ContainerDirectory) -> Option<String> {
    std::fs::read_to_string(directory.report()).ok().filter(|text| !text.is_empty())
}

/// Exit code as shells and container runtimes give it.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// The command that starts a shim; to be spawned inside the pod's network namespace.
pub fn command(directory: &ContainerDirectory) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("lab-container")
        .arg(directory.path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}
