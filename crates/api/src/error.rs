//! Errors of both clients.

use std::io;
use std::path::{Path, PathBuf};

use crate::Failure;

/// The reason why there is no answer of an agent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or the caller may not use it.
    #[error(
        "no agent answers on {}: {error}; hint: see to it that ringfence-agent runs on this node, and that you are \
         root",
        socket.display()
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The connection ended before the answer was complete.
    #[error(
        "the agent ended before it had answered{}",
        .0.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
    )]
    Incomplete(Option<String>),
    /// The agent refused the request.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The agent's reason.
        message: String,
    },
    /// The answer is not one that this version reads.
    #[error("cannot read the agent's answer: {0}; hint: is the agent of another version?")]
    Answer(String),
}

impl ClientError {
    pub(crate) fn unreachable(socket: &Path, error: io::Error) -> Self {
        Self::Unreachable { socket: socket.to_owned(), error }
    }

    /// An answer whose HTTP status is not a success: its body is a [`Failure`], or nothing an agent sends.
    pub(crate) fn of_answer(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Failure>(body) {
            Ok(failure) => Self::Refused { status, message: failure.message },
            Err(_no_failure) => Self::Answer(format!("HTTP status {status}")),
        }
    }
}

impl From<serde_json::Error> for ClientError {
    fn from(error: serde_json::Error) -> Self {
        Self::Answer(error.to_string())
    }
}
