//! `ringfence lab up`, `down`, `status`, `env` and the process that serves a lab.

mod down;
mod serve;
mod state;
mod status;
mod surroundings;

use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

pub use down::down;
pub use serve::serve;
pub use state::Options;
use state::State;
pub use status::status;

use crate::addressing::MAX_NODES;
use crate::place::Place;

/// The time that a lab may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_mins(2);
/// Time between two looks of `up` at the lab's progress.
const POLL_INTERVAL: Duration = Duration::from_millis(30);

/// Starts a lab in the background and waits until it can be used. Tells how far it is on `progress`, and on `out` what
/// to do next. A lab that is up already is left as it is.
pub fn up(place: &Place, options: &Options, out: &mut dyn Write, progress: &mut dyn Write) -> anyhow::Result<()> {
    if options.nodes == 0 || options.nodes > MAX_NODES {
        bail!("a lab has 1 to {MAX_NODES} nodes, not {}", options.nodes);
    }
    surroundings::check_root()?;
    let _alone = state::lock(place)?;
    if let Some(state) = State::load(place)?
        && state.process.is_alive()
    {
        if state.options != *options {
            bail!(
                "a lab with other options is up already in {}\nhint: `ringfence lab down` first, or choose \
                 another directory with --dir",
                place.root().display()
            );
        }
        writeln!(progress, "the lab is up already")?;
        await_ready(place, &state, progress)?;
        return next_steps(place, out);
    }
    surroundings::check(options).inspect_err(|_| state::remove_if_empty(place))?;
    // A lab whose process died is served again: pods that still run are kept.
    let _not_ready_yet = std::fs::remove_file(place.ready_file());
    let state = start(place, options)?;
    if let Err(error) = await_ready(place, &state, progress) {
        return Err(error.context("the lab did not start"));
    }
    next_steps(place, out)
}

/// Starts the process that serves the lab.
fn start(place: &Place, options: &Options) -> anyhow::Result<State> {
    let log_file = place.log_file();
    let log = File::options().create(true).append(true).open(&log_file);
    let log = log.with_context(|| log_file.display().to_string())?;
    let child = Command::new("/proc/self/exe")
        .args(crate::process::serve_command(place))
        .arg(serde_json::to_string(options)?)
        .env("PATH", surroundings::search_path())
        .env_remove("KUBECONFIG")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the lab's process")?;
    let process = crate::process::Process::of(child.id()).with_context(|| last_words(place))?;
    let state = State { options: options.clone(), process, api_url: None };
    // The process writes the same with the address of the API as soon as it knows it.
    state.save_if_absent(place)?;
    Ok(state)
}

/// Waits until the lab says it is ready, telling each step it says it is at.
fn await_ready(place: &Place, state: &State, progress: &mut dyn Write) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut told = 0;
    loop {
        let ready = place.ready_file().exists();
        let steps = std::fs::read_to_string(place.root().join("steps")).unwrap_or_default();
        for step in steps.lines().skip(told) {
            writeln!(progress, "{step}")?;
            told += 1;
        }
        if ready {
            return Ok(());
        }
        if !state.process.is_alive() {
            bail!("{}", last_words(place));
        }
        if Instant::now() > deadline {
            bail!(
                "it is not ready after {} seconds\nhint: see {} and {}, or `ringfence lab down` to give up",
                READY_TIMEOUT.as_secs(),
                place.log_file().display(),
                place.root().join("nodes").display()
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The end of the log of a process that ended.
fn last_words(place: &Place) -> String {
    let text = std::fs::read_to_string(place.log_file()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n");
    format!("the lab's process ended; the end of {}:\n{tail}", place.log_file().display())
}

fn next_steps(place: &Place, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "The lab is ready. Next:\n")?;
    environment(place, out)?;
    writeln!(out, "kubectl get pods -A -o wide\n")?;
    writeln!(out, "ringfence lab status    # nodes and agents")?;
    writeln!(out, "ringfence lab down      # remove everything")?;
    Ok(())
}

/// Prints the line that points kubectl to the lab.
pub fn environment(place: &Place, out: &mut dyn Write) -> anyhow::Result<()> {
    if !place.kubeconfig().exists() {
        bail!("no lab is up in {}\nhint: ringfence lab up", place.root().display());
    }
    writeln!(out, "export KUBECONFIG={}", quoted(&place.kubeconfig().to_string_lossy()))?;
    Ok(())
}

/// A word for the shell, quoted if it has to be.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// An error of the operating system about a path.
fn about(path: &std::path::Path) -> impl FnOnce(io::Error) -> anyhow::Error + '_ {
    move |error| anyhow::anyhow!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted("/run/ringfence-lab/kubeconfig"), "/run/ringfence-lab/kubeconfig");
        assert_eq!(quoted("/tmp/it's here"), r"'/tmp/it'\''s here'");
    }
}
