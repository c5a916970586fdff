//! Strategic merge patches: lists whose members have a key are merged member by member.

use serde_json::{Map, Value, json};

use crate::api::kinds::{Kind, ListMerge};
use crate::api::status::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

fn bad(detail: &str) -> ApiError {
    ApiError::bad_request(format!("the strategic merge patch cannot be applied: {detail}"))
}

/// Merges a patch into a value at a path (member names joined by dots, without the indices of lists).
pub(super) fn merge(kind: &Kind, value: &mut Value, patch: &Value, path: &str) -> Result<(), ApiError> {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return Ok(());
    };
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            let rest = patch.iter().filter(|(key, _)| *key != DIRECTIVE);
            *value = Value::Object(rest.map(|(key, value)| (key.clone(), value.clone())).collect());
            return Ok(());
        }
        Some("delete") => {
            *value = json!({});
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(bad(&format!("unknown directive {other:?}"))),
    }
    if !value.is_object() {
        *value = json!({});
    }
    let Value::Object(members) = value else { return Ok(()) };
    retain(members, patch);
    for (key, change) in patch {
        if let Some(list) = key.strip_prefix(DELETE) {
            delete_plain(members, list, change);
        } else if !key.starts_with('$') {
            member(kind, members, key, change, path)?;
        }
    }
    for (key, order) in patch {
        if let Some(list) = key.strip_prefix(ORDER) {
            let by = match kind.merge_key(&join(path, list)) {
                Some(ListMerge::By(key) | ListMerge::Port(key)) => Some(key),
                Some(ListMerge::Set) | None => None,
            };
            reorder(members, list, order, by);
        }
    }
    Ok(())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn member(
    kind: &Kind,
    members: &mut Map<String, Value>,
    key: &str,
    change: &Value,
    path: &str,
) -> Result<(), ApiError> {
    let path = join(path, key);
    match change {
        Value::Null => {
            members.shift_remove(key);
        }
        Value::Array(changes) => {
            let old = members.entry(key).or_insert(Value::Null);
            *old = match (kind.merge_key(&path), old.take()) {
                (Some(ListMerge::By(merge_key) | ListMerge::Port(merge_key)), old) => {
                    Value::Array(keyed(kind, as_list(old), changes, merge_key, &path)?)
                }
                (Some(ListMerge::Set), old) => Value::Array(plain(as_list(old), changes)),
                (None, _) => change.clone(),
            };
        }
        Value::Object(_) => merge(kind, members.entry(key).or_insert(Value::Null), change, &path)?,
        _ => {
            members.insert(key.to_owned(), change.clone());
        }
    }
    Ok(())
}

fn as_list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

/// Merges a list of plain values as a set.
fn plain(mut list: Vec<Value>, changes: &[Value]) -> Vec<Value> {
    for change in changes {
        if !list.contains(change) {
            list.push(change.clone());
        }
    }
    list
}

fn keyed(kind: &Kind, mut list: Vec<Value>, changes: &[Value], key: &str, path: &str) -> Result<Vec<Value>, ApiError> {
    if changes.iter().any(|change| change[DIRECTIVE] == "replace") {
        return Ok(changes.iter().filter(|change| change[DIRECTIVE] != "replace").cloned().collect());
    }
    let before: Vec<Value> = list.iter().map(|member| member[key].clone()).collect();
    for change in changes {
        let Some(id) = change.get(key) else {
            return Err(bad(&format!("a member of {path} has no {key:?}, by which its members are told apart")));
        };
        let found = list.iter().position(|member| member.get(key) == Some(id));
        match (change[DIRECTIVE] == "delete", found) {
            (true, _) => list.retain(|member| member.get(key) != Some(id)),
            (false, Some(index)) => merge(kind, &mut list[index], change, path)?,
            (false, None) => {
                let mut member = Value::Null;
                merge(kind, &mut member, change, path)?;
                list.push(member);
            }
        }
    }
    Ok(ordered(list, &before, changes, key))
}

/// The members a patch names in its order, among the others in theirs: new ones come as early as they can.
fn ordered(list: Vec<Value>, before: &[Value], changes: &[Value], key: &str) -> Vec<Value> {
    let named = |member: &Value| changes.iter().position(|change| change.get(key) == member.get(key));
    let (mut patched, others): (Vec<_>, Vec<_>) = list.into_iter().partition(|member| named(member).is_some());
    patched.sort_by_key(named);
    let earlier = |member: &Value| before.iter().position(|id| Some(id) == member.get(key));
    let mut merged = Vec::with_capacity(patched.len() + others.len());
    let (mut patched, mut others) = (patched.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(one), Some(other)) = (patched.peek(), others.peek()) {
        let first = earlier(one).is_none_or(|index| earlier(other).is_none_or(|other| index < other));
        merged.extend(if first { patched.next() } else { others.next() });
    }
    merged.extend(patched.chain(others));
    merged
}

/// Keeps only the members a patch says are to be there.
fn retain(members: &mut Map<String, Value>, patch: &Map<String, Value>) {
    if let Some(Value::Array(kept)) = patch.get(RETAIN) {
        members.retain(|key, _| kept.iter().any(|kept| kept == key));
    }
}

fn delete_plain(members: &mut Map<String, Value>, list: &str, values: &Value) {
    if let (Some(Value::Array(list)), Value::Array(values)) = (members.get_mut(list), values) {
        list.retain(|value| !values.contains(value));
    }
}

/// Puts the members of a list in the order the patch gives; what it does not name comes after.
fn reorder(members: &mut Map<String, Value>, list: &str, order: &Value, key: Option<&str>) {
    let (Some(Value::Array(list)), Value::Array(order)) = (members.get_mut(list), order) else { return };
    let id = |value: &Value| key.map_or_else(|| value.clone(), |key| value[key].clone());
    let order: Vec<_> = order.iter().map(id).collect();
    list.sort_by_key(|value| order.iter().position(|wanted| *wanted == id(value)).unwrap_or(usize::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    fn patched(mut value: Value, patch: &Value) -> Value {
        let kind = kinds::find("apps", "v1", "deployments").unwrap();
        merge(kind, &mut value, patch, "").unwrap();
        value
    }

    fn containers(list: &Value) -> Value {
        json!({ "spec": { "template": { "spec": { "containers": list } } } })
    }

    #[test]
    fn containers_are_merged_by_name() {
        let old = containers(&json!([{ "name": "a", "image": "one" }, { "name": "b", "image": "two" }]));
        let patch = containers(&json!([{ "name": "b", "image": "new" }, { "name": "c", "image": "three" }]));
        let new = containers(&json!([
            { "name": "a", "image": "one" }, { "name": "b", "image": "new" }, { "name": "c", "image": "three" }]));
        assert_eq!(patched(old.clone(), &patch), new);
        // What is new comes before what the patch does not name.
        let patch = containers(&json!([{ "name": "c" }]));
        let new = containers(&json!([
            { "name": "c" }, { "name": "a", "image": "one" }, { "name": "b", "image": "two" }]));
        assert_eq!(patched(old, &patch), new);
    }

    #[test]
    fn members_are_deleted_and_ordered_by_directive() {
        let old = containers(&json!([{ "name": "a" }, { "name": "b" }, { "name": "c" }]));
        let mut patch = containers(&json!([{ "$patch": "delete", "name": "b" }]));
        patch["spec"]["template"]["spec"]["$setElementOrder/containers"] = json!([{ "name": "c" }, { "name": "a" }]);
        assert_eq!(patched(old, &patch), containers(&json!([{ "name": "c" }, { "name": "a" }])));
    }

    #[test]
    fn nulls_remove_and_unkeyed_lists_are_replaced() {
        let old = json!({ "metadata": { "labels": { "a": "1", "b": "2" }, "finalizers": ["x", "y"] },
            "spec": { "args": [1, 2] } });
        let patch = json!({
            "metadata": { "labels": { "a": null }, "$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"] },
            "spec": { "args": [3] } });
        let new = json!({ "metadata": { "labels": { "b": "2" }, "finalizers": ["y", "z"] }, "spec": { "args": [3] } });
        assert_eq!(patched(old, &patch), new);
    }

    #[test]
    fn a_member_without_its_key_is_refused() {
        let kind = kinds::find("apps", "v1", "deployments").unwrap();
        let mut value = containers(&json!([]));
        assert!(merge(kind, &mut value, &containers(&json!([{ "image": "x" }])), "").is_err());
    }

    #[test]
    fn retained_keys_drop_the_others() {
        let old = json!({ "spec": { "strategy": { "type": "RollingUpdate", "rollingUpdate": {} } } });
        let patch = json!({ "spec": { "strategy": { "$retainKeys": ["type"], "type": "Recreate" } } });
        assert_eq!(patched(old, &patch), json!({ "spec": { "strategy": { "type": "Recreate" } } }));
    }
}
