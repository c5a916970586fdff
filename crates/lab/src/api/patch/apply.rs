//! Server-side apply: what a manager applied before and no longer applies is removed, the rest is merged.
//!
//! Each manager's fields are kept in `metadata.managedFields`. Conflicts between managers are not looked for: the last
//! one to apply a field has it.

use serde_json::{Map, Value, json};

use crate::api::json::{self, Json as _};
use crate::api::kinds::{Kind, ListMerge};
use crate::api::registry::now;
use crate::api::status::ApiError;

use super::strategic;

/// Applies what a manager wants to an object.
pub(super) fn apply(kind: &Kind, value: &mut Value, wanted: &Value, manager: &str) -> Result<(), ApiError> {
    let mut wanted = wanted.clone();
    let metadata = json::object(&mut wanted, "metadata");
    for field in ["managedFields", "creationTimestamp"] {
        json::remove(metadata, field);
    }
    let fields = fields(kind, &wanted, "");
    let mut entries = value.list("/metadata/managedFields").to_vec();
    let own = entries.iter().position(|entry| entry["manager"] == manager && entry["operation"] == "Apply");
    if let Some(index) = own {
        remove_dropped(value, &entries[index]["fieldsV1"], &fields);
    }
    strategic::merge(kind, value, &wanted, "")?;
    let unchanged = own.is_some_and(|index| entries[index]["fieldsV1"] == fields);
    if !unchanged {
        let entry = json!({
            "manager": manager, "operation": "Apply", "apiVersion": kind.api_version(),
            "time": now(), "fieldsType": "FieldsV1", "fieldsV1": fields,
        });
        match own {
            Some(index) => entries[index] = entry,
            None => entries.push(entry),
        }
    }
    value["metadata"]["managedFields"] = entries.into();
    Ok(())
}

/// The fields an object sets, as `FieldsV1` writes them; those that identify it are nobody's.
fn fields(kind: &Kind, value: &Value, path: &str) -> Value {
    let mut set = Map::new();
    for (key, member) in value.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if matches!(path.as_str(), "apiVersion" | "kind" | "metadata.name" | "metadata.namespace") {
            continue;
        }
        let inner = match (member, kind.merge_key(&path)) {
            (Value::Object(_), _) => fields(kind, member, &path),
            (Value::Array(members), Some(merge)) => members_of(kind, members, merge, &path),
            _ => json!({}),
        };
        set.insert(format!("f:{key}"), inner);
    }
    Value::Object(set)
}

fn members_of(kind: &Kind, members: &[Value], merge: ListMerge, path: &str) -> Value {
    let entry = |member: &Value| match merge {
        ListMerge::By(key) => (format!("k:{}", json!({ key: member[key] })), fields(kind, member, path)),
        ListMerge::Set => (format!("v:{member}"), json!({})),
    };
    Value::Object(members.iter().map(entry).collect())
}

/// Removes the fields of the old set that are not in the new one.
fn remove_dropped(value: &mut Value, old: &Value, new: &Value) {
    for (name, inner) in old.entries("") {
        let kept = new.get(name);
        let leaf = inner.as_object().is_none_or(Map::is_empty);
        if let Some(key) = name.strip_prefix("f:") {
            if kept.is_none() && leaf {
                json::remove(value, key);
            } else if let Some(member) = value.get_mut(key) {
                remove_dropped(member, inner, kept.unwrap_or(&Value::Null));
                if kept.is_none() && is_empty(member) {
                    json::remove(value, key);
                }
            }
        } else if let (Some(id), Value::Array(list)) = (name.strip_prefix("k:"), &mut *value) {
            let id: Value = serde_json::from_str(id).unwrap_or_default();
            let same = |member: &Value| id.entries("").all(|(key, value)| member.get(key) == Some(value));
            match kept {
                None => list.retain(|member| !same(member)),
                Some(kept) => {
                    list.iter_mut()
                        .filter(|member| same(member))
                        .for_each(|member| remove_dropped(member, inner, kept));
                }
            }
        } else if let (Some(plain), Value::Array(list), None) = (name.strip_prefix("v:"), &mut *value, kept) {
            let plain: Value = serde_json::from_str(plain).unwrap_or_default();
            list.retain(|member| *member != plain);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(members) => members.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn what_a_manager_no_longer_applies_is_removed() {
        let kind = kinds::find("", "v1", "configmaps").unwrap();
        let mut value = json!({ "data": { "theirs": "1" } });
        apply(kind, &mut value, &json!({ "data": { "a": "1", "b": "2" } }), "me").unwrap();
        apply(kind, &mut value, &json!({ "data": { "a": "3" } }), "me").unwrap();
        assert_eq!(value["data"], json!({ "theirs": "1", "a": "3" }));
    }

    #[test]
    fn applying_again_changes_nothing() {
        let kind = kinds::find("", "v1", "pods").unwrap();
        let wanted = json!({ "spec": { "containers": [{ "name": "a", "image": "x" }] } });
        let mut value = json!({});
        apply(kind, &mut value, &wanted, "me").unwrap();
        let before = value.clone();
        apply(kind, &mut value, &wanted, "me").unwrap();
        assert_eq!(value, before);
        let other = json!({ "spec": { "containers": [{ "name": "b", "image": "y" }] } });
        apply(kind, &mut value, &other, "me").unwrap();
        assert_eq!(value["spec"]["containers"], other["spec"]["containers"]);
    }
}
