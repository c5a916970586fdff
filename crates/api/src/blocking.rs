//! The synchronous client, for the network plugin: one request a connection.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::{ClientError, CollectRequest, ReleaseRequest, WaitReply, WaitRequest, path};

/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Time that the client gives an answer beyond the agent's own limit, so that the agent's reason arrives.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(2);

/// Reports that the sandbox of a pod is gone.
pub fn release(socket: &Path, timeout: Duration, request: &ReleaseRequest) -> Result<(), ClientError> {
    post(socket, timeout, path::RELEASE, request).map(drop)
}

/// Reports which sandboxes of a network are left.
pub fn collect(socket: &Path, timeout: Duration, request: &CollectRequest) -> Result<(), ClientError> {
    post(socket, timeout, path::COLLECT, request).map(drop)
}

/// Returns when the policy of a pod is in the kernel, within the time that the request names.
pub fn wait(socket: &Path, request: &WaitRequest) -> Result<WaitReply, ClientError> {
    let timeout = Duration::from_millis(request.timeout_ms).saturating_add(TIMEOUT_MARGIN);
    Ok(serde_json::from_slice(&post(socket, timeout, path::WAIT, request)?)?)
}

/// Succeeds if the policy of a pod is in the kernel now. Changes nothing.
pub fn check(socket: &Path, timeout: Duration, request: &WaitRequest) -> Result<WaitReply, ClientError> {
    Ok(serde_json::from_slice(&post(socket, timeout, path::CHECK, request)?)?)
}

/// Succeeds if the agent serves pods: the whole cluster's policy is in the kernel, and pods of this node have a
/// network.
pub fn serving(socket: &Path, timeout: Duration) -> Result<(), ClientError> {
    let request = format!("GET {} HTTP/1.1\r\nHost: ringfence\r\nConnection: close\r\n\r\n", path::SERVING);
    send(socket, timeout, request).map(drop)
}

fn post(socket: &Path, timeout: Duration, path: &str, body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    let body = serde_json::to_string(body)?;
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: ringfence\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    send(socket, timeout, request)
}

/// Sends one request; the body of a successful answer.
///
/// A thread of its own sends, for nothing else bounds the time that connecting to a socket with a full backlog takes.
fn send(socket: &Path, timeout: Duration, request: String) -> Result<Vec<u8>, ClientError> {
    let unreachable = |error| ClientError::unreachable(socket, error);
    let (sender, answers) = mpsc::channel();
    let address = socket.to_owned();
    let work = move || {
        // An error means that the caller has given up.
        let _ = sender.send(exchange(&address, timeout, &request));
    };
    thread::Builder::new().name("request".into()).spawn(work).map_err(unreachable)?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
    let answer = answers.recv_timeout(timeout).map_err(|_late| unreachable(late()))?;
    body(&answer.map_err(unreachable)?)
}

fn exchange(socket: &Path, timeout: Duration, request: &str) -> io::Result<Vec<u8>> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(timeout))?;
    connection.set_write_timeout(Some(timeout))?;
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of an answer whose status is 200; else the reason in the body.
fn body(answer: &[u8]) -> Result<Vec<u8>, ClientError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer).map_err(|error| ClientError::Answer(error.to_string()))?;
    let (httparse::Status::Complete(head), Some(status)) = (parsed, response.code) else {
        return Err(ClientError::Incomplete(None));
    };
    match (status, answer.get(head..).unwrap_or_default()) {
        (200, body) => Ok(body.to_vec()),
        (status, body) => Err(ClientError::of_answer(status, body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn only_status_200_is_a_yes() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap(), b"{}");
        let failure = serde_json::to_string(&Failure::new("not in sync")).unwrap();
        let error = body(format!("HTTP/1.1 503 Oops\r\n\r\n{failure}").as_bytes()).unwrap_err();
        assert!(matches!(&error, ClientError::Refused { status: 503, message } if message == "not in sync"), "{error}");
        for cut in ["", "HTTP/1.1 200 OK\r\nContent"] {
            assert!(matches!(body(cut.as_bytes()).unwrap_err(), ClientError::Incomplete(None)), "{cut:?}");
        }
        for garbled in ["200 OK", "HTTP/1.1 404 Not Found\r\n\r\n200"] {
            assert!(matches!(body(garbled.as_bytes()).unwrap_err(), ClientError::Answer(_)), "{garbled:?}");
        }
    }
}
