//! A process of a cluster on this machine: stopped, and started again as it was.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::Machine;

/// Time between two looks whether a process ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The time that a process may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Command line and environment of a component.
#[derive(Clone, Debug)]
pub struct Component {
    name: String,
    machine: Machine,
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Component {
    /// A component that runs: `apiserver`, `etcd`, `kubelet-1` and so on.
    pub fn running(machine: &Machine, name: &str) -> anyhow::Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", machine.process(name)?));
        let read = |file: &str| {
            let bytes = fs::read(process.join(file)).with_context(|| format!("{name} does not run"))?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            anyhow::Ok(text.split_terminator('\0').map(str::to_owned).collect::<Vec<_>>())
        };
        let environment = read("environ")?;
        let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
        let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { name: name.to_owned(), machine: machine.clone(), words: read("cmdline")?, environment })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends it, and waits until it is gone.
    pub fn stop(&self, signal: Signal) -> anyhow::Result<()> {
        let process = self.machine.process(&self.name)?;
        end(process, signal).with_context(|| format!("cannot end {}", self.name))
    }

    /// True if it runs.
    pub fn runs(&self) -> bool {
        self.machine.process(&self.name).is_ok_and(runs)
    }

    /// Starts it again, on its node if it is of one.
    pub fn start(&self) -> anyhow::Result<()> {
        let directory = self.machine.directory();
        let mut command = Command::new("setsid");
        let node = self.name.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        if let Some(number) = node {
            command.arg(self.machine.node(number).join("enter"));
        }
        let path = directory.join("log").join(format!("{}.log", self.name));
        let log = OpenOptions::new().append(true).create(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        command.args(&self.words).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        fs::write(directory.join("pid").join(&self.name), format!("{}\n", child.id()))?;
        Ok(())
    }
}

/// Ends a process, and waits until it is gone; one that is not there any more is none.
pub fn end(process: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill(process, signal) {
        Ok(()) => {}
        Err(nix::Error::ESRCH) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot send a signal to process {process}")),
    }
    let limit = Instant::now() + END_TIMEOUT;
    while runs(process) {
        if Instant::now() > limit {
            bail!("process {process} does not end within {END_TIMEOUT:?}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// True if a process is there and more than what its parent has not taken notice of.
fn runs(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
