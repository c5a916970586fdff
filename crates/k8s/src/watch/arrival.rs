//! Waits for a kind that the API server does not have: until its CustomResourceDefinition is established.
//!
//! The definition is watched, so that the kind is noticed at once and asking costs nothing meanwhile. Where it cannot be
//! watched (no right to, or a server without definitions) the kind itself is asked for now and then.

use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::Value;

use super::backoff::Backoff;
use super::r#loop::in_time;
use super::raw::Raw;
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

/// After this the server ends the watch, in seconds.
const WATCH_SECONDS: u32 = 290;
/// After this a watch without a word is taken for dead.
const SILENCE: Duration = Duration::from_secs(295);
/// How often the kind is asked for where its definition cannot be watched.
const POLL: Duration = Duration::from_secs(3);

/// What is known of the kind's coming.
pub(super) struct Arrival {
    definitions: Api<Raw>,
    resource: Resource,
    backoff: Backoff,
}

impl Arrival {
    pub(super) fn new(client: Client, resource: Resource) -> Self {
        Self { definitions: Api::all_with(client, &Raw::resource(DEFINITIONS)), resource, backoff: Backoff::new() }
    }

    /// The kind is there.
    pub(super) fn happened(&mut self) {
        self.backoff.reset();
    }

    /// Returns when it is worth asking for the kind again.
    pub(super) async fn wait(&mut self) {
        // The definition may be established a little before its objects are served, or stay so without serving them.
        tokio::time::sleep(self.backoff.step()).await;
        let name = format!("{}.{}", self.resource.plural, self.resource.group);
        let parameters = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
        // As of version 0 a definition that is there already is told first. Together with bookmarks, servers whose storage
        // cannot tell its progress refuse that.
        let parameters = parameters.disable_bookmarks();
        match in_time(self.definitions.watch(&parameters, "0")).await {
            Ok(lines) => {
                if !self.established(lines.boxed()).await {
                    tokio::time::sleep(POLL).await;
                }
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }

    /// Whether a line said so before the watch ended.
    async fn established(&self, mut lines: impl Stream<Item = kube::Result<WatchEvent<Raw>>> + Unpin) -> bool {
        loop {
            match tokio::time::timeout(SILENCE, lines.next()).await {
                Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                    if serves(&object.value, self.resource.version) {
                        return true;
                    }
                }
                Ok(Some(Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_)))) => {}
                Ok(Some(Ok(WatchEvent::Error(_)) | Err(_)) | None) | Err(_) => return false,
            }
        }
    }
}

/// Whether objects of that version can be asked for.
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
