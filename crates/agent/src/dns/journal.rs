//! Journal of learnt addresses, so that the next agent enforces them from its first moment.
//!
//! A line for every address learnt, prolonged or forgotten, written before anybody can act on it; the newest line about
//! an address counts. The file is written anew, whole, when most of it is outdated. It is for one run of the machine:
//! after another start the kernel holds nothing either, and connections are none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ringfence_model::DomainName;

/// Lines beyond which a file is written anew if three of four are outdated.
const SLACK: usize = 1000;

/// Name and address, and until when it stands: milliseconds since the machine was started; 0 if it was forgotten. An
/// address that lingers has a line like any other: its time is over.
pub(crate) type Line<'a> = (&'a DomainName, IpAddr, u64);

/// The file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Option<File>,
    run: String,
    lines: usize,
}

impl Journal {
    /// Reads what an earlier process wrote. That it cannot be read is no reason not to start: it is said, and nothing
    /// is known.
    pub(crate) fn open(path: &Path) -> (Self, BTreeMap<(DomainName, IpAddr), u64>) {
        let run = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot read which names were learnt; they are learnt \
                    again");
                String::new()
            }
        };
        (Self { path: path.into(), file: None, run: run.clone(), lines: 0 }, parse(&text, &run))
    }

    /// Appends lines; writes the file anew from `all` if it must be.
    pub(crate) fn write<'a>(&mut self, lines: &[Line<'a>], all: impl Iterator<Item = Line<'a>> + Clone) {
        if let Err(error) = self.try_write(lines, all) {
            self.file = None;
            tracing::warn!(%error, path = %self.path.display(), "cannot write down which names were learnt; after a \
                restart they are learnt again");
        }
    }

    fn try_write<'a>(&mut self, lines: &[Line<'a>], all: impl Iterator<Item = Line<'a>> + Clone) -> io::Result<()> {
        self.lines += lines.len();
        if self.lines > SLACK && self.lines / 4 > all.clone().count() {
            self.file = None;
        }
        if let Some(file) = &mut self.file {
            return file.write_all(text(lines.iter().copied()).as_bytes());
        }
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let mut file = File::create(&name)?;
        self.lines = all.clone().count();
        file.write_all(format!("{}\n{}", self.run, text(all)).as_bytes())?;
        fs::rename(&name, &self.path)?;
        self.file = Some(file);
        Ok(())
    }
}

fn text<'a>(lines: impl Iterator<Item = Line<'a>>) -> String {
    lines.fold(String::new(), |mut text, (name, address, until)| {
        let _infallible = writeln!(text, "{until} {address} {name}");
        text
    })
}

/// Lines that make no sense are passed over: the last may be half written.
fn parse(text: &str, run: &str) -> BTreeMap<(DomainName, IpAddr), u64> {
    let mut known = BTreeMap::new();
    let mut lines = text.split_inclusive('\n').map_while(|line| line.strip_suffix('\n'));
    if lines.next() != Some(run) {
        return known;
    }
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let (Some(until), Some(address), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
        let (Ok(until), Ok(address)) = (until.parse(), address.parse()) else { continue };
        let key = (DomainName::new(name), address);
        if until == 0 {
            known.remove(&key);
        } else {
            known.insert(key, until);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ringfence-journal-{test}-{}", std::process::id()))
    }

    fn address(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn the_newest_line_counts_and_a_broken_one_does_not() {
        let path = path("newest");
        let (mut journal, known) = Journal::open(&path);
        assert!(known.is_empty());
        let name = DomainName::new("a.net");
        journal.write(&[], [(&name, address(1), 10), (&name, address(2), 20)].into_iter());
        journal.write(&[(&name, address(1), 30), (&name, address(2), 0), (&name, address(3), 5)], [].into_iter());
        fs::write(&path, fs::read_to_string(&path).unwrap() + "99 192.0.2.1 a.n").unwrap();
        let (_, known) = Journal::open(&path);
        assert_eq!(known, BTreeMap::from([((name.clone(), address(1)), 30), ((name, address(3)), 5)]));
        fs::write(&path, fs::read_to_string(&path).unwrap().split_once('\n').unwrap().1).unwrap();
        assert!(Journal::open(&path).1.is_empty(), "of another run of the machine");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let path = path("bounded");
        let (mut journal, _) = Journal::open(&path);
        let name = DomainName::new("a.net");
        for until in 1..20_000 {
            let line = [(&name, address(1), until)];
            journal.write(&line, line.into_iter());
        }
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= SLACK + 2);
        assert_eq!(Journal::open(&path).1.into_values().collect::<Vec<_>>(), [19_999]);
        fs::remove_file(path).unwrap();
    }
}
