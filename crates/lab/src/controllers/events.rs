//! Events: what the controllers tell users about objects, for an hour.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Cluster;
use super::runner::{Controller, Seen};
use crate::api::json::Json as _;
use crate::api::registry::{DeleteOptions, now};
use crate::api::status::ApiError;
use crate::store::Key;

/// The time that events are kept, in seconds.
const KEPT: i64 = 3600;

impl Cluster {
    /// Records an event about an object; the same once more counts.
    pub(super) fn record(&self, component: &str, object: &Value, reason: &str, message: &str) {
        self.event(component, object, "Normal", reason, message);
    }

    /// As [`Self::record`], of something that is wrong.
    pub(super) fn warn(&self, component: &str, object: &Value, reason: &str, message: &str) {
        self.event(component, object, "Warning", reason, message);
    }

    fn event(&self, component: &str, object: &Value, kind: &str, reason: &str, message: &str) {
        let metadata = &object["metadata"];
        let namespace = match metadata.text("/namespace") {
            "" => "default",
            namespace => namespace,
        };
        let identity = format!("{}/{component}/{reason}/{message}", metadata.text("/uid"));
        let name = format!("{}.{:016x}", metadata.text("/name"), hash(identity.as_bytes()));
        let key = Key::new("events", namespace, name.as_str());
        let now = now();
        let counted = self.modify(&key, false, |event| {
            event["count"] = (event.int("/count") + 1).into();
            event["lastTimestamp"] = now.as_str().into();
        });
        if counted.is_ok() {
            return;
        }
        let event = json!({
            "metadata": { "name": name },
            "involvedObject": {
                "apiVersion": object["apiVersion"], "kind": object["kind"], "name": metadata["name"],
                "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": { "component": component }, "reportingComponent": component, "reportingInstance": "",
        });
        if let Err(error) = self.create("events", namespace, event) {
            tracing::debug!(%error, reason, "an event could not be recorded");
        }
    }
}

/// FNV-1a: names that stay the same for the same content.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Forgets old events.
pub(super) struct Expiry;

impl Controller for Expiry {
    const NAME: &'static str = "events";

    fn affected(&self, _: &Cluster, seen: &Seen<'_>) -> Vec<Key> {
        let new = seen.key.resource == "events" && seen.new.is_some() && seen.old.is_none();
        if new { vec![seen.key.clone()] } else { Vec::new() }
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(event) = cluster.get(key) else { return Ok(None) };
        let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/metadata/creationTimestamp"];
        let last = times.iter().filter_map(|time| event.text(time).parse::<Timestamp>().ok()).max();
        let age = last.map_or(KEPT, |last| Timestamp::now().as_second() - last.as_second());
        if let Ok(left @ 1..) = u64::try_from(KEPT - age) {
            return Ok(Some(Duration::from_secs(left)));
        }
        cluster.registry.delete(Cluster::target(key)?, &DeleteOptions::default())?;
        Ok(None)
    }
}
