//! Files between kubelet and shim: files in the container's directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::process::Process;

/// Configuration of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Number of earlier restarts.
    pub attempt: u32,
    /// Host name inside.
    pub hostname: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// Directory the command starts in.
    pub working_directory: String,
    /// User to run as, root if none.
    pub user: Option<u32>,
    /// Group to run as, root if none.
    pub group: Option<u32>,
    /// This program on the host, shown inside.
    pub program: PathBuf,
    /// Files put into its file system.
    pub files: Vec<FileContent>,
    /// Directories of the host shown inside.
    pub mounts: Vec<Mount>,
    /// Streams of its command.
    pub streams: Streams,
}

/// Streams of a container's command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Streams {
    /// True if it has input: what attached clients send.
    pub stdin: bool,
    /// True if the input ends with the first client's.
    pub stdin_once: bool,
    /// True if all of it is one terminal.
    pub terminal: bool,
}

/// A file put into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileContent {
    /// Absolute path inside.
    pub path: String,
    /// Its content.
    pub content: String,
    /// True if it is a program.
    pub executable: bool,
}

/// A directory shown inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    /// True if it can only be read inside.
    pub read_only: bool,
}

/// The shim's first word to its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Started {
    /// The container runs.
    Running(Running),
    /// It could not be started; nothing was left behind.
    Failed(String),
}

/// A container that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// The shim: ends after the container did and all was written down.
    pub shim: Process,
    /// The first process inside: passes signals on; killing it kills all of the container.
    pub init: Process,
    /// Number of this attempt.
    pub attempt: u32,
    /// When it was started.
    pub started_at: Timestamp,
}

/// Exit of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Number of this attempt.
    pub attempt: u32,
    /// Exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// The reason why the command could not even be started, if so.
    pub error: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// The directory of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerDirectory(PathBuf);

impl ContainerDirectory {
    /// That of a container of a pod, in the pod's directory.
    pub fn of(pod: &Path, container: &str) -> Self {
        Self(pod.join("containers").join(container))
    }

    /// One known by its path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Root of its file system, inside the shim's mount namespace only.
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Error report of its init.
    pub fn report(&self) -> PathBuf {
        self.0.join("init-error.txt")
    }

    /// Its output in one attempt.
    pub fn log(&self, attempt: u32) -> PathBuf {
        self.0.join(format!("{attempt}.log"))
    }

    /// Reads its configuration.
    pub fn config(&self) -> io::Result<Config> {
        files::read_json(&self.0.join("config.json"))?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes its configuration.
    pub fn set_config(&self, config: &Config) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        files::write_json(&self.0.join("config.json"), config)
    }

    /// The container started last, if there is one.
    pub fn running(&self) -> io::Result<Option<Running>> {
        files::read_json(&self.0.join("running.json"))
    }

    /// Writes down what was started.
    pub fn set_running(&self, running: &Running) -> io::Result<()> {
        files::write_json(&self.0.join("running.json"), running)
    }

    /// Its last exit, if there is one.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        files::read_json(&self.0.join("exit.json"))
    }

    /// Writes down how it ended.
    pub fn set_exit(&self, exit: &Exit) -> io::Result<()> {
        files::write_json(&self.0.join("exit.json"), exit)
    }
}
