//! Resource versions of the watches, kept beside the socket across restarts: so that an agent that comes back does not
//! take an older world from an API server that lags behind than the one the kernel holds.
//!
//! What is written here is at least as new as what the kernel holds: it is written before it is told to anybody. The
//! file is one record of a fixed size for each kind, written in place, so that each write is one call and whole or
//! absent.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use ringfence_k8s::watch::{Floor, Progress};

/// Length of a record, its line end included.
const RECORD: usize = 128;

/// The file.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Mutex<Kept>>);

struct Kept {
    path: PathBuf,
    /// None: it cannot be written, and that was said.
    file: Option<File>,
    /// Number of each kind's record, and the version in it.
    records: BTreeMap<String, (u64, String)>,
    /// Oldest acceptable version of a kind without a record.
    unknown: Floor,
}

impl Journal {
    /// Reads what an agent before this one left. `adopted`: the kernel holds what one carried out.
    pub(crate) fn open(path: &Path, adopted: bool) -> Self {
        let text = fs::read(path).unwrap_or_default();
        let records = if adopted { parse(&text) } else { BTreeMap::new() };
        let unknown = if adopted { Floor::Newest } else { Floor::Any };
        let mut kept = Kept { path: path.to_owned(), file: None, records, unknown };
        match kept.begin() {
            Ok(file) => kept.file = Some(file),
            Err(error) => kept.give_up(&error),
        }
        Self(Arc::new(Mutex::new(kept)))
    }
}

impl Progress for Journal {
    fn floor(&self, plural: &str) -> Floor {
        let kept = self.0.lock();
        let version = kept.records.get(plural).map(|(_, version)| Floor::NotOlderThan(version.clone()));
        version.unwrap_or_else(|| kept.unknown.clone())
    }

    fn reached(&self, plural: &str, version: &str) {
        self.0.lock().write(plural, version);
    }
}

impl Kept {
    /// Makes the file anew with what is known.
    fn begin(&self) -> io::Result<File> {
        let next = self.path.with_extension("versions-new");
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
        for (plural, (number, version)) in &self.records {
            file.write_all_at(&record(plural, version)?, number * RECORD as u64)?;
        }
        fs::rename(&next, &self.path)?;
        Ok(file)
    }

    fn write(&mut self, plural: &str, version: &str) {
        let Some(file) = &self.file else { return };
        let count = self.records.len() as u64;
        let number = self.records.get(plural).map_or(count, |(number, _)| *number);
        match record(plural, version).and_then(|record| file.write_all_at(&record, number * RECORD as u64)) {
            Ok(()) => drop(self.records.insert(plural.to_owned(), (number, version.to_owned()))),
            Err(error) => self.give_up(&error),
        }
    }

    /// Without a file the next agent asks for the newest; with an old one it might go back.
    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(path = %self.path.display(), %error, "cannot write down how far the watches have come");
        self.file = None;
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %self.path.display(), %error, "nor remove what is written there");
        }
    }
}

/// A record: name and version in a line, filled up with blanks.
fn record(plural: &str, version: &str) -> io::Result<Vec<u8>> {
    let text = format!("{plural} {version}");
    if text.len() >= RECORD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the version is too long: {version}")));
    }
    Ok(format!("{text:<width$}\n", width = RECORD - 1).into_bytes())
}

/// The records of a file. A part of one is none.
fn parse(text: &[u8]) -> BTreeMap<String, (u64, String)> {
    let records = (0..).zip(text.chunks_exact(RECORD));
    let read = |(number, record): (u64, &[u8])| {
        let words: Vec<&str> = std::str::from_utf8(record.strip_suffix(b"\n")?).ok()?.split_whitespace().collect();
        let [plural, version] = words[..] else { return None };
        Some((plural.to_owned(), (number, version.to_owned())))
    };
    // One that cannot be read means that somebody else wrote here: nothing is known then.
    records.map(read).collect::<Option<_>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_older(version: &str) -> Floor {
        Floor::NotOlderThan(version.to_owned())
    }

    /// A path of this test's own; removed when dropped.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let place = Self(std::env::temp_dir().join(format!("ringfence-{name}-{}.versions", std::process::id())));
            let _ = fs::remove_file(&place.0);
            place
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn an_agent_that_comes_back_goes_on_where_the_last_one_was() {
        let place = Place::new("progress");
        let first = Journal::open(&place.0, false);
        assert_eq!(first.floor("pods"), Floor::Any, "the kernel holds nothing yet");
        for (plural, version) in [("pods", "9"), ("nodes", "1000"), ("pods", "1200"), ("pods", "31")] {
            first.reached(plural, version);
        }
        // Another one while it still runs, as after a death.
        let second = Journal::open(&place.0, true);
        assert_eq!((second.floor("pods"), second.floor("nodes")), (not_older("31"), not_older("1000")));
        assert_eq!(second.floor("namespaces"), Floor::Newest, "something of it may be in the kernel");
        second.reached("namespaces", "7");
        let third = Journal::open(&place.0, true);
        assert_eq!((third.floor("namespaces"), third.floor("nodes")), (not_older("7"), not_older("1000")));
    }

    #[test]
    fn where_the_kernel_holds_nothing_any_age_will_do_and_where_nothing_is_written_only_the_newest() {
        let place = Place::new("progress-none");
        assert_eq!(Journal::open(&place.0, true).floor("pods"), Floor::Newest);
        Journal::open(&place.0, true).reached("pods", "9");
        assert_eq!(Journal::open(&place.0, false).floor("pods"), Floor::Any);
    }

    #[test]
    fn what_cannot_be_read_or_written_is_not_believed() {
        let place = Place::new("progress-odd");
        let journal = Journal::open(&place.0, false);
        journal.reached("pods", "9");
        let whole = fs::read(&place.0).unwrap();
        for odd in [&whole[..RECORD / 2], b"pods", &[whole.clone(), vec![b'x'; RECORD]].concat()] {
            fs::write(&place.0, odd).unwrap();
            assert_eq!(Journal::open(&place.0, true).floor("pods"), Floor::Newest);
        }
        let journal = Journal::open(&place.0, false);
        journal.reached("pods", "9");
        journal.reached("pods", &"9".repeat(RECORD));
        assert!(!place.0.exists(), "what is there would be older than what is carried out");
        let nowhere = Journal::open(Path::new("/nowhere/agent.versions"), true);
        nowhere.reached("pods", "9");
        assert_eq!(nowhere.floor("pods"), Floor::Newest);
    }
}
