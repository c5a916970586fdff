//! Logs of containers: a line per line of output, with its time and stream, as container runtimes write them.
//!
//! `TIME stdout F text`, or `P` where the line goes on in the next entry.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::sync::Mutex;

use jiff::Timestamp;

/// Longest piece of a line in one entry, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// A log being written by several streams.
#[derive(Debug)]
pub(super) struct Writer(Mutex<File>);

impl Writer {
    /// Writes at the end of a file opened to append.
    pub(super) fn new(file: File) -> Self {
        Self(Mutex::new(file))
    }

    fn write(&self, stream: &str, line: &[u8], whole: bool) -> io::Result<()> {
        let tag = if whole { 'F' } else { 'P' };
        let mut entry = format!("{:.9} {stream} {tag} ", Timestamp::now()).into_bytes();
        entry.extend_from_slice(line);
        entry.push(b'\n');
        // One write, so that readers see whole entries; a poisoned lock guards nothing but the order.
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(&entry)
    }
}

/// Copies a stream into the log until it ends; `also` sees every piece as it comes.
pub(super) fn copy(mut from: impl Read, stream: &str, log: &Writer, also: impl Fn(&[u8])) {
    let mut buffer = vec![0; MAX_LINE];
    let mut line = Vec::new();
    loop {
        let piece = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal that nobody has open any more ends like this.
            Err(_) => break,
        };
        also(piece);
        line.extend_from_slice(piece);
        // What cannot be logged (the disk is full) is lost; the container must not stand still for it.
        let _lost = write_lines(log, stream, &mut line);
    }
    if !line.is_empty() {
        let _lost = log.write(stream, &line, false);
    }
}

/// Writes the whole lines at the beginning, and pieces of lines that are too long; leaves the rest.
fn write_lines(log: &Writer, stream: &str, pending: &mut Vec<u8>) -> io::Result<()> {
    let mut result = Ok(());
    let mut done = 0;
    while let Some(rest) = pending.get(done..).filter(|rest| !rest.is_empty()) {
        let end = rest.iter().take(MAX_LINE + 1).position(|byte| *byte == b'\n');
        let (line, whole, length) = match end {
            Some(end) => (rest.get(..end), true, end + 1),
            None if rest.len() > MAX_LINE => (rest.get(..MAX_LINE), false, MAX_LINE),
            None => break,
        };
        let written = log.write(stream, line.unwrap_or_default(), whole);
        result = result.and(written);
        done += length;
    }
    pending.drain(..done);
    result
}

/// An entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// When it was written, as text.
    pub(crate) time: &'a str,
    /// Text of the line, with its line end if it has one.
    pub(crate) text: &'a [u8],
    /// True if it ends a line.
    pub(crate) whole: bool,
}

/// Reads an entry, which must end with a line end; none if it is none.
pub(crate) fn parse(bytes: &[u8]) -> Option<Entry<'_>> {
    let mut words = bytes.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(words.next()?).ok()?;
    let (stream, tag, line) = (words.next()?, words.next()?, words.next()?);
    let whole = match tag {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let known = matches!(stream, b"stdout" | b"stderr") && line.last() == Some(&b'\n');
    let text = if whole { line } else { line.get(..line.len().saturating_sub(1))? };
    known.then_some(Entry { time, text, whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(output: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let file = File::options().create(true).append(true).open(&path).unwrap();
        copy(output, "stdout", &Writer::new(file), |_| {});
        let text = std::fs::read(&path).unwrap();
        let entries = text.split_inclusive(|byte| *byte == b'\n').map(|line| parse(line).unwrap());
        entries
            .map(|entry| {
                assert!(entry.time.parse::<Timestamp>().is_ok(), "{}", entry.time);
                (entry.text.to_vec(), entry.whole)
            })
            .collect()
    }

    #[test]
    fn each_line_is_an_entry_and_every_byte_comes_back() {
        assert_eq!(logged(b"a\n\nb c\n"), [(b"a\n".into(), true), (b"\n".into(), true), (b"b c\n".into(), true)]);
        assert_eq!(logged(b"no end"), [(b"no end".into(), false)]);
        assert_eq!(logged(b""), []);
    }

    #[test]
    fn long_lines_are_several_entries() {
        let line = vec![b'x'; MAX_LINE * 2 + 7];
        let entries = logged(&[&line[..], b"\n"].concat());
        assert_eq!(
            entries.iter().map(|(text, whole)| (text.len(), *whole)).collect::<Vec<_>>(),
            [(MAX_LINE, false), (MAX_LINE, false), (8, true),]
        );
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for line in ["", "\n", "plain words of a program\n", "2026-01-01T00:00:00Z stdout X text\n"] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
    }
}
