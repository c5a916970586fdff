//! Reads containers' logs: the last lines, since a time, with times, and on as they grow.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, BufReader};
use tokio_util::io::StreamReader;

use crate::container::log;
use crate::process::Process;
use crate::runtime::LogRequest;

/// Part of a log's end that is searched for the last lines, in bytes.
const MAX_TAIL: u64 = 8 << 20;
/// Size of a piece, in bytes.
const CHUNK: usize = 64 * 1024;

/// Until when a log is followed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// It grows for ever.
    Forever,
    /// Until this process has ended.
    End(Process),
    /// It has ended.
    Ended,
}

/// Opens a log as asked for.
pub(super) async fn open(path: &Path, until: Until, request: &LogRequest) -> io::Result<impl AsyncRead + use<>> {
    // Before the first byte is read, so that no later one is missed.
    let follow = request.follow.then(|| Follow::new(path, until)).transpose()?;
    let mut file = File::open(path).await?;
    if let Some(lines) = request.tail_lines {
        let start = tail_start(&mut file, lines).await?;
        file.seek(io::SeekFrom::Start(start)).await?;
    }
    let selection = Selection {
        since: request.since,
        times: request.timestamps,
        left: request.limit_bytes.unwrap_or(u64::MAX),
        within: false,
    };
    let log = Log { file: BufReader::new(file), pending: Vec::new(), selection, follow };
    Ok(StreamReader::new(Box::pin(stream::try_unfold(log, Log::next))))
}

/// Offset of the last lines of a file.
async fn tail_start(file: &mut File, lines: usize) -> io::Result<u64> {
    let length = file.metadata().await?.len();
    let from = length.saturating_sub(MAX_TAIL);
    if lines == 0 {
        return Ok(length);
    }
    file.seek(io::SeekFrom::Start(from)).await?;
    let mut text = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut text).await?;
    // The line end at the very end closes the last line; it does not begin another.
    let body = text.strip_suffix(b"\n").unwrap_or(&text);
    let begin = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(lines - 1);
    Ok(from + begin.map_or(0, |(index, _)| index as u64 + 1))
}

/// A log being read, to its end or on.
struct Log {
    file: BufReader<File>,
    /// An entry that is not whole yet.
    pending: Vec<u8>,
    selection: Selection,
    follow: Option<Follow>,
}

impl Log {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        loop {
            let mut text = Vec::new();
            while text.len() < CHUNK && self.read_entry().await? {
                self.selection.take(&self.pending, &mut text);
                self.pending.clear();
            }
            if !text.is_empty() {
                return Ok(Some((text.into(), self)));
            }
            let more = match &mut self.follow {
                Some(follow) if self.selection.left > 0 => follow.more().await?,
                _ => false,
            };
            if !more {
                return Ok(None);
            }
        }
    }

    /// Reads on to the end of an entry; whether it is there.
    async fn read_entry(&mut self) -> io::Result<bool> {
        self.file.read_until(b'\n', &mut self.pending).await?;
        Ok(self.pending.last() == Some(&b'\n'))
    }
}

/// Selection and form of the entries shown.
struct Selection {
    since: Option<Timestamp>,
    times: bool,
    /// Bytes that may still be shown.
    left: u64,
    /// True if the last entry left its line open.
    within: bool,
}

impl Selection {
    fn take(&mut self, entry: &[u8], text: &mut Vec<u8>) {
        let Some(entry) = log::parse(entry) else {
            // An agent's own lines begin with their time.
            let time = entry.split(|byte| *byte == b' ').next().and_then(|word| std::str::from_utf8(word).ok());
            if self.is_shown(time.unwrap_or_default()) {
                self.show(entry, text);
            }
            return;
        };
        let continued = std::mem::replace(&mut self.within, !entry.whole);
        if !self.is_shown(entry.time) {
            return;
        }
        if self.times && !continued {
            self.show(format!("{} ", entry.time).as_bytes(), text);
        }
        self.show(entry.text, text);
    }

    /// True if a time is late enough. What has no time is shown.
    fn is_shown(&self, time: &str) -> bool {
        self.since.is_none_or(|since| time.parse::<Timestamp>().is_ok_and(|time| time >= since))
    }

    fn show(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        text.extend_from_slice(bytes.get(..length).unwrap_or_default());
        self.left -= length as u64;
    }
}

/// Waits for more of a log.
struct Follow {
    notices: AsyncFd<OwnedFd>,
    until: Until,
}

impl Follow {
    fn new(path: &Path, until: Until) -> io::Result<Self> {
        let notices = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        notices.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        #[expect(deprecated, reason = "its successor is unsafe; an owned descriptor keeps what that asks for")]
        let notices = AsyncFd::with_interest(OwnedFd::from(notices), tokio::io::Interest::READABLE)?;
        Ok(Self { notices, until })
    }

    /// Waits until there may be more; false if there is none to come.
    async fn more(&mut self) -> io::Result<bool> {
        let ended = async {
            match self.until {
                Until::Ended => Ok(()),
                Until::End(process) => process.ended().await,
                Until::Forever => std::future::pending().await,
            }
        };
        tokio::select! {
            // What was written before the end is read first.
            biased;
            written = self.notices.readable() => {
                let mut ready = written?;
                let mut notices = [0; 4096];
                // What they say is no matter: all that is there will be read.
                let _read = ready.try_io(|inner| Ok(rustix::io::read(inner.get_ref(), &mut notices)?));
                Ok(true)
            }
            ended = ended => {
                ended?;
                let last = !matches!(self.until, Until::Ended);
                self.until = Until::Ended;
                Ok(last)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ContainerRef;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F a\n2026-01-01T00:00:02.000000000Z stderr P b\n\
                       2026-01-01T00:00:02.000000000Z stderr F b\n2026-01-01T00:00:03.000000000Z stdout F c\n";

    fn request() -> LogRequest {
        let target = ContainerRef { namespace: "n".into(), pod: "p".into(), container: None };
        LogRequest {
            target,
            follow: false,
            tail_lines: None,
            previous: false,
            since: None,
            timestamps: false,
            limit_bytes: None,
        }
    }

    async fn read(content: &str, request: LogRequest) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, content).unwrap();
        let mut text = String::new();
        open(&path, Until::Ended, &request).await.unwrap().read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_last_lines_of_a_log_are_found() {
        let tail = |content: &'static str, lines| read(content, LogRequest { tail_lines: lines, ..request() });
        assert_eq!(tail("a\nb\nc\n", None).await, "a\nb\nc\n");
        assert_eq!(tail("a\nb\nc\n", Some(2)).await, "b\nc\n");
        assert_eq!(tail("a\nb\n", Some(9)).await, "a\nb\n");
        assert_eq!(tail("a\n\n", Some(1)).await, "\n");
        assert_eq!(tail("a\n", Some(0)).await, "");
        assert_eq!(tail("", Some(3)).await, "");
        assert_eq!(tail(LOG, Some(1)).await, "c\n");
    }

    #[tokio::test]
    async fn entries_are_shown_as_they_were_written_or_with_their_times() {
        assert_eq!(read(LOG, request()).await, "a\nbb\nc\n");
        let times = read(LOG, LogRequest { timestamps: true, ..request() }).await;
        let expected = "2026-01-01T00:00:01.000000000Z a\n2026-01-01T00:00:02.000000000Z bb\n\
                        2026-01-01T00:00:03.000000000Z c\n";
        assert_eq!(times, expected);
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(read(LOG, LogRequest { since, ..request() }).await, "c\n");
        assert_eq!(read(LOG, LogRequest { limit_bytes: Some(3), ..request() }).await, "a\nb");
    }

    #[tokio::test]
    async fn a_log_is_followed_to_the_end_of_its_container() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, LOG).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let until = Until::End(Process::of(child.id()).unwrap());
        let mut reader = open(&path, until, &LogRequest { follow: true, ..request() }).await.unwrap();
        let mut seen = [0; 7];
        reader.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"a\nbb\nc\n");
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"2026-01-01T00:00:04.000000000Z stdout F d\n").unwrap();
        let mut seen = [0; 2];
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), reader.read_exact(&mut seen));
        next.await.unwrap().unwrap();
        assert_eq!(&seen, b"d\n");
        io::Write::write_all(&mut file, b"2026-01-01T00:00:05.000000000Z stdout F e\n").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        let end = tokio::time::timeout(std::time::Duration::from_secs(10), reader.read_to_string(&mut rest));
        end.await.unwrap().unwrap();
        assert_eq!(rest, "e\n");
    }
}
