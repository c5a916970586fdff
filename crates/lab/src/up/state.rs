//! Options of a lab and its process, on disk.

use std::fs::{self, File, TryLockError};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::about;
use crate::addressing::Families;
use crate::files;
use crate::place::Place;
use crate::process::Process;

/// Options of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// The number of nodes.
    pub nodes: usize,
    /// The IP families.
    pub families: Families,
    /// True if nodes have agents: without, there is no network policy, as in a cluster without an engine.
    pub agents: bool,
    /// Port of the API on the host's loopback; another is taken if it is in use and was not asked for.
    pub api_port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2, families: Families::Ipv4, agents: true, api_port: None }
    }
}

/// A lab that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    /// Its options.
    pub(super) options: Options,
    /// Process that serves it.
    pub(super) process: Process,
    /// Address of its API for kubectl, once it is known.
    pub(super) api_url: Option<String>,
}

impl State {
    /// That of a lab, if one was started there.
    pub(super) fn load(place: &Place) -> anyhow::Result<Option<Self>> {
        let path = place.state_file();
        files::read_json(&path).map_err(about(&path))
    }

    pub(super) fn save(&self, place: &Place) -> anyhow::Result<()> {
        let path = place.state_file();
        files::write_json(&path, self).map_err(about(&path))
    }

    /// Saves unless the same process was saved already, with more.
    pub(super) fn save_if_absent(&self, place: &Place) -> anyhow::Result<()> {
        match Self::load(place)? {
            Some(known) if known.process == self.process => Ok(()),
            _ => self.save(place),
        }
    }
}

/// Makes the lab's directory and holds it against other `up` and `down`.
pub(super) fn lock(place: &Place) -> anyhow::Result<File> {
    fs::create_dir_all(place.root()).map_err(about(place.root()))?;
    let path = place.root().join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(about(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `ringfence lab up` or `down` is at work on {}\nhint: wait until it has ended",
            place.root().display()
        ),
        Err(TryLockError::Error(error)) => Err(error).context(path.display().to_string()),
    }
}

/// Removes the lab's directory again if nothing but the lock was made in it.
pub(super) fn remove_if_empty(place: &Place) {
    let other = |entry: fs::DirEntry| entry.file_name() != "lock";
    let empty = fs::read_dir(place.root()).is_ok_and(|entries| !entries.flatten().any(other));
    if empty {
        // What stays is an empty file, which does no harm.
        let _stays = fs::remove_file(place.root().join("lock"));
        let _stays = fs::remove_dir(place.root());
    }
}
