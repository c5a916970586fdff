//! `ringfence lab-init DIRECTORY ROOT`: the first process of a container. Passes signals on and reaps orphans.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::config::{Config, ContainerDirectory, Streams};
use super::root;

/// Runs the container's command; gives the exit code the container ends with.
pub fn main(directory: &Path, root: &Path) -> i32 {
    let directory = ContainerDirectory::at(directory);
    // Before the root is another. The shim makes what is in it the container's error.
    let report = File::create(directory.report());
    match run(&directory, root) {
        Ok(code) => code,
        Err(error) => {
            let error = error.to_string();
            let told = report.and_then(|mut report| report.write_all(error.as_bytes()));
            // Or else it is in the container's log.
            let _nowhere_else = told.or_else(|_| io::stderr().write_all(error.as_bytes()));
            128
        }
    }
}

fn run(directory: &ContainerDirectory, root: &Path) -> io::Result<i32> {
    // Without its shim nobody would write down how the container ended; and `down` ends shims.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // As the first process of its namespace it gets no signal it does not ask for. Blocked ones wait to be asked for.
    SigSet::all().thread_block()?;
    let config = directory.config()?;
    let input = input(config.streams)?;
    let nothing = File::open("/dev/null").map_err(root::context("open /dev/null"))?;
    // Changing the root changes it for all processes of a mount namespace: the shim must keep the machine's.
    unshare(CloneFlags::CLONE_NEWNS).map_err(root::context("make a mount namespace"))?;
    root::enter(root)?;
    let main = start(&config, input)?;
    // The command alone is to have its input: when it closes that, whoever writes there is to find out.
    nix::unistd::dup2_stdin(nothing)?;
    reap_until(main, config.streams.terminal)
}

/// The command's input. A terminal becomes that of this session, so that its keys reach the command.
fn input(streams: Streams) -> io::Result<Stdio> {
    if streams.terminal {
        let output = io::stdout();
        nix::unistd::setsid()?;
        rustix::process::ioctl_tiocsctty(&output).map_err(root::context("take the terminal"))?;
        return Ok(output.as_fd().try_clone_to_owned()?.into());
    }
    Ok(if streams.stdin { Stdio::inherit() } else { Stdio::null() })
}

/// Starts the command, from a thread that blocks no signals: children inherit what the thread blocks.
fn start(config: &Config, input: Stdio) -> io::Result<Pid> {
    let mut command = command(config)?;
    command.stdin(input);
    let child = std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            SigSet::all().thread_unblock()?;
            let child = command.spawn();
            // Until this thread is gone the kernel tells it of the child's end, and what it does not block is lost.
            SigSet::all().thread_block()?;
            child
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
    if config.streams.terminal {
        command.env("TERM", config.environment.get("TERM").map_or("xterm", String::as_str));
    }
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

/// Signals of a terminal's keys and size; all programs on it get them from the kernel.
const OF_TERMINALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGWINCH];

/// Passes signals to the command and collects ended processes until the command itself ends.
fn reap_until(main: Pid, terminal: bool) -> io::Result<i32> {
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
            Ok(signal) if terminal && OF_TERMINALS.contains(&signal) => {}
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
