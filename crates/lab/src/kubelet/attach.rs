//! The kubelet's side of attaching: the frames of a container's shim as streams.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::container::attach::{CLOSE, HEAD, RESIZE, STDERR, STDIN, STDOUT, at_socket, frame, head};
use crate::container::config::ContainerDirectory;
use crate::runtime::ExecSession;

/// Output that may wait for the client, in bytes.
const BUFFER: usize = 64 * 1024;

/// Attaches to a container's command. The session ends with the container, well whatever its exit code: that is in the
/// pod's status.
pub(super) fn attach(directory: &ContainerDirectory, stdin: bool, terminal: bool) -> io::Result<ExecSession> {
    let connection = at_socket(directory.path(), |path| std::os::unix::net::UnixStream::connect(path))?;
    connection.set_nonblocking(true)?;
    let (from, to) = UnixStream::from_std(connection)?.into_split();
    let (stdout, output) = tokio::io::duplex(BUFFER);
    let (stderr, errors) = tokio::io::duplex(BUFFER);
    let (input, typed) = tokio::io::duplex(BUFFER);
    let (resize, sizes) = mpsc::channel(4);
    let (mut sender, exit) = oneshot::channel();
    tokio::spawn(async move {
        let receiving = receive(from, output, errors);
        let sending = send(to, stdin.then_some(typed), sizes);
        tokio::select! {
            () = receiving => {}
            () = sending => {}
            // The client went away: so does the connection.
            () = sender.closed() => return,
        }
        let _nobody_listens = sender.send(0);
    });
    Ok(ExecSession {
        stdin: stdin.then(|| Box::new(input) as Box<_>),
        stdout: Box::new(stdout),
        stderr: (!terminal).then(|| Box::new(stderr) as Box<_>),
        resize: terminal.then_some(resize),
        exit,
    })
}

/// Hands on output until the container ends.
async fn receive(mut from: OwnedReadHalf, mut output: DuplexStream, mut errors: DuplexStream) {
    let mut bytes = [0; HEAD];
    while from.read_exact(&mut bytes).await.is_ok() {
        let Some((channel, length)) = head(bytes) else { return };
        let mut data = vec![0; length];
        if from.read_exact(&mut data).await.is_err() {
            return;
        }
        // A client that does not listen to one stream may still listen to the other.
        let _unheard = match channel {
            STDOUT => output.write_all(&data).await,
            STDERR => errors.write_all(&data).await,
            _ => Ok(()),
        };
    }
}

/// Hands on input and sizes until both have ended.
async fn send(mut to: OwnedWriteHalf, mut typed: Option<DuplexStream>, mut sizes: mpsc::Receiver<(u16, u16)>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut sized = true;
    while typed.is_some() || sized {
        let frame = tokio::select! {
            length = read(&mut typed, &mut buffer) => match length {
                0 => {
                    typed = None;
                    frame(CLOSE, &[])
                }
                length => frame(STDIN, buffer.get(..length).unwrap_or_default()),
            },
            size = sizes.recv(), if sized => if let Some((columns, rows)) = size {
                let [c, r] = [columns.to_be_bytes(), rows.to_be_bytes()];
                frame(RESIZE, &[c, r].concat())
            } else {
                sized = false;
                continue;
            },
        };
        if to.write_all(&frame).await.is_err() {
            break;
        }
    }
    // Without input and sizes there is still output.
    std::future::pending::<()>().await;
}

async fn read(typed: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match typed {
        Some(typed) => typed.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
