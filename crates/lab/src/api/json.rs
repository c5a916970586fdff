//! Short ways to read and default JSON objects.

use serde_json::{Map, Value};

/// Reads by JSON pointer, where what is missing is empty.
pub(crate) trait Json {
    /// The text at a pointer, or the empty text.
    fn text(&self, pointer: &str) -> &str;
    /// The number at a pointer, or 0.
    fn int(&self, pointer: &str) -> i64;
    /// The list at a pointer, or the empty list.
    fn list(&self, pointer: &str) -> &[Value];
    /// The truth at a pointer, or false.
    fn flag(&self, pointer: &str) -> bool;
    /// The members of the object at a pointer, or none.
    fn entries<'a>(&'a self, pointer: &str) -> Box<dyn Iterator<Item = (&'a str, &'a Value)> + 'a>;
    /// The condition of a type in `status.conditions`.
    fn condition(&self, kind: &str) -> Option<&Value>;
}

impl Json for Value {
    fn text(&self, pointer: &str) -> &str {
        self.pointer(pointer).and_then(Self::as_str).unwrap_or_default()
    }

    fn int(&self, pointer: &str) -> i64 {
        self.pointer(pointer).and_then(Self::as_i64).unwrap_or_default()
    }

    fn list(&self, pointer: &str) -> &[Value] {
        self.pointer(pointer).and_then(Self::as_array).map_or(&[], Vec::as_slice)
    }

    fn flag(&self, pointer: &str) -> bool {
        self.pointer(pointer).and_then(Self::as_bool).unwrap_or_default()
    }

    fn entries<'a>(&'a self, pointer: &str) -> Box<dyn Iterator<Item = (&'a str, &'a Value)> + 'a> {
        let object = self.pointer(pointer).and_then(Self::as_object);
        Box::new(object.into_iter().flatten().map(|(key, value)| (key.as_str(), value)))
    }

    fn condition(&self, kind: &str) -> Option<&Value> {
        self.list("/status/conditions").iter().find(|condition| condition["type"] == kind)
    }
}

/// The member `key` as an object, made if missing or null.
pub(crate) fn object<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let member = &mut value[key];
    if !member.is_object() {
        *member = Value::Object(Map::new());
    }
    member
}

/// Sets the member `key` if it is missing or null.
pub(crate) fn default(value: &mut Value, key: &str, default: impl Into<Value>) {
    if value.get(key).is_none_or(Value::is_null) {
        value[key] = default.into();
    }
}

/// As [`default`], also where the text or number is empty.
pub(crate) fn default_empty(value: &mut Value, key: &str, default: impl Into<Value>) {
    let empty = match value.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(_) => false,
    };
    if empty {
        value[key] = default.into();
    }
}

/// Calls `change` on every member of the list `key`.
pub(crate) fn each(value: &mut Value, key: &str, change: impl FnMut(&mut Value)) {
    if let Some(list) = value.get_mut(key).and_then(Value::as_array_mut) {
        list.iter_mut().for_each(change);
    }
}

/// Removes the member `key`, if the value is an object that has it.
pub(crate) fn remove(value: &mut Value, key: &str) -> Option<Value> {
    value.as_object_mut().and_then(|object| object.shift_remove(key))
}
