//! Refusals: failed requests to the API server.

use std::fmt;
use std::time::Duration;

use kube::core::Status;

/// The longest time for which a server is left alone because it asked so.
const LONGEST: Duration = Duration::from_mins(5);
/// The reason in a status by which a server says that it has not come as far as a version.
const AHEAD: &str = "ResourceVersionTooLarge";

/// The reason why a request failed or its response ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The server answers with an error.
    Status {
        /// Its code, as in HTTP.
        code: u16,
        /// The message of the server.
        message: String,
        /// For how long it wants to be left alone.
        pause: Option<Duration>,
        /// The requested version is newer than the server's.
        ahead: bool,
    },
    /// The server cannot be reached, or the connection broke.
    Way(String),
    /// The response cannot be parsed.
    Garbled(String),
}

impl Refusal {
    /// A status, and what a header says of the pause.
    pub(super) fn of(status: Status, pause: Option<Duration>) -> Self {
        let told = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let told = (told > 0).then(|| Duration::from_secs(told.into()));
        let pause = pause.or(told).map(|pause| pause.min(LONGEST));
        let mut causes = status.details.iter().flat_map(|details| &details.causes);
        // Servers before 1.18 say it in the message alone.
        let ahead = causes.any(|cause| cause.reason == AHEAD) || status.message.contains("Too large resource version");
        Self::Status { code: status.code, message: status.message, pause, ahead }
    }

    /// A connection error with its causes, each of them once.
    pub(super) fn way(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Self::Way(text)
    }

    /// For how long the server wants to be left alone.
    pub(super) fn pause(&self) -> Option<Duration> {
        if let Self::Status { pause, .. } = self { *pause } else { None }
    }

    /// The server does not have the kind.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// True if the server does not have the version any more, or never had it.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Status { code: 400 | 410 | 422, .. })
    }

    /// The server has not come as far as the version: it lags behind, or its storage was set back.
    pub(super) fn is_ahead(&self) -> bool {
        matches!(self, Self::Status { ahead: true, .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, message, .. } => write!(f, "the API server answers {code}: {message}"),
            Self::Way(why) => f.write_str(why),
            Self::Garbled(why) => write!(f, "the API server's answer cannot be read: {why}"),
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
            Refusal::of(serde_json::from_value(status).unwrap(), None)
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
        assert_eq!(Refusal::of(status, Some(Duration::from_secs(1_000_000))).pause(), Some(LONGEST));
    }
}
