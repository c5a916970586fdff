//! The store on disk: one line per write, rewritten when most lines are of the past.
//!
//! Lines reach the page cache before a write is answered, so they survive the death of the process at any moment; a
//! half-written last line is dropped on reading. They are not forced to the disk: the lab does not outlive the machine.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Change, EventType, Key, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Lines of the past that are tolerated before the file is rewritten.
const SLACK: usize = 20_000;

#[derive(Serialize, Deserialize)]
struct Line<O> {
    revision: u64,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    /// None: the object is gone (or the line only tells the revision).
    #[serde(default)]
    object: Option<O>,
}

impl<'a> Line<&'a Value> {
    fn of(revision: u64, key: &Key, object: Option<&'a Object>) -> Self {
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        Self { revision, resource: key.resource.to_owned(), namespace, name, object: object.map(AsRef::as_ref) }
    }
}

/// The open file.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

type Content = (u64, BTreeMap<Key, Object>);

impl Journal {
    /// Reads the file, if there is one, and opens it for what comes.
    pub(super) fn open(
        path: &Path,
        collection: impl Fn(&str) -> Option<&'static str>,
    ) -> std::io::Result<(Self, u64, BTreeMap<Key, Object>)> {
        let (revision, objects) = match File::open(path) {
            Ok(file) => read(file, collection)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (1, BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let file = rewrite(path, revision, &objects)?;
        Ok((Self { path: path.to_owned(), file, lines: objects.len() }, revision, objects))
    }

    /// Writes one change. A full disk costs the journal, not the lab.
    pub(super) fn append(&mut self, change: &Change, objects: &BTreeMap<Key, Object>) {
        let object = (change.event != EventType::Deleted).then_some(&change.object);
        let result = if self.lines > objects.len() * 2 + SLACK {
            rewrite(&self.path, change.revision, objects).map(|file| (self.file, self.lines) = (file, objects.len()))
        } else {
            self.lines += 1;
            write(&mut self.file, &Line::of(change.revision, &change.key, object))
        };
        if let Err(error) = result {
            tracing::error!(path = %self.path.display(), %error, "the journal of the API's objects cannot be written");
        }
    }
}

fn read(file: File, collection: impl Fn(&str) -> Option<&'static str>) -> std::io::Result<Content> {
    let (mut revision, mut objects) = (1, BTreeMap::new());
    for line in BufReader::new(file).lines() {
        let Ok(line) = serde_json::from_str::<Line<Value>>(&line?) else { break };
        revision = revision.max(line.revision);
        let Some(resource) = collection(&line.resource) else { continue };
        let key = Key { resource, namespace: line.namespace, name: line.name };
        match line.object {
            Some(object) => objects.insert(key, Arc::new(object)),
            None => objects.remove(&key),
        };
    }
    Ok((revision, objects))
}

fn rewrite(path: &Path, revision: u64, objects: &BTreeMap<Key, Object>) -> std::io::Result<File> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
    write(&mut file, &Line::of(revision, &Key::new("", "", ""), None))?;
    for (key, object) in objects {
        let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
        write(&mut file, &Line::of(version.unwrap_or(revision), key, Some(object)))?;
    }
    std::fs::rename(&fresh, path)?;
    Ok(file)
}

fn write(file: &mut File, line: &Line<&Value>) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}
