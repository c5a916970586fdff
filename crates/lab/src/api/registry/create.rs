//! Creating objects.

use serde_json::Value;

use super::{Registry, Target, WriteOptions, Written, fields, meta};
use crate::api::json::{self, Json as _};
use crate::api::kinds::{Kind, Subresource};
use crate::api::status::ApiError;
use crate::store::{Action, Key, Objects};

impl Registry {
    /// Creates an object in a namespace (empty for objects of the cluster).
    pub(crate) fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (mut value, warnings) = fields::decode(kind, value, options.validation)?;
        prepare(kind, namespace, &mut value)?;
        let name = value.text("/metadata/name").to_owned();
        let target = Target { kind, namespace, name: &name };
        let object = self.store.change::<ApiError>(&target.key(), |old, objects| {
            if kind.namespaced {
                check_namespace(kind, &name, namespace, objects)?;
            }
            if old.is_some() {
                return Err(ApiError::already_exists(kind, &name));
            }
            self.admit(kind, &mut value, None, objects)?;
            let value = kind.to_stored(value);
            Ok(if options.dry_run { Action::Answer(value) } else { Action::Put(value) })
        })?;
        Ok(Written { object, created: true, warnings })
    }
}

fn prepare(kind: &Kind, namespace: &str, value: &mut Value) -> Result<(), ApiError> {
    let keeps_status = kind.kind == "Node";
    if kind.has(Subresource::Status) && !keeps_status {
        json::remove(value, "status");
    }
    let metadata = json::object(value, "metadata");
    if !metadata.text("/resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let given = metadata.text("/namespace");
    if !given.is_empty() && given != namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    if kind.namespaced {
        metadata["namespace"] = namespace.into();
    }
    if metadata.text("/name").is_empty() && !metadata.text("/generateName").is_empty() {
        metadata["name"] = format!("{}{}", metadata.text("/generateName"), meta::random_suffix()).into();
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        json::remove(metadata, field);
    }
    metadata["uid"] = meta::uid().into();
    metadata["creationTimestamp"] = meta::now().into();
    if kind.generation {
        metadata["generation"] = 1.into();
    }
    Ok(())
}

/// The namespace must be there and stay.
fn check_namespace(kind: &Kind, name: &str, namespace: &str, objects: &Objects) -> Result<(), ApiError> {
    let Some(found) = objects.get(&Key::new("namespaces", "", namespace)) else {
        let namespaces = crate::api::kinds::stored_in("namespaces").ok_or_else(ApiError::unknown_path)?;
        return Err(ApiError::not_found(namespaces, namespace));
    };
    if found["metadata"].get("deletionTimestamp").is_some() {
        return Err(ApiError::terminating(kind, name, namespace));
    }
    Ok(())
}
