//! Server-side apply: what a manager applied before and no longer applies is removed, the rest is merged.
//!
//! Each manager's fields are kept in `metadata.managedFields`. Conflicts between managers are not looked for: the last
//! one to apply a field has it.

use serde_json::{Map, Value, json};

use crate::api::json::{self, Json as _};
use crate::api::kinds::{Kind, ListMerge};
use crate::api::registry::now;
use crate::api::status::ApiError;

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
    put(kind, value, &wanted, "")?;
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

/// Puts what is wanted at a path (member names joined by dots, without the indices of lists), beside what is there.
fn put(kind: &Kind, value: &mut Value, wanted: &Value, path: &str) -> Result<(), ApiError> {
    let Value::Object(wanted) = wanted else {
        *value = wanted.clone();
        return Ok(());
    };
    if !value.is_object() {
        *value = json!({});
    }
    let Value::Object(members) = value else { return Ok(()) };
    for (key, wanted) in wanted {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (wanted, kind.merge_key(&path)) {
            (Value::Null, _) => {
                members.shift_remove(key);
            }
            (Value::Array(wanted), Some(merge)) => {
                let old = members.entry(key).or_insert(Value::Null);
                let list = if let Value::Array(list) = old.take() { list } else { Vec::new() };
                *old = Value::Array(put_members(kind, list, wanted, merge, &path)?);
            }
            _ => put(kind, members.entry(key).or_insert(Value::Null), wanted, &path)?,
        }
    }
    Ok(())
}

/// The members that are wanted, in the order in which they are, in the places of those that were there.
fn put_members(
    kind: &Kind,
    mut list: Vec<Value>,
    wanted: &[Value],
    merge: ListMerge,
    path: &str,
) -> Result<Vec<Value>, ApiError> {
    for member in wanted {
        if let ListMerge::By(key) | ListMerge::Port(key) = merge
            && member.get(key).is_none()
        {
            return Err(ApiError::bad_request(format!("a member of {path} has no {key:?}, by which it is told apart")));
        }
        let found = list.iter().position(|old| identity(merge, old) == identity(merge, member));
        let index = found.unwrap_or(list.len());
        if found.is_none() {
            list.push(Value::Null);
        }
        put(kind, &mut list[index], member, path)?;
    }
    let order = |member: &Value| wanted.iter().position(|one| identity(merge, one) == identity(merge, member));
    let places: Vec<usize> = (0..list.len()).filter(|index| order(&list[*index]).is_some()).collect();
    let mut sorted: Vec<Value> = places.iter().map(|index| list[*index].take()).collect();
    sorted.sort_by_key(order);
    for (index, member) in places.into_iter().zip(sorted) {
        list[index] = member;
    }
    Ok(list)
}

/// By what a member of a list is told apart from the others.
fn identity(merge: ListMerge, member: &Value) -> Value {
    match merge {
        ListMerge::By(key) => json!({ key: member[key] }),
        ListMerge::Port(key) => {
            let protocol = member.get("protocol").cloned().unwrap_or_else(|| json!("TCP"));
            json!({ key: member[key], "protocol": protocol })
        }
        ListMerge::Set => member.clone(),
    }
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
    let entry = |member: &Value| {
        let id = identity(merge, member);
        match merge {
            ListMerge::By(_) | ListMerge::Port(_) => (format!("k:{id}"), fields(kind, member, path)),
            ListMerge::Set => (format!("v:{id}"), json!({})),
        }
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

    #[test]
    fn one_port_of_two_protocols_is_two() {
        let kind = kinds::find("", "v1", "services").unwrap();
        let ports = |list: Value| json!({ "spec": { "ports": list } });
        let tcp = json!({ "name": "web", "port": 80, "protocol": "TCP" });
        let udp = json!({ "name": "dgram", "port": 80, "protocol": "UDP" });
        let mut value = json!({});
        apply(kind, &mut value, &ports(json!([tcp, udp])), "me").unwrap();
        assert_eq!(value["spec"]["ports"], json!([tcp, udp]));
        // Without a protocol it is TCP.
        apply(kind, &mut value, &ports(json!([udp, { "name": "http", "port": 80 }])), "me").unwrap();
        assert_eq!(value["spec"]["ports"][0], udp);
        assert_eq!(value["spec"]["ports"][1], json!({ "name": "http", "port": 80 }));
        // The default that an object gets before it is stored.
        value["spec"]["ports"][1]["protocol"] = json!("TCP");
        apply(kind, &mut value, &ports(json!([udp])), "me").unwrap();
        assert_eq!(value["spec"]["ports"], json!([udp]));
        assert!(apply(kind, &mut value, &ports(json!([{ "name": "web" }])), "me").is_err());
    }
}
