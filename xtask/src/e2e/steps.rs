//! One line per step, and the end of all steps when interrupted.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Time between two looks whether a program ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The time that a program that was told to end may take to clean up.
const CLEANUP_TIMEOUT: Duration = Duration::from_mins(3);
/// Exit code of a program that was interrupted: 128 and the number of the signal, as shells have it.
const INTERRUPTED: u8 = 130;

/// The steps, and whether one failed.
pub(crate) struct Steps {
    /// Number of interruptions.
    interruptions: Arc<AtomicUsize>,
    /// True if one failed.
    pub(crate) failed: bool,
}

impl Steps {
    /// No step yet. From now on an interruption ends the step under way, and leaves out those to come.
    pub(crate) fn listening() -> anyhow::Result<Self> {
        let interruptions = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&interruptions);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
                let (Ok(mut first), Ok(mut second)) = signals else { return };
                let _ = ready.send(());
                loop {
                    tokio::select! { _ = first.recv() => {}, _ = second.recv() => {} }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        heard.recv().context("cannot listen for signals")?;
        Ok(Self { interruptions, failed: false })
    }

    /// True if somebody wanted an end.
    pub(crate) fn interrupted(&self) -> bool {
        self.interruptions.load(Ordering::Relaxed) > 0
    }

    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        match (self.interrupted(), self.failed) {
            (true, _) => ExitCode::from(INTERRUPTED),
            (false, true) => ExitCode::FAILURE,
            (false, false) => ExitCode::SUCCESS,
        }
    }

    /// Takes a step; none if it failed.
    pub(crate) fn take<T>(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> Option<T> {
        if self.interrupted() {
            self.failed = true;
            println!("{name:14} left out: interrupted");
            return None;
        }
        self.last(name, step)
    }

    /// Takes a step also when interrupted.
    pub(crate) fn last<T>(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> Option<T> {
        let (begun, before) = (Instant::now(), self.interruptions.load(Ordering::Relaxed));
        let taken = step();
        let took = begun.elapsed().as_secs();
        match taken {
            Ok(taken) => {
                println!("{name:14} well ({took} s)");
                Some(taken)
            }
            Err(error) => {
                self.failed = true;
                let interrupted = self.interruptions.load(Ordering::Relaxed) > before;
                let how = if interrupted { "interrupted" } else { "FAILED" };
                println!("{name:14} {how} ({took} s): {error:#}");
                None
            }
        }
    }

    /// Runs a program whose exit code says whether all was well. What it says is shown only if not.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> Option<()> {
        let interruptions = Arc::clone(&self.interruptions);
        self.take(name, || quietly(command, &interruptions))
    }

    /// The same, also when interrupted: only a further interruption ends it.
    pub(crate) fn run_last(&mut self, name: &str, command: &mut Command) -> Option<()> {
        let interruptions = Arc::clone(&self.interruptions);
        self.last(name, || quietly(command, &interruptions))
    }

    /// The same, and gives what it wrote, also if not all was well.
    pub(crate) fn read(&mut self, name: &str, command: &mut Command) -> Option<String> {
        let interruptions = Arc::clone(&self.interruptions);
        let mut said = None;
        self.take(name, || {
            let (text, well) = output(command.stderr(Stdio::inherit()), &interruptions)?;
            said = Some(text);
            anyhow::ensure!(well, "{command:?} says no");
            Ok(())
        });
        said.filter(|text| !text.is_empty())
    }

    /// The same, but nothing unless this step and all before it went well; then what it wrote is shown, as it tells
    /// why.
    pub(crate) fn read_well(&mut self, name: &str, command: &mut Command) -> Option<String> {
        let said = self.read(name, command);
        if !self.failed {
            return said;
        }
        print!("{}", said.unwrap_or_default());
        None
    }
}

fn quietly(command: &mut Command, interruptions: &AtomicUsize) -> anyhow::Result<()> {
    let (text, well) = output(command.stderr(Stdio::piped()), interruptions)?;
    if !well {
        print!("{text}");
        bail!("{command:?} says no");
    }
    Ok(())
}

/// Runs a program to its end, whatever the person at the terminal wants meanwhile: what takes away what was made.
pub(super) fn undisturbed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).process_group(0).output().context("cannot start a program")?;
    if !output.status.success() {
        bail!("{command:?} says no: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs a program to its end; told to end when interrupted. By us alone, and once each time: a second time many
/// programs do not clean up.
fn output(command: &mut Command, interruptions: &AtomicUsize) -> anyhow::Result<(String, bool)> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("cannot start a program")?;
    let progress = child.stderr.take().map(|pipe| std::thread::spawn(|| read(pipe)));
    let pipe = child.stdout.take().context("a program without output")?;
    let result = std::thread::spawn(|| read(pipe));
    let well = wait(&mut child, interruptions)?;
    let progress = progress.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok((progress + &result.join().unwrap_or_default(), well))
}

fn read(mut pipe: impl std::io::Read) -> String {
    let mut text = Vec::new();
    // What could be read is told.
    let _ = pipe.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn wait(child: &mut Child, interruptions: &AtomicUsize) -> anyhow::Result<bool> {
    let mut told = interruptions.load(Ordering::Relaxed);
    let mut end: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        let now = interruptions.load(Ordering::Relaxed);
        if now > told {
            // All of its group, as a terminal does.
            let _ = Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status();
            told = now;
            end.get_or_insert_with(|| Instant::now() + CLEANUP_TIMEOUT);
        }
        if end.is_some_and(|end| Instant::now() > end) {
            child.kill()?;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_fails_fails_the_whole() {
        let mut steps = Steps { interruptions: Arc::default(), failed: false };
        assert_eq!(steps.run("well", &mut Command::new("true")), Some(()));
        assert!(!steps.failed);
        assert_eq!(steps.run("not well", &mut Command::new("false")), None);
        assert!(steps.failed);
    }

    #[test]
    fn what_a_program_says_is_read_also_if_it_fails() {
        let mut steps = Steps { interruptions: Arc::default(), failed: false };
        let said = steps.read("says", Command::new("sh").args(["-c", "echo table; exit 1"]));
        assert_eq!(said.as_deref(), Some("table\n"));
        assert!(steps.failed);
        assert_eq!(steps.read_well("after a failure", Command::new("sh").args(["-c", "echo table"])), None);
        steps.failed = false;
        assert_eq!(steps.read_well("well", Command::new("sh").args(["-c", "echo table"])).as_deref(), Some("table\n"));
    }

    #[test]
    fn an_interruption_ends_a_program_and_leaves_the_rest_out() {
        let mut steps = Steps { interruptions: Arc::default(), failed: false };
        let count = Arc::clone(&steps.interruptions);
        let began = Instant::now();
        let interrupting = std::thread::spawn(move || {
            std::thread::sleep(POLL_INTERVAL);
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(steps.run("long", Command::new("sleep").arg("60")), None);
        interrupting.join().unwrap();
        assert_eq!(steps.run("left out", &mut Command::new("true")), None);
        assert_eq!(steps.run_last("end", Command::new("sleep").arg("0.3")), Some(()));
        assert_eq!(steps.last("end", || undisturbed(&mut Command::new("true"))), Some(()));
        assert!(steps.interrupted() && began.elapsed() < Duration::from_secs(30));
        assert!(undisturbed(&mut Command::new("false")).is_err());
    }
}
