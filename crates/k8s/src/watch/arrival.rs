//! Waits for a kind that the API server does not have: until its CustomResourceDefinition is established.
//!
//! The definition is watched, so that the kind is noticed at once and asking costs nothing meanwhile. Where it cannot
//! be watched (no right to, or a server without definitions) the kind itself is asked for now and then.

use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use kube::Client;
use serde_json::Value;

use super::Subject;
use super::ask::Asker;
use super::backoff::Backoff;
use super::line::Line;
use super::refusal::Refusal;
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

/// After how many seconds the server shall end a watch, by chance.
const WATCH: (u32, u32) = (300, 600);
/// The interval at which the kind is probed if its definition cannot be watched: up to twice as long, by chance.
const POLL: Duration = Duration::from_secs(30);

/// The state of waiting for the kind.
pub(super) struct Arrival {
    definitions: Asker,
    resource: Resource,
    backoff: Backoff,
}

impl Arrival {
    pub(super) fn new(client: Client, resource: Resource) -> Self {
        let name = format!("metadata.name={}.{}", resource.plural, resource.group);
        let definition = Subject { resource: DEFINITIONS, namespace: None, labels: None, fields: Some(name) };
        Self { definitions: Asker::new(client, &definition), resource, backoff: Backoff::default() }
    }

    /// The kind is there.
    pub(super) fn happened(&mut self) {
        self.backoff.reset();
    }

    /// Returns when it is worth asking for the kind again.
    pub(super) async fn wait(&mut self) {
        // The definition may be established a little before its objects are served, or stay so without serving them.
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
            Err(refusal) => refusal.pause(),
        };
        tokio::time::sleep(pause.unwrap_or_default() + POLL + rand::random_range(Duration::ZERO..=POLL)).await;
    }

    /// True if a line reported the condition before the watch ended.
    async fn established(&self, mut lines: impl Stream<Item = Result<Line, Refusal>> + Unpin) -> bool {
        while let Some(line) = lines.next().await {
            match line {
                Ok(Line::Put(definition)) if serves(&definition, self.resource.version) => return true,
                Ok(Line::Put(_) | Line::Gone(_) | Line::Mark(_)) => {}
                Ok(Line::Over(_)) | Err(_) => return false,
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
