//! Streams of a container: pipes or a terminal, copied to the log and to attached clients.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::unistd::{Gid, Uid, fchown};

use super::attach::{Attached, Input, STDERR, STDOUT};
use super::config::{Config, ContainerDirectory};
use super::log::{self, Writer};
use super::root::context;

/// The ends of the container's output, and what will read the other ends.
#[derive(Debug)]
pub(super) struct Ends {
    /// For the init's output.
    pub(super) stdout: OwnedFd,
    /// For its error output.
    pub(super) stderr: OwnedFd,
    /// For its input, if that is a pipe. It is open before anybody can attach: what a client says and ends at once
    /// waits there.
    pub(super) stdin: Option<OwnedFd>,
    /// Threads that copy the output.
    pub(super) pumps: Prepared,
}

/// Output that is not copied yet.
#[derive(Debug)]
pub(super) struct Prepared {
    sources: Vec<(u8, &'static str, File)>,
    log: Writer,
    input: Input,
}

/// The threads that copy the output.
#[derive(Debug)]
pub(super) struct Pumps(Vec<JoinHandle<()>>);

impl Ends {
    /// Makes what the configuration asks for, and opens the log.
    pub(super) fn open(directory: &ContainerDirectory, config: &Config) -> io::Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.log(config.attempt))
            .map_err(context("open the log"))?;
        let log = Writer::new(log);
        if config.streams.terminal {
            let pair = nix::pty::openpty(None, None).map_err(context("open a terminal"))?;
            give(&pair.slave, config)?;
            let (reader, writer) = (File::from(pair.master.try_clone()?), File::from(pair.master));
            let input = if config.streams.stdin { Input::Terminal(writer) } else { Input::None };
            let pumps = Prepared { sources: vec![(STDOUT, "stdout", reader)], log, input };
            return Ok(Self { stdout: pair.slave.try_clone()?, stderr: pair.slave, stdin: None, pumps });
        }
        let (input, stdin) = if config.streams.stdin { input(config)? } else { (Input::None, None) };
        let (output, stdout) = io::pipe()?;
        let (errors, stderr) = io::pipe()?;
        give(&stdout, config)?;
        give(&stderr, config)?;
        let source = |reader: io::PipeReader| File::from(OwnedFd::from(reader));
        let sources = vec![(STDOUT, "stdout", source(output)), (STDERR, "stderr", source(errors))];
        let pumps = Prepared { sources, log, input };
        Ok(Self { stdout: stdout.into(), stderr: stderr.into(), stdin, pumps })
    }
}

/// Makes the pipe of the container's input.
fn input(config: &Config) -> io::Result<(Input, Option<OwnedFd>)> {
    let (reader, writer) = io::pipe()?;
    give(&reader, config)?;
    let writer = File::from(OwnedFd::from(writer));
    Ok((Input::Pipe { writer, once: config.streams.stdin_once }, Some(reader.into())))
}

/// Gives a stream to the user the container runs as: programs open `/dev/stdout` again.
fn give(stream: &impl AsFd, config: &Config) -> io::Result<()> {
    let (user, group) = (config.user.map(Uid::from_raw), config.group.map(Gid::from_raw));
    fchown(stream, user, group).map_err(context("give a stream to the container's user"))
}

impl Prepared {
    /// Begins to copy, and to take clients.
    pub(super) fn start(self, directory: &ContainerDirectory) -> io::Result<Pumps> {
        let log = Arc::new(self.log);
        let attached = Arc::new(Attached::new(self.input));
        Arc::clone(&attached).serve(directory.path())?;
        let mut pumps = Vec::new();
        for (channel, name, source) in self.sources {
            let (log, attached) = (Arc::clone(&log), Arc::clone(&attached));
            let copy = move || log::copy(source, name, &log, |piece| attached.send(channel, piece));
            pumps.push(std::thread::Builder::new().name(name.to_owned()).spawn(copy)?);
        }
        Ok(Pumps(pumps))
    }
}

impl Pumps {
    /// Waits until all was copied.
    pub(super) fn finish(self) {
        for pump in self.0 {
            // One that panicked has nothing more to copy.
            let _ended = pump.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::super::attach::{CLOSE, STDIN, at_socket, frame};
    use super::super::config::Streams;
    use super::*;

    fn config() -> Config {
        Config {
            attempt: 0,
            hostname: "p".into(),
            command: vec!["cat".into()],
            environment: BTreeMap::new(),
            working_directory: "/".into(),
            user: None,
            group: None,
            program: "/proc/self/exe".into(),
            files: Vec::new(),
            mounts: Vec::new(),
            streams: Streams { stdin: true, stdin_once: true, terminal: false },
        }
    }

    #[test]
    fn what_a_client_says_and_ends_before_the_command_reads_waits_for_it() {
        let place = tempfile::tempdir().unwrap();
        let directory = ContainerDirectory::at(place.path());
        let Ends { stdin, pumps, .. } = Ends::open(&directory, &config()).unwrap();
        let _pumps = pumps.start(&directory).unwrap();
        let mut client = at_socket(directory.path(), |path| UnixStream::connect(path)).unwrap();
        client.write_all(&[frame(STDIN, b"twelve bytes"), frame(CLOSE, &[])].concat()).unwrap();
        drop(client);
        let mut heard = String::new();
        File::from(stdin.unwrap()).read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "twelve bytes");
    }
}
