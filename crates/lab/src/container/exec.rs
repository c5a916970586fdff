//! Commands beside a container's own: `lab-exec` enters its namespaces, `lab-run` becomes the command.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};

use super::config::ContainerDirectory;
use super::init::not_started;
use super::root::context;
use super::shim::exit_code;
pub use super::tty::Terminal;

/// Namespaces to enter, the mount namespace last: `/proc` is another afterwards.
const NAMESPACES: [(&str, CloneFlags); 5] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// `ringfence lab-exec DIRECTORY tty|pipe COMMAND…`: runs a command in the container of that directory; gives its exit
/// code.
pub fn main(directory: &Path, terminal: bool, command: &[String]) -> io::Result<i32> {
    let directory = ContainerDirectory::at(directory);
    let config = directory.config()?;
    let running = directory.running()?.filter(|running| running.init.is_alive());
    let running = running.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the container is not running"))?;
    // Keys such as Ctrl-C are for the command; this process waits for its end whatever comes.
    SigSet::all().thread_block()?;
    let mut open = Vec::new();
    for (name, flag) in NAMESPACES {
        let path = format!("/proc/{}/ns/{name}", running.init.pid);
        open.push((File::open(&path).map_err(context(&path))?, flag, name));
    }
    for (file, flag, name) in open {
        setns(file, flag).map_err(context(format_args!("enter namespace {name}")))?;
    }
    let mut runner = Command::new(super::PROGRAM);
    let mode = if terminal { "tty" } else { "pipe" };
    runner
        .args(["lab-run", mode])
        .args(command)
        .env_clear()
        .envs(&config.environment)
        .current_dir(&config.working_directory);
    if terminal {
        runner.env("TERM", "xterm");
    }
    if let Some(group) = config.group {
        runner.gid(group);
    }
    if let Some(user) = config.user {
        runner.uid(user);
    }
    Ok(exit_code(runner.spawn().map_err(context("start the command"))?.wait()?))
}

/// `ringfence lab-run tty|pipe COMMAND…`: becomes the command. Comes back only if that fails, with the exit code to end
/// with.
pub fn run(terminal: bool, command: &[String]) -> (io::Error, i32) {
    let cause = match (prepare(terminal), command.split_first()) {
        (Err(error), _) => error,
        (Ok(()), None) => io::Error::new(io::ErrorKind::InvalidInput, "no command specified"),
        (Ok(()), Some((program, arguments))) => Command::new(program).args(arguments).exec(),
    };
    let code = if cause.kind() == io::ErrorKind::PermissionDenied { 126 } else { 127 };
    (not_started(command, &cause), code)
}

fn prepare(terminal: bool) -> io::Result<()> {
    SigSet::all().thread_unblock()?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if terminal {
        // The terminal belongs to the session, so that its keys reach the command. The session is one of the
        // container's: a shell gives the terminal back to the group it had it from, which it must be able to name.
        nix::unistd::setsid()?;
        rustix::process::ioctl_tiocsctty(io::stdin())?;
    }
    Ok(())
}

/// Starts a command in a container with pipes. Dropping the child ends the command.
pub fn start_piped(
    directory: &ContainerDirectory,
    command: &[String],
    stdin: bool,
) -> io::Result<tokio::process::Child> {
    let mut exec = exec_command(directory, "pipe", command);
    exec.stdin(if stdin { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::process::Command::from(exec).kill_on_drop(true).spawn()
}

/// Starts a command in a container on a terminal of its own. Dropping the child ends the command.
pub fn start_terminal(
    directory: &ContainerDirectory,
    command: &[String],
) -> io::Result<(tokio::process::Child, Terminal)> {
    let pair = nix::pty::openpty(None, None)?;
    let slave = |slave: &OwnedFd| slave.try_clone().map(Stdio::from);
    let mut exec = exec_command(directory, "tty", command);
    exec.stdin(slave(&pair.slave)?).stdout(slave(&pair.slave)?).stderr(pair.slave);
    let child = tokio::process::Command::from(exec).kill_on_drop(true).spawn()?;
    Ok((child, Terminal::new(pair.master)?))
}

fn exec_command(directory: &ContainerDirectory, mode: &str, arguments: &[String]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("lab-exec").arg(directory.path()).arg(mode).args(arguments).current_dir("/");
    command
}
