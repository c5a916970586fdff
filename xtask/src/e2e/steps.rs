//! One line per step, and the end of all steps when interrupted.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often it is looked whether a program ended.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a program that was told to end may take to clean up.
const CLEANING: Duration = Duration::from_mins(2);

/// The steps, and whether one failed.
pub(super) struct Steps {
    interrupted: Arc<AtomicBool>,
    /// Whether one failed.
    pub(super) failed: bool,
}

impl Steps {
    /// No step yet. From now on an interruption ends the step under way, and those to come.
    pub(super) fn listening() -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
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
                    flag.store(true, Ordering::Relaxed);
                }
            });
        });
        heard.recv().context("cannot listen for signals")?;
        Ok(Self { interrupted, failed: false })
    }

    /// Takes a step; none if it failed.
    pub(super) fn take<T>(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> Option<T> {
        if self.interrupted.load(Ordering::Relaxed) {
            self.failed = true;
            println!("{name:14} left out: interrupted");
            return None;
        }
        self.last(name, step)
    }

    /// Takes a step also when interrupted.
    pub(super) fn last<T>(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> Option<T> {
        let begun = Instant::now();
        let taken = step();
        let took = begun.elapsed().as_secs();
        match taken {
            Ok(taken) => {
                println!("{name:14} well ({took} s)");
                Some(taken)
            }
            Err(error) => {
                self.failed = true;
                println!("{name:14} FAILED ({took} s): {error:#}");
                None
            }
        }
    }

    /// Runs a program whose exit code says whether all was well. What it says is shown only if not.
    pub(super) fn run(&mut self, name: &str, command: &mut Command) -> Option<()> {
        let interrupted = Arc::clone(&self.interrupted);
        self.take(name, || {
            let (text, well) = output(command.stderr(Stdio::piped()), &interrupted)?;
            if !well {
                print!("{text}");
                bail!("{command:?} says no");
            }
            Ok(())
        })
    }

    /// The same, and gives what it wrote, also if not all was well.
    pub(super) fn read(&mut self, name: &str, command: &mut Command) -> Option<String> {
        let interrupted = Arc::clone(&self.interrupted);
        let mut said = None;
        self.take(name, || {
            let (text, well) = output(command.stderr(Stdio::inherit()), &interrupted)?;
            said = Some(text);
            anyhow::ensure!(well, "{command:?} says no");
            Ok(())
        });
        said.filter(|text| !text.is_empty())
    }
}

/// Runs a program to its end; told to end when interrupted.
fn output(command: &mut Command, interrupted: &AtomicBool) -> anyhow::Result<(String, bool)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start a program")?;
    let progress = child.stderr.take().map(|pipe| std::thread::spawn(|| read(pipe)));
    let pipe = child.stdout.take().context("a program without output")?;
    let result = std::thread::spawn(|| read(pipe));
    let well = wait(&mut child, interrupted)?;
    let progress = progress.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok((progress + &result.join().unwrap_or_default(), well))
}

fn read(mut pipe: impl std::io::Read) -> String {
    let mut text = Vec::new();
    // What could be read is told.
    let _ = pipe.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn wait(child: &mut Child, interrupted: &AtomicBool) -> anyhow::Result<bool> {
    let mut end: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        match end {
            None if interrupted.load(Ordering::Relaxed) => {
                // Whoever has a terminal was told with us; twice does no harm.
                let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
                end = Some(Instant::now() + CLEANING);
            }
            Some(end) if Instant::now() > end => child.kill()?,
            _ => {}
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_fails_fails_the_whole() {
        let mut steps = Steps { interrupted: Arc::default(), failed: false };
        assert_eq!(steps.run("well", &mut Command::new("true")), Some(()));
        assert!(!steps.failed);
        assert_eq!(steps.run("not well", &mut Command::new("false")), None);
        assert!(steps.failed);
    }

    #[test]
    fn what_a_program_says_is_read_also_if_it_fails() {
        let mut steps = Steps { interrupted: Arc::default(), failed: false };
        let said = steps.read("says", Command::new("sh").args(["-c", "echo table; exit 1"]));
        assert_eq!(said.as_deref(), Some("table\n"));
        assert!(steps.failed);
    }

    #[test]
    fn an_interruption_ends_a_program_and_leaves_the_rest_out() {
        let mut steps = Steps { interrupted: Arc::new(AtomicBool::new(true)), failed: false };
        assert_eq!(steps.run("left out", &mut Command::new("true")), None);
        let began = Instant::now();
        let ended = output(Command::new("sleep").arg("60"), &steps.interrupted).unwrap();
        assert!(!ended.1 && began.elapsed() < Duration::from_secs(30));
        assert_eq!(steps.last("end", || Ok(1)), Some(1));
    }
}
