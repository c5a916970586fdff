//! Changing objects: updates and patches are one thing, a new value made from the old.

use serde_json::Value;

use super::{Registry, Target, WriteOptions, Written, fields};
use crate::api::json::{self, Json as _};
use crate::api::kinds::{Kind, Subresource};
use crate::api::status::ApiError;
use crate::store::Action;

/// Metadata that no client changes.
const FIXED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
    "selfLink",
    "resourceVersion",
];

impl Registry {
    /// Changes an object (or a part of it) to what `change` makes of it.
    pub(crate) fn modify(
        &self,
        target: Target<'_>,
        part: Option<Subresource>,
        options: &WriteOptions,
        change: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Written, ApiError> {
        let kind = target.kind;
        let mut warnings = Vec::new();
        let object = self.store.change::<ApiError>(&target.key(), |old, objects| {
            let old = kind.shown(old.ok_or_else(|| target.not_found())?);
            let (value, found) = fields::decode(kind, change(&old)?, options.validation)?;
            warnings = found;
            check_identity(target, &old, &value)?;
            let mut value = merge(kind, part, &old, value);
            if part.is_none() {
                self.admit(kind, &mut value, Some(&old), objects)?;
            } else if (kind.schema)().is_some() {
                super::validate(kind, &value, Some(&old))?;
            }
            count_generation(kind, &old, &mut value);
            let finished = finished(&value);
            let value = kind.to_stored(value);
            Ok(match (options.dry_run, finished) {
                (true, _) => Action::Answer(value),
                (false, true) => Action::Remove(value),
                (false, false) => Action::Put(value),
            })
        })?;
        Ok(Written { object, created: false, warnings })
    }
}

/// The new value must be of the same object, and of the version it was made from.
fn check_identity(target: Target<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    let differs = |field: &str| {
        let given = new["metadata"].text(field);
        !given.is_empty() && given != old["metadata"].text(field)
    };
    if differs("/name") || differs("/namespace") {
        let message = format!(
            "the name or namespace of the object ({}/{}) does not match the one on the URL ({}/{})",
            new.text("/metadata/namespace"),
            new.text("/metadata/name"),
            target.namespace,
            target.name
        );
        return Err(ApiError::bad_request(message));
    }
    if differs("/uid") {
        let detail = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            new.text("/metadata/uid"),
            old.text("/metadata/uid")
        );
        return Err(ApiError::conflict(target.kind, target.name, &detail));
    }
    let version = new.text("/metadata/resourceVersion");
    if !version.is_empty() && version != "0" && differs("/resourceVersion") {
        return Err(ApiError::modified(target.kind, target.name));
    }
    Ok(())
}

/// The old value with the part replaced that the request is about.
fn merge(kind: &Kind, part: Option<Subresource>, old: &Value, mut new: Value) -> Value {
    let take = |mut value: Value, name: &str, mut from: Value| {
        match json::remove(&mut from, name) {
            Some(member) => value[name] = member,
            None => drop(json::remove(&mut value, name)),
        }
        value
    };
    match part {
        Some(Subresource::Status) => return take(old.clone(), "status", new),
        Some(Subresource::Finalize) => return take(old.clone(), "spec", new),
        _ => {}
    }
    if kind.has(Subresource::Status) {
        new = take(new, "status", old.clone());
    }
    let metadata = json::object(&mut new, "metadata");
    for field in FIXED {
        match old["metadata"].get(field) {
            Some(value) => metadata[*field] = value.clone(),
            None => drop(json::remove(metadata, field)),
        }
    }
    new
}

fn count_generation(kind: &Kind, old: &Value, new: &mut Value) {
    let specification = |value: &Value| {
        let members = value.entries("").filter(|(key, _)| !["metadata", "status", "apiVersion", "kind"].contains(key));
        members.map(|(key, value)| (key.to_owned(), value.clone())).collect::<Vec<_>>()
    };
    if kind.generation && specification(old) != specification(new) {
        new["metadata"]["generation"] = (old.int("/metadata/generation") + 1).into();
    }
}

/// True if an object that is being deleted has nothing left to wait for.
fn finished(value: &Value) -> bool {
    let metadata = &value["metadata"];
    metadata.get("deletionTimestamp").is_some()
        && metadata.list("/finalizers").is_empty()
        && metadata.int("/deletionGracePeriodSeconds") == 0
        && value.list("/spec/finalizers").is_empty()
}
