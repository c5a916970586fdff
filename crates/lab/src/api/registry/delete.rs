//! Deleting objects: at once, or when finalizers and grace are through.

use serde_json::Value;

use super::{Registry, Target, meta};
use crate::api::json::{self, Json as _};
use crate::api::kinds::Kind;
use crate::api::status::ApiError;
use crate::store::{Action, Object};

/// Fate of the objects that an object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// The finalizer that keeps an owner until what it owns is gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an owner until what it owns no longer names it.
pub(crate) const ORPHAN: &str = "orphan";

/// Namespaces that no cluster is without.
const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

/// Options of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds the object has to end.
    pub(crate) grace: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    /// Only the object with this identity.
    pub(crate) uid: Option<String>,
    /// Only this version of it.
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Deletes owned objects afterwards, in the background.
    pub(crate) fn background() -> Self {
        Self { propagation: Some(Propagation::Background), ..Self::default() }
    }
}

/// Result of a deletion.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) object: Object,
    /// True if the object is gone already.
    pub(crate) gone: bool,
}

impl Registry {
    /// Deletes an object, or lets it begin to end.
    pub(crate) fn delete(&self, target: Target<'_>, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        if target.kind.kind == "Namespace" && IMMORTAL.contains(&target.name) {
            return Err(ApiError::forbidden(target.kind, target.name, "this namespace may not be deleted"));
        }
        if target.kind.kind == "CustomResourceDefinition" {
            return Err(ApiError::forbidden(target.kind, target.name, "the lab always has this kind"));
        }
        let mut gone = false;
        let object = self.store.change::<ApiError>(&target.key(), |old, _| {
            let old = old.ok_or_else(|| target.not_found())?;
            check_preconditions(target, old, options)?;
            let mut value = (**old).clone();
            set_propagation(&mut value, options.propagation);
            let grace = grace(target.kind, &value, options);
            let waits = grace > 0
                || !value.list("/metadata/finalizers").is_empty()
                || !value.list("/spec/finalizers").is_empty();
            gone = !waits;
            if waits {
                mark(&mut value, grace);
            } else if target.kind.graceful {
                value["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            }
            Ok(match (options.dry_run, waits) {
                (true, _) => Action::Answer(value),
                (false, true) => Action::Put(value),
                (false, false) => Action::Remove(value),
            })
        })?;
        Ok(Deleted { object, gone })
    }
}

fn check_preconditions(target: Target<'_>, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let wanted = [
        ("UID", "/metadata/uid", &options.uid),
        ("ResourceVersion", "/metadata/resourceVersion", &options.resource_version),
    ];
    for (name, pointer, wanted) in wanted {
        if let Some(wanted) = wanted
            && wanted != old.text(pointer)
        {
            let detail = format!(
                "Precondition failed: {name} in precondition: {wanted}, {name} in object meta: {}",
                old.text(pointer)
            );
            return Err(ApiError::conflict(target.kind, target.name, &detail));
        }
    }
    Ok(())
}

fn set_propagation(value: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let old = value.list("/metadata/finalizers").iter().filter_map(Value::as_str);
    let mut finalizers: Vec<_> = old.filter(|name| ![FOREGROUND, ORPHAN].contains(name)).map(str::to_owned).collect();
    finalizers.extend(wanted.map(str::to_owned));
    if finalizers.is_empty() {
        json::remove(&mut value["metadata"], "finalizers");
    } else {
        value["metadata"]["finalizers"] = finalizers.into();
    }
}

/// The seconds the object has: none unless someone has to end it first.
fn grace(kind: &Kind, value: &Value, options: &DeleteOptions) -> i64 {
    let ended = matches!(value.text("/status/phase"), "Succeeded" | "Failed");
    if !kind.graceful || ended || value.text("/spec/nodeName").is_empty() {
        return 0;
    }
    let own = value.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let asked = options.grace.or(own).unwrap_or(30).max(0);
    // A second request may shorten the time, not lengthen it.
    match value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) {
        Some(given) if value["metadata"].get("deletionTimestamp").is_some() => asked.min(given),
        _ => asked,
    }
}

/// Marks an object as ending.
fn mark(value: &mut Value, grace: i64) {
    let given = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let metadata = &mut value["metadata"];
    if metadata.get("deletionTimestamp").is_some() && given == Some(grace) {
        return;
    }
    metadata["deletionTimestamp"] = meta::after(grace).into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
    if metadata.int("/generation") > 0 {
        metadata["generation"] = (metadata.int("/generation") + 1).into();
    }
    if value["kind"] == "Namespace" {
        value["status"]["phase"] = "Terminating".into();
    }
}
