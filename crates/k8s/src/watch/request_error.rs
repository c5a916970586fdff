//! Errors of requests to the API server.

use std::fmt;
use std::time::Duration;

use kube::core::Status;

/// The longest pause that a server is granted.
const LONGEST: Duration = Duration::from_mins(5);
/// The reason in a status if the server has not reached the requested version.
const AHEAD: &str = "ResourceVersionTooLarge";

/// The reason why a request failed or its response ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestError {
    /// The server answered with an error.
    Status {
        /// HTTP status code.
        code: u16,
        /// The message of the server.
        message: String,
        /// The pause that the server asks for.
        pause: Option<Duration>,
        /// True if the server has not reached the requested version.
        ahead: bool,
    },
    /// The server cannot be reached, or the connection broke.
    Connection(String),
    /// The response cannot be parsed.
    Malformed(String),
}

impl RequestError {
    /// From a status, and the pause in a header.
    pub(super) fn of(status: Status, pause: Option<Duration>) -> Self {
        let told = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let told = (told > 0).then(|| Duration::from_secs(told.into()));
        let pause = pause.or(told).map(|pause| pause.min(LONGEST));
        let mut causes = status.details.iter().flat_map(|details| &details.causes);
        // Servers before 1.18 report it only in the message.
        let ahead = causes.any(|cause| cause.reason == AHEAD) || status.message.contains("Too large resource version");
        Self::Status { code: status.code, message: status.message, pause, ahead }
    }

    /// From a connection error and its causes, each of them once.
    pub(super) fn connection(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Self::Connection(text)
    }

    /// The pause that the server asks for.
    pub(super) fn pause(&self) -> Option<Duration> {
        if let Self::Status { pause, .. } = self { *pause } else { None }
    }

    /// True if the server does not have the kind.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// True if the server does not have the version any more, or never had it.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Status { code: 400 | 410 | 422, .. })
    }

    /// True if the server has not reached the version: it lags behind, or its storage was reset.
    pub(super) fn is_ahead(&self) -> bool {
        matches!(self, Self::Status { ahead: true, .. })
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, message, .. } => write!(f, "the API server answers {code}: {message}"),
            Self::Connection(why) => f.write_str(why),
            Self::Malformed(why) => write!(f, "the API server's answer cannot be read: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_that_is_ahead_is_told_by_cause_or_message() {
        let of = |details, message: &str| {
            let status =
                json!({"status": "Failure", "code": 504, "message": message, "reason": "Timeout", "details": details});
            RequestError::of(serde_json::from_value(status).unwrap(), None)
        };
        let cause = json!({"causes": [{"reason": AHEAD, "message": "…"}], "retryAfterSeconds": 1});
        let ahead = of(cause, "Timeout");
        assert!(ahead.is_ahead() && !ahead.is_lost());
        assert_eq!(ahead.pause(), Some(Duration::from_secs(1)));
        assert!(of(json!(null), "Timeout: Too large resource version: 9, current: 3").is_ahead());
        assert!(!of(json!(null), "the request timed out").is_ahead());
    }

    #[test]
    fn nobody_is_left_alone_for_ever() {
        let status = Status::failure("later", "TooManyRequests").with_code(429);
        assert_eq!(RequestError::of(status, Some(Duration::from_secs(1_000_000))).pause(), Some(LONGEST));
    }
}
