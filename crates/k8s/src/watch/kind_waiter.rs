//! Waits for a kind that the API server does not have: until its CustomResourceDefinition is established.
//!
//! The definition is watched, so the kind is noticed at once, and waiting costs no requests. If the definition cannot
//! be watched (no permission, or a server without definitions), the kind itself is probed from time to time.

use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use kube::Client;
use serde_json::Value;

use super::Subject;
use super::backoff::Backoff;
use super::request_error::RequestError;
use super::requests::ResourceClient;
use super::watch_line::WatchLine;
use crate::convert::Resource;
use crate::json::{at, get, items, text};

const DEFINITIONS: Resource = Resource {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    namespaced: false,
    optional: false,
};

/// Duration of a watch in seconds, chosen at random.
const WATCH: (u32, u32) = (300, 600);
/// The interval at which the kind is probed if its definition cannot be watched. Up to the same time is added at
/// random.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// The state of waiting for the kind.
pub(super) struct KindWaiter {
    definitions: ResourceClient,
    resource: Resource,
    backoff: Backoff,
}

impl KindWaiter {
    pub(super) fn new(client: Client, resource: Resource) -> Self {
        let name = format!("metadata.name={}.{}", resource.plural, resource.group);
        let definition = Subject { resource: DEFINITIONS, namespace: None, labels: None, fields: Some(name) };
        Self { definitions: ResourceClient::new(client, &definition), resource, backoff: Backoff::default() }
    }

    /// Has to be called when the kind exists.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// Returns when the kind should be requested again.
    pub(super) async fn wait(&mut self) {
        // The definition may be established a little before its objects are served, or may stay so without serving
        // them.
        tokio::time::sleep(self.backoff.step(None)).await;
        // At version 0 an existing definition is sent first. With bookmarks, servers whose storage cannot report its
        // progress refuse that version.
        let watched = self.definitions.watch("0", rand::random_range(WATCH.0..=WATCH.1), false).await;
        let pause = match watched {
            Ok(lines) => {
                if self.established(lines).await {
                    return;
                }
                None
            }
            Err(error) => error.pause(),
        };
        tokio::time::sleep(
            pause.unwrap_or_default() + PROBE_INTERVAL + rand::random_range(Duration::ZERO..=PROBE_INTERVAL),
        )
        .await;
    }

    /// True if a line reported the condition before the watch ended.
    async fn established(&self, mut lines: impl Stream<Item = Result<WatchLine, RequestError>> + Unpin) -> bool {
        while let Some(line) = lines.next().await {
            match line {
                Ok(WatchLine::Apply(definition)) if serves(&definition, self.resource.version) => return true,
                Ok(WatchLine::Apply(_) | WatchLine::Delete(_) | WatchLine::Bookmark(_)) => {}
                Ok(WatchLine::Error(_)) | Err(_) => return false,
            }
        }
        false
    }
}

/// True if objects of that version are served.
fn serves(definition: &Value, version: &str) -> bool {
    let mut versions = items(at(definition, &["spec", "versions"])).iter();
    let mut conditions = items(at(definition, &["status", "conditions"])).iter();
    versions.any(|entry| text(get(entry, "name")) == version && get(entry, "served").as_bool() == Some(true))
        && conditions.any(|entry| text(get(entry, "type")) == "Established" && text(get(entry, "status")) == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_serves_once_it_is_established() {
        let definition = |established: &str, served: bool| {
            json!({
                "spec": {"versions": [{"name": "v1", "served": true}, {"name": "v2", "served": served}]},
                "status": {"conditions": [{"type": "Established", "status": established}]},
            })
        };
        assert!(serves(&definition("True", true), "v2"));
        assert!(!serves(&definition("False", true), "v2"));
        assert!(!serves(&definition("True", false), "v2"));
        assert!(!serves(&definition("True", true), "v3"));
        assert!(!serves(&json!({"spec": {}}), "v1"));
    }
}
