//! Asks the agent of this node, over its Unix socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::api::{CollectRequest, Failure, ReleaseRequest, WaitReply, WaitRequest};

/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// How much longer than the agent itself to wait for its answer, so that its reason arrives.
const MARGIN: Duration = Duration::from_secs(2);

/// Tells that the sandbox of a pod is gone.
pub fn release(socket: &Path, patience: Duration, request: &ReleaseRequest) -> Result<(), Error> {
    ask(socket, patience, Some("/v1/endpoint/release"), request).map(drop)
}

/// Tells which sandboxes of a network are left.
pub fn collect(socket: &Path, patience: Duration, request: &CollectRequest) -> Result<(), Error> {
    ask(socket, patience, Some("/v1/endpoint/collect"), request).map(drop)
}

/// Comes back when the policy of a pod is in the kernel; else says why it is not.
pub fn wait(socket: &Path, request: &WaitRequest) -> Result<WaitReply, Error> {
    let patience = Duration::from_millis(request.timeout_ms).saturating_add(MARGIN);
    reply(&ask(socket, patience, Some("/v1/endpoint/wait"), request)?)
}

/// Whether the policy of a pod is in the kernel now. Changes nothing.
pub fn check(socket: &Path, patience: Duration, request: &WaitRequest) -> Result<WaitReply, Error> {
    reply(&ask(socket, patience, Some("/v1/endpoint/check"), request)?)
}

/// Whether the agent can serve pods: the whole cluster's policy is in the kernel, and pods of this node have a network.
pub fn ready(socket: &Path, patience: Duration) -> Result<(), Error> {
    ask(socket, patience, None, &()).map(drop)
}

fn reply(answer: &[u8]) -> Result<WaitReply, Error> {
    serde_json::from_slice(answer).map_err(|error| Error::Garbled(error.to_string()))
}

/// One request: a `POST` of a body to a path, or else whether the agent is ready. The body of an answer that says yes.
///
/// A thread of its own asks, for nothing else bounds the time it takes to connect to somebody who does not listen.
fn ask(socket: &Path, patience: Duration, path: Option<&str>, body: &impl Serialize) -> Result<Vec<u8>, Error> {
    let unreachable = |error| Error::Unreachable { socket: socket.to_owned(), error };
    let body = serde_json::to_string(body).map_err(|error| Error::Garbled(error.to_string()))?;
    let request = match path {
        Some(path) => format!(
            "POST {path} HTTP/1.1\r\nHost: ringfence\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        ),
        None => "GET /v1/serving HTTP/1.1\r\nHost: ringfence\r\nConnection: close\r\n\r\n".to_owned(),
    };
    let (tell, told) = mpsc::channel();
    let place = socket.to_owned();
    let asking = move || {
        // Nobody is there any more to hear it if this fails.
        let _ = tell.send(exchange(&place, patience, &request));
    };
    thread::Builder::new().name("ask".into()).spawn(asking).map_err(unreachable)?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
    let answer = told.recv_timeout(patience).map_err(|_late| unreachable(late()))?;
    judge(&answer.map_err(unreachable)?)
}

fn exchange(socket: &Path, patience: Duration, request: &str) -> io::Result<Vec<u8>> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(patience))?;
    connection.set_write_timeout(Some(patience))?;
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body, if the status line says yes; the reason in the body, if not.
fn judge(answer: &[u8]) -> Result<Vec<u8>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer).map_err(|error| Error::Garbled(error.to_string()))?;
    let (httparse::Status::Complete(head), Some(status)) = (parsed, response.code) else {
        return Err(Error::NotYet("the agent of this node ended before it had answered".into()));
    };
    let body = &answer[head..];
    match status {
        200 => Ok(body.to_vec()),
        _ => Err(match decode::<Failure>(body) {
            Some(failure) => Error::NotYet(failure.message),
            None => Error::Garbled(format!("HTTP status {status}")),
        }),
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap(), b"{}");
        let failure = serde_json::to_string(&Failure::new("not in sync")).unwrap();
        let error = judge(format!("HTTP/1.1 503 Oops\r\n\r\n{failure}").as_bytes()).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (11, "not in sync"));
        for (answer, code) in
            [("", 11), ("HTTP/1.1 200 OK\r\nContent", 11), ("200 OK", 100), ("HTTP/1.1 404 Not Found\r\n\r\n200", 100)]
        {
            assert_eq!(judge(answer.as_bytes()).unwrap_err().code(), code, "{answer:?}");
        }
    }
}
