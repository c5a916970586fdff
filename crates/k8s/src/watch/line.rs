//! A line of a watch.

use kube::api::WatchEvent;
use serde_json::Value;

use super::refusal::Refusal;
use crate::json::{at, text};

/// A line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    /// An object is new or has changed.
    Put(Value),
    /// An object is gone; as it was last.
    Gone(Value),
    /// Nothing, up to a version.
    Mark(String),
    /// The watch is over.
    Over(Refusal),
}

impl Line {
    /// Reads a line. One that is no event may have been one: that is an error.
    pub(super) fn read(line: &str) -> Result<Self, Refusal> {
        match serde_json::from_str::<WatchEvent<Value>>(line) {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Ok(Self::Put(object)),
            Ok(WatchEvent::Deleted(object)) => Ok(Self::Gone(object)),
            Ok(WatchEvent::Bookmark(mark)) => Ok(Self::Mark(mark.metadata.resource_version)),
            Ok(WatchEvent::Error(status)) => Ok(Self::Over(Refusal::of(*status, None))),
            // The connection ended in the middle of a line, which then comes again.
            Err(error) if error.is_eof() => Err(Refusal::Way("the connection ended within a line".into())),
            Err(error) => Err(Refusal::Garbled(error.to_string())),
        }
    }

    /// The version that is known once the line is; none if it has none.
    pub(super) fn version(&self) -> Option<String> {
        let version = match self {
            Self::Put(object) | Self::Gone(object) => text(at(object, &["metadata", "resourceVersion"])),
            Self::Mark(version) => version,
            Self::Over(_) => "",
        };
        (!version.is_empty()).then(|| version.to_owned())
    }
}
