//! `ringfence lab-init DIRECTORY ROOT`: the first process of a container. Passes signals on and reaps orphans.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::config::{Config, ContainerDirectory};
use super::root;

/// Runs the container's command; gives the exit code the container ends with.
pub fn main(directory: &Path, root: &Path) -> i32 {
    match run(directory, root) {
        Ok(code) => code,
        Err(error) => {
            // Input is the pipe to the shim, which makes it the container's error.
            let report = io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
            if let Ok(mut report) = report {
                let _lost_if_the_shim_is_gone = report.write_all(error.to_string().as_bytes());
            }
            128
        }
    }
}

fn run(directory: &Path, root: &Path) -> io::Result<i32> {
    // Without its shim nobody would write down how the container ended; and `down` ends shims.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // As the first process of its namespace it gets no signal it does not ask for. Blocked ones wait to be asked for.
    SigSet::all().thread_block()?;
    let config = ContainerDirectory::at(directory).config()?;
    // Changing the root changes it for all processes of a mount namespace: the shim must keep the machine's.
    unshare(CloneFlags::CLONE_NEWNS).map_err(root::context("make a mount namespace"))?;
    root::enter(root)?;
    let main = start(&config)?;
    reap_until(main)
}

/// Starts the command, from a thread that blocks no signals: children inherit what the thread blocks.
fn start(config: &Config) -> io::Result<Pid> {
    let mut command = command(config)?;
    let child = std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            SigSet::all().thread_unblock()?;
            command.spawn()
        });
        starter.join().map_err(|_panic| io::Error::other("starting the command panicked"))?
    })
    .map_err(|cause| not_started(&config.command, &cause))?;
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}

fn command(config: &Config) -> io::Result<Command> {
    let Some((program, arguments)) = config.command.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command specified"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&config.environment).current_dir(&config.working_directory);
    command.stdin(Stdio::null());
    if let Some(group) = config.group {
        command.gid(group);
    }
    if let Some(user) = config.user {
        command.uid(user);
    }
    Ok(command)
}

/// The words container runtimes use when a command cannot be started.
pub(super) fn not_started(command: &[String], cause: &io::Error) -> io::Error {
    let program = command.first().map_or("", String::as_str);
    let what = match cause.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => "executable file not found in $PATH".to_owned(),
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    };
    io::Error::new(cause.kind(), format!("exec: {program:?}: {what}"))
}

/// Passes signals to the command and collects ended processes until the command itself ends.
fn reap_until(main: Pid) -> io::Result<i32> {
    let all = SigSet::all();
    // A command that ended at once may have done so while the thread that started it took the signal.
    if let Some(code) = reap(main)? {
        return Ok(code);
    }
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(main)? {
                    return Ok(code);
                }
            }
            Ok(signal) => match kill(main, signal) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(error) => return Err(error.into()),
            },
            // A real-time signal, for which there is no name: not passed on.
            Err(_unknown) => {}
        }
    }
}

/// Collects all ended processes; the exit code if the command is among them.
fn reap(main: Pid) -> io::Result<Option<i32>> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == main => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return Ok(code),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
