//! A line of a watch.

use kube::api::WatchEvent;
use serde_json::Value;

use super::request_error::RequestError;
use crate::json::{at, text};

/// A line of a watch: one event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WatchLine {
    /// An object was added or modified.
    Apply(Value),
    /// An object was deleted. Contains its last state.
    Delete(Value),
    /// A bookmark: the watch has reached a version without an event.
    Bookmark(String),
    /// The watch has ended with an error.
    Error(RequestError),
}

impl WatchLine {
    /// Parses a line. A line that cannot be parsed is an error, because it may have been an event.
    pub(super) fn read(line: &str) -> Result<Self, RequestError> {
        match serde_json::from_str::<WatchEvent<Value>>(line) {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Ok(Self::Apply(object)),
            Ok(WatchEvent::Deleted(object)) => Ok(Self::Delete(object)),
            Ok(WatchEvent::Bookmark(bookmark)) => Ok(Self::Bookmark(bookmark.metadata.resource_version)),
            Ok(WatchEvent::Error(status)) => Ok(Self::Error(RequestError::of(*status, None))),
            // The connection ended within a line. The next watch sends the event again.
            Err(error) if error.is_eof() => Err(RequestError::Connection("the connection ended within a line".into())),
            Err(error) => Err(RequestError::Malformed(error.to_string())),
        }
    }

    /// The version that the watch has reached with this line; none if the line has no version.
    pub(super) fn version(&self) -> Option<String> {
        let version = match self {
            Self::Apply(object) | Self::Delete(object) => text(at(object, &["metadata", "resourceVersion"])),
            Self::Bookmark(version) => version,
            Self::Error(_) => "",
        };
        (!version.is_empty()).then(|| version.to_owned())
    }
}
