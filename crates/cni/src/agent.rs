//! Asks the agent of this node, over its Unix socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::Error;
use crate::api::{Failure, ReleaseRequest, WaitReply, WaitRequest};

/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// How much longer than the agent itself to wait for its answer, so that its reason arrives.
const MARGIN: Duration = Duration::from_secs(2);

/// Tells that the sandbox of a pod is gone.
pub fn release(socket: &Path, patience: Duration, request: &ReleaseRequest) -> Result<(), Error> {
    let body = serde_json::to_string(request).map_err(|error| Error::Garbled(error.to_string()))?;
    ask(socket, patience, "POST", "/v1/endpoint/release", &body).map(drop)
}

/// Comes back when the policy of a pod is in the kernel; else says why it is not.
pub fn wait(socket: &Path, request: &WaitRequest) -> Result<WaitReply, Error> {
    let body = serde_json::to_string(request).map_err(|error| Error::Garbled(error.to_string()))?;
    let patience = Duration::from_millis(request.timeout_ms) + MARGIN;
    let answer = ask(socket, patience, "POST", "/v1/endpoint/wait", &body)?;
    serde_json::from_slice(&answer).map_err(|error| Error::Garbled(error.to_string()))
}

/// Whether the agent has the whole cluster's policy in the kernel.
pub fn ready(socket: &Path, patience: Duration) -> Result<(), Error> {
    ask(socket, patience, "GET", "/readyz", "").map(drop)
}

/// One request; the body of an answer that says yes.
fn ask(socket: &Path, patience: Duration, method: &str, path: &str, body: &str) -> Result<Vec<u8>, Error> {
    let unreachable = |error| Error::Unreachable { socket: socket.to_owned(), error };
    let mut connection = UnixStream::connect(socket).map_err(unreachable)?;
    connection.set_read_timeout(Some(patience)).map_err(unreachable)?;
    connection.set_write_timeout(Some(patience)).map_err(unreachable)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: ringfence\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes())).map_err(unreachable)?;
    let mut answer = Vec::new();
    connection.take(MAX_ANSWER).read_to_end(&mut answer).map_err(unreachable)?;
    judge(&answer)
}

/// The body, if the status line says yes; the reason in the body, if not.
fn judge(answer: &[u8]) -> Result<Vec<u8>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer).map_err(|error| Error::Garbled(error.to_string()))?;
    let (httparse::Status::Complete(head), Some(status)) = (parsed, response.code) else {
        return Err(Error::Garbled("it ends in the middle".into()));
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
        for garbled in ["", "200 OK", "HTTP/1.1 200 OK\r\nContent", "HTTP/1.1 404 Not Found\r\n\r\n200"] {
            assert_eq!(judge(garbled.as_bytes()).unwrap_err().code(), 100, "{garbled:?}");
        }
    }
}
