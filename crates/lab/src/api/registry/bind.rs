//! Giving a pod its node, which is the only change of a pod's place there is.

use serde_json::{Value, json};

use super::{Registry, Target, now};
use crate::api::json::{self, Json as _};
use crate::api::status::ApiError;
use crate::store::Action;

impl Registry {
    /// Binds a pod to a node.
    pub(crate) fn bind(&self, target: Target<'_>, node: &str) -> Result<(), ApiError> {
        if node.is_empty() {
            return Err(ApiError::bad_request("target.name: Required value"));
        }
        self.store.change::<ApiError>(&target.key(), |old, _| {
            let old = old.ok_or_else(|| target.not_found())?;
            let given = old.text("/spec/nodeName");
            if !given.is_empty() || old["metadata"].get("deletionTimestamp").is_some() {
                let detail = format!("pod {} is already assigned to node {given:?} or being deleted", target.name);
                return Err(ApiError::conflict(target.kind, target.name, &detail));
            }
            let mut pod = (**old).clone();
            pod["spec"]["nodeName"] = node.into();
            set_condition(&mut pod, json!({ "type": "PodScheduled", "status": "True" }));
            Ok(Action::Put(pod))
        })?;
        Ok(())
    }
}

/// Sets a condition of an object's status; the time of its last transition only moves when its status does.
pub(crate) fn set_condition(object: &mut Value, mut condition: Value) {
    let status = json::object(object, "status");
    json::default(status, "conditions", json!([]));
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let found = conditions.iter_mut().find(|known| known["type"] == condition["type"]);
    let since = found.as_ref().filter(|known| known["status"] == condition["status"]);
    condition["lastTransitionTime"] = since.map_or_else(|| now().into(), |known| known["lastTransitionTime"].clone());
    match found {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}
