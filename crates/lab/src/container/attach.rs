//! Attaching to a container's own command: the shim serves a socket in the container's directory.
//!
//! Both ways go frames: a byte that says which channel, the length as four bytes, the data.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::termios::{Winsize, tcsetwinsize};

/// Channels: input, output, error output, the size of the terminal, the end of the input.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const RESIZE: u8 = 4;
pub(crate) const CLOSE: u8 = 5;
/// Length of a frame's head, and the longest data taken, in bytes.
pub(crate) const HEAD: usize = 5;
pub(crate) const MAX_FRAME: usize = 1 << 20;
/// The time that a client may keep the container's output waiting before it is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Name of the socket.
const SOCKET: &str = "attach.sock";

/// A frame as it is sent.
pub(crate) fn frame(channel: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [&[channel][..], &length.to_be_bytes(), data].concat()
}

/// Channel and length of the data of a frame, by its head. None for one that is too long.
pub(crate) fn head(bytes: [u8; HEAD]) -> Option<(u8, usize)> {
    let [channel, length @ ..] = bytes;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (length <= MAX_FRAME).then_some((channel, length))
}

/// Calls `with` with a path of the socket that is short enough for the kernel, whatever the directory's.
pub(crate) fn at_socket<T>(directory: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = File::open(directory)?;
    with(Path::new(&format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())))
}

/// Destination of a container's input.
#[derive(Debug)]
pub(super) enum Input {
    /// It has none.
    None,
    /// A pipe; `once`: it ends with the first client that ends its input.
    Pipe {
        /// The file.
        writer: File,
        /// True if the end of a client's input is the end of the container's.
        once: bool,
    },
    /// The controlling side of a terminal.
    Terminal(File),
}

/// The clients and the container's input.
#[derive(Debug)]
pub(super) struct Attached {
    clients: Mutex<Vec<UnixStream>>,
    input: Mutex<Input>,
}

impl Attached {
    /// Without clients.
    pub(super) fn new(input: Input) -> Self {
        Self { clients: Mutex::default(), input: Mutex::new(input) }
    }

    /// Sends output to all clients. One that does not take it is let go.
    pub(super) fn send(&self, channel: u8, data: &[u8]) {
        let mut clients = held(&self.clients);
        if !clients.is_empty() {
            let frame = frame(channel, data);
            clients.retain_mut(|client| {
                let heard = client.write_all(&frame).is_ok();
                if !heard {
                    let _gone = client.shutdown(std::net::Shutdown::Both);
                }
                heard
            });
        }
    }

    /// Takes clients for ever.
    pub(super) fn serve(self: Arc<Self>, directory: &Path) -> io::Result<()> {
        let listener = at_socket(directory, |path| {
            // Left by the container before its restart.
            let _none = std::fs::remove_file(path);
            UnixListener::bind(path)
        })?;
        std::thread::Builder::new().name("attach".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                let this = Arc::clone(&self);
                // A client for which there is no thread is a client that went away.
                let _refused = std::thread::Builder::new().name("client".into()).spawn(move || this.attend(client));
            }
        })?;
        Ok(())
    }

    fn attend(&self, mut client: UnixStream) {
        let Ok(copy) = client.try_clone() else { return };
        if copy.set_write_timeout(Some(WRITE_TIMEOUT)).is_err() {
            return;
        }
        held(&self.clients).push(copy);
        let mut bytes = [0; HEAD];
        while client.read_exact(&mut bytes).is_ok() {
            let Some((channel, length)) = head(bytes) else { break };
            let mut data = vec![0; length];
            if client.read_exact(&mut data).is_err() {
                break;
            }
            self.take(channel, &data);
        }
        self.take(CLOSE, &[]);
        // Only this client's copy is of no use now; a failed write would find out too, later.
        let _gone = client.shutdown(std::net::Shutdown::Both);
    }

    fn take(&self, channel: u8, data: &[u8]) {
        let mut input = held(&self.input);
        match (channel, &mut *input) {
            // The container may have closed its input; that is its own affair.
            (STDIN, Input::Pipe { writer, .. } | Input::Terminal(writer)) => drop(writer.write_all(data)),
            (CLOSE, Input::Pipe { once: true, .. }) => *input = Input::None,
            (RESIZE, Input::Terminal(terminal)) => {
                if let [c1, c2, r1, r2] = *data {
                    let (columns, rows) = (u16::from_be_bytes([c1, c2]), u16::from_be_bytes([r1, r2]));
                    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                    let _not_resized = tcsetwinsize(&*terminal, size);
                }
            }
            _ => {}
        }
    }
}

/// The guarded value, also after a panic elsewhere: every step leaves it sound.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_their_channel_and_length() {
        let bytes = frame(STDOUT, b"abc");
        assert_eq!(head(bytes[..HEAD].try_into().unwrap()), Some((STDOUT, 3)));
        assert_eq!(&bytes[HEAD..], b"abc");
        assert_eq!(head([0, 0xff, 0, 0, 0]), None);
    }

    #[test]
    fn clients_hear_the_output_and_end_the_input_once() {
        let directory = tempfile::tempdir().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let attached = Arc::new(Attached::new(Input::Pipe { writer, once: true }));
        Arc::clone(&attached).serve(directory.path()).unwrap();
        let mut client = at_socket(directory.path(), |path| UnixStream::connect(path)).unwrap();
        client.write_all(&frame(STDIN, b"hello")).unwrap();
        let mut heard = [0; 5];
        reader.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        // The input was heard, so the client is known.
        attached.send(STDERR, b"problem");
        let mut answer = [0; HEAD + 7];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, frame(STDERR, b"problem")[..]);
        drop(client);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "the input ended with its client");
    }
}
