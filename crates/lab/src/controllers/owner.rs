//! Owners of objects.

use serde_json::{Value, json};

use crate::api::json::Json as _;
use crate::api::kinds::{self, Kind};
use crate::store::Key;

/// The reference an owner's objects carry, that it controls them.
pub(super) fn reference(kind: &Kind, owner: &Value) -> Value {
    json!({
        "apiVersion": kind.api_version(), "kind": kind.kind,
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The reference to the controller of an object.
pub(super) fn controller(object: &Value) -> Option<&Value> {
    object.list("/metadata/ownerReferences").iter().find(|reference| reference.flag("/controller"))
}

/// True if an object is controlled by another.
pub(super) fn is_controlled_by(object: &Value, owner: &Value) -> bool {
    controller(object).is_some_and(|reference| reference["uid"] == owner["metadata"]["uid"])
}

/// Key of the owner that a reference names.
pub(super) fn key_of(reference: &Value, namespace: &str) -> Option<Key> {
    let kind = kinds::named(reference.text("/apiVersion"), reference.text("/kind"))?;
    let namespace = if kind.namespaced { namespace } else { "" };
    Some(Key::new(kind.stored, namespace, reference.text("/name")))
}

/// The key of the controller of an object, if it is of a collection.
pub(super) fn controller_key(object: &Value, collection: &str) -> Option<Key> {
    let key = key_of(controller(object)?, object.text("/metadata/namespace"))?;
    (key.resource == collection).then_some(key)
}
