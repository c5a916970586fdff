//! Rollout of a Deployment from its old ReplicaSets to the new one, and its status.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Cluster;
use crate::api::json::{self, Json as _};
use crate::api::registry::now;
use crate::api::status::ApiError;
use crate::store::{Key, Object};

/// The ReplicaSets of a Deployment.
pub(super) struct Sets {
    /// That of the current template.
    pub(super) new: Option<Object>,
    pub(super) old: Vec<Object>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Object> {
        self.new.iter().chain(&self.old)
    }

    fn sum(&self, pointer: &str) -> i64 {
        self.all().map(|set| set.int(pointer)).sum()
    }

    /// The set of a name.
    pub(super) fn find(&mut self, name: &str) -> Option<&mut Object> {
        self.new.iter_mut().chain(&mut self.old).find(|set| set.text("/metadata/name") == name)
    }
}

/// A number of replicas to be set.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) set: String,
    pub(super) from: i64,
    pub(super) to: i64,
}

fn change(set: &Object, to: i64) -> Option<Change> {
    let from = set.int("/spec/replicas");
    (from != to).then(|| Change { set: set.text("/metadata/name").to_owned(), from, to })
}

/// The next step: which sets get how many replicas now.
pub(super) fn plan(deployment: &Value, sets: &Sets, old_pods_left: bool) -> Vec<Change> {
    let wanted = deployment.int("/spec/replicas");
    let Some(new) = &sets.new else { return Vec::new() };
    let old_replicas: i64 = sets.old.iter().map(|set| set.int("/spec/replicas")).sum();
    if old_replicas == 0 && !old_pods_left {
        return change(new, wanted).into_iter().collect();
    }
    if deployment.flag("/spec/paused") {
        return Vec::new();
    }
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        return sets.old.iter().filter_map(|set| change(set, 0)).collect();
    }
    roll(deployment, sets, new, wanted)
}

/// One step of a rolling update: up within the surge, down within what may be missing.
fn roll(deployment: &Value, sets: &Sets, new: &Object, wanted: i64) -> Vec<Change> {
    let (surge, missing) = bounds(deployment, wanted);
    let total = sets.sum("/spec/replicas");
    let current = new.int("/spec/replicas");
    let target = if current > wanted { wanted } else { wanted.min(current + (wanted + surge - total).max(0)) };
    let mut changes: Vec<_> = change(new, target).into_iter().collect();
    let total = total - current + target;
    let new_unavailable = target - new.int("/status/availableReplicas");
    let mut spare = total - (wanted - missing) - new_unavailable;
    // Pods that serve nobody go first, whatever their number.
    for set in sets.old.iter().filter(|set| set.int("/spec/replicas") > 0) {
        let replicas = set.int("/spec/replicas");
        let unhealthy = (replicas - set.int("/status/availableReplicas")).max(0);
        let down = unhealthy.min(spare).max(0);
        let left = (spare - down).max(0).min(replicas - down);
        spare -= down + left;
        changes.extend(change(set, replicas - down - left));
    }
    changes
}

/// The number of pods there may be above, and how many may be missing below the wanted number.
fn bounds(deployment: &Value, wanted: i64) -> (i64, i64) {
    let number = |field: &str, up: bool| {
        let value = &deployment["spec"]["strategy"]["rollingUpdate"][field];
        match value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok()) {
            Some(percent) if up => (wanted * percent.clamp(0, 10_000) + 99) / 100,
            Some(percent) => wanted * percent.clamp(0, 10_000) / 100,
            None => value.as_i64().unwrap_or_default().max(0),
        }
    };
    match (number("maxSurge", true), number("maxUnavailable", false)) {
        (0, 0) => (0, 1),
        bounds => bounds,
    }
}

/// Says that a new set was made.
pub(super) fn report_created(cluster: &Cluster, key: &Key, set: &str) -> Result<(), ApiError> {
    let message = format!("Created new replica set {set:?}");
    cluster.modify(key, true, |deployment| {
        progress(deployment, "True", "NewReplicaSetCreated", &message, true);
    })?;
    Ok(())
}

/// Says how far the Deployment is. Asked for again when its deadline will have passed.
pub(super) fn update_status(
    cluster: &Cluster,
    key: &Key,
    deployment: &Object,
    sets: &Sets,
) -> Result<Option<Duration>, ApiError> {
    let wanted = deployment.int("/spec/replicas");
    let of_new = |pointer: &str| sets.new.as_ref().map_or(0, |set| set.int(pointer));
    let total = sets.sum("/status/replicas");
    let available = sets.sum("/status/availableReplicas");
    let updated = of_new("/status/replicas");
    let complete = updated == wanted && total == wanted && available == wanted;
    let counts = json!({
        "replicas": total, "updatedReplicas": updated, "readyReplicas": sets.sum("/status/readyReplicas"),
        "availableReplicas": available, "unavailableReplicas": (total.max(wanted) - available).max(0),
        "observedGeneration": deployment["metadata"]["generation"],
    });
    let name = sets.new.as_ref().map_or("", |set| set.text("/metadata/name"));
    let deadline = deployment.int("/spec/progressDeadlineSeconds");
    let minimum = available >= wanted - bounds(deployment, wanted).1;
    let written = cluster.modify(key, true, |object| {
        let advanced = ["updatedReplicas", "readyReplicas", "availableReplicas"]
            .iter()
            .any(|count| counts.int(&format!("/{count}")) > object.int(&format!("/status/{count}")));
        let status = json::object(object, "status");
        for (count, value) in counts.entries("") {
            status[count] = value.clone();
        }
        available_condition(object, minimum);
        if sets.new.is_none() {
            return;
        }
        let (value, reason, message) = if complete {
            ("True", "NewReplicaSetAvailable", format!("ReplicaSet {name:?} has successfully progressed."))
        } else if !advanced && since_progress(object) > deadline {
            ("False", "ProgressDeadlineExceeded", format!("ReplicaSet {name:?} has timed out progressing."))
        } else {
            ("True", "ReplicaSetUpdated", format!("ReplicaSet {name:?} is progressing."))
        };
        progress(object, value, reason, &message, advanced);
    })?;
    let left = deadline - since_progress(&written);
    let waits = !complete && sets.new.is_some() && left >= 0;
    Ok(waits.then(|| Duration::from_secs(u64::try_from(left + 1).unwrap_or(1))))
}

/// Seconds since the Deployment last came further.
fn since_progress(deployment: &Value) -> i64 {
    let last = deployment
        .condition("Progressing")
        .and_then(|condition| condition.text("/lastUpdateTime").parse::<Timestamp>().ok());
    last.map_or(0, |last| Timestamp::now().as_second() - last.as_second())
}

fn available_condition(deployment: &mut Value, minimum: bool) {
    let (value, reason, message) = if minimum {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(deployment, "Available", value, reason, message, false);
}

fn progress(deployment: &mut Value, value: &str, reason: &str, message: &str, advanced: bool) {
    set_condition(deployment, "Progressing", value, reason, message, advanced);
}

/// Sets a condition; its time of update moves when it says something else, or if it `advanced`.
fn set_condition(deployment: &mut Value, kind: &str, value: &str, reason: &str, message: &str, advanced: bool) {
    let old = deployment.condition(kind).cloned().unwrap_or_default();
    let same = old["status"] == value && old["reason"] == reason && old["message"] == message;
    if same && !advanced {
        return;
    }
    let condition =
        json!({ "type": kind, "status": value, "reason": reason, "message": message, "lastUpdateTime": now() });
    crate::api::registry::set_condition(deployment, condition);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn set(name: &str, replicas: i64, available: i64) -> Object {
        Arc::new(json!({
            "metadata": { "name": name }, "spec": { "replicas": replicas },
            "status": { "replicas": replicas, "availableReplicas": available } }))
    }

    fn deployment(replicas: i64, surge: &Value, unavailable: &Value) -> Value {
        json!({ "spec": { "replicas": replicas, "strategy": {
            "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } } } })
    }

    /// Plays the steps with pods that become available at once, and counts them.
    fn steps(deployment: &Value, mut old: i64) -> usize {
        let wanted = deployment.int("/spec/replicas");
        let (surge, missing) = bounds(deployment, wanted);
        let mut new = 0;
        for step in 0..100 {
            let sets = Sets { new: Some(set("new", new, new)), old: vec![set("old", old, old)] };
            let changes = plan(deployment, &sets, old > 0);
            if changes.is_empty() {
                assert_eq!((new, old), (wanted, 0), "ends with the new pods alone");
                return step;
            }
            let available_before = new + old;
            for change in changes {
                if change.set == "new" { new = change.to } else { old = change.to }
            }
            assert!(new + old <= wanted + surge, "never more than the surge");
            assert!((new + old).min(available_before) >= wanted - missing, "never fewer than are needed");
        }
        panic!("the rollout does not end");
    }

    #[test]
    fn a_rolling_update_ends_within_its_bounds() {
        for replicas in 1..12 {
            for (surge, unavailable) in
                [(json!("25%"), json!("25%")), (json!(1), json!(0)), (json!(0), json!(1)), (json!(0), json!(0))]
            {
                steps(&deployment(replicas, &surge, &unavailable), replicas);
            }
        }
    }

    #[test]
    fn a_template_that_never_gets_ready_keeps_enough_of_the_old_pods() {
        let deployment = deployment(4, &json!("25%"), &json!("25%"));
        let sets = Sets { new: Some(set("new", 0, 0)), old: vec![set("old", 4, 4)] };
        let changes = plan(&deployment, &sets, true);
        assert_eq!(changes[0], Change { set: "new".into(), from: 0, to: 1 });
        assert_eq!(changes[1], Change { set: "old".into(), from: 4, to: 3 });
        let sets = Sets { new: Some(set("new", 2, 0)), old: vec![set("old", 3, 3)] };
        assert_eq!(plan(&deployment, &sets, true), Vec::new());
    }

    #[test]
    fn recreate_waits_for_the_old_pods_to_be_gone() {
        let deployment = json!({ "spec": { "replicas": 2, "strategy": { "type": "Recreate" } } });
        let sets = |old| Sets { new: Some(set("new", 0, 0)), old: vec![set("old", old, old)] };
        assert_eq!(plan(&deployment, &sets(2), true), [Change { set: "old".into(), from: 2, to: 0 }]);
        assert_eq!(plan(&deployment, &sets(0), true), Vec::new());
        assert_eq!(plan(&deployment, &sets(0), false), [Change { set: "new".into(), from: 0, to: 2 }]);
    }
}
