//! Processes of a cluster: started with a log, known by `pid/COMPONENT`, ended.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often it is looked whether something is there, or gone.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long a process may take to end before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a component that goes on running when this program has ended.
pub(super) fn start(directory: &Path, component: &str, command: &Command) -> anyhow::Result<()> {
    let path = directory.join("log").join(format!("{component}.log"));
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    // A session of its own: an interruption at the terminal is not for it.
    let mut detached = Command::new("setsid");
    detached.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            detached.env(name, value);
        }
    }
    detached.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = detached.spawn().with_context(|| format!("cannot start {component}"))?;
    fs::write(directory.join("pid").join(component), format!("{}\n", child.id()))?;
    Ok(())
}

/// Ends the components whose names begin so: asks each, and kills what is still there after a while.
pub(super) fn end(directory: &Path, beginning: &str) {
    let files = fs::read_dir(directory.join("pid")).into_iter().flatten().flatten();
    let files: Vec<_> =
        files.filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with(beginning))).collect();
    let ids: Vec<String> =
        files.iter().filter_map(|file| Some(fs::read_to_string(file.path()).ok()?.trim().to_owned())).collect();
    let running = || ids.iter().filter(|id| runs(id));
    running().for_each(|id| signal("TERM", id));
    let limit = Instant::now() + END_TIMEOUT;
    while running().next().is_some() && Instant::now() < limit {
        std::thread::sleep(POLL_INTERVAL);
    }
    running().for_each(|id| signal("KILL", id));
    for file in files {
        // One that cannot be removed goes with the directory.
        let _ = fs::remove_file(file.path());
    }
}

/// Sends a signal; a process that has ended meanwhile is well.
pub(super) fn signal(name: &str, id: &str) {
    let _ = Command::new("kill").args(["-s", name, id]).stderr(Stdio::null()).status();
}

/// Whether a process is there and is not only waited for.
fn runs(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Runs a command; what it says is the error if it fails, and the result if not.
///
/// An interruption at the terminal is not for it: what was begun is finished, and then removed.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.process_group(0).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `ip` with words that are separated by spaces.
pub(super) fn ip(words: &str) -> anyhow::Result<String> {
    output(Command::new("ip").args(words.split(' ')))
}

/// Waits until something is the case.
///
/// # Errors
/// It is not within the time; the last error says why, and the hint where the logs are.
pub(super) fn eventually<T>(
    directory: &Path,
    what: &str,
    timeout: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let limit = Instant::now() + timeout;
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > limit => {
                let logs = directory.join("log");
                return Err(error.context(format!("{what} does not come up\nhint: the logs are in {}", logs.display())));
            }
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}
