//! Schemas of the kinds: those of their definitions, or else names and types of their fields, from the messages of the
//! protobuf encoding.

use serde_json::{Map, Value, json};

use crate::api::kinds::Kind;
use crate::api::protobuf::{self, Shape};

/// The name of the schema of a kind.
pub(super) fn of(kind: &Kind) -> String {
    if (kind.schema)().is_none() {
        return name(&protobuf::message_of(kind.group, kind.kind));
    }
    let group: Vec<_> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

/// Adds the schema of a kind, and those of all it refers to.
pub(super) fn add_kind(kind: &Kind, schemas: &mut Map<String, Value>) {
    let Some(defined) = (kind.schema)() else { return add(&protobuf::message_of(kind.group, kind.kind), schemas) };
    let mut schema = defined.clone();
    schema["properties"]["metadata"] = one("ObjectMeta", schemas);
    schemas.insert(of(kind), schema);
}

/// The name of the schema of a message.
fn name(message: &str) -> String {
    format!("io.k8s.api.{message}")
}

fn add(message: &str, schemas: &mut Map<String, Value>) {
    let name = name(message);
    if schemas.contains_key(&name) {
        return;
    }
    // Before its fields: messages may contain themselves.
    schemas.insert(name.clone(), Value::Null);
    let mut properties = Map::new();
    add_properties(message, &mut properties, schemas);
    schemas.insert(name, json!({ "type": "object", "properties": properties }));
}

fn add_properties(message: &str, properties: &mut Map<String, Value>, schemas: &mut Map<String, Value>) {
    for field in protobuf::fields_of(message) {
        // What has no name is part of its message.
        if field.name.is_empty() {
            add_properties(field.kind, properties, schemas);
            continue;
        }
        let one = one(field.kind, schemas);
        let property = match field.shape {
            Shape::One => one,
            Shape::List => json!({ "type": "array", "items": one }),
            Shape::Map => json!({ "type": "object", "additionalProperties": one }),
        };
        properties.insert(field.name.to_owned(), property);
    }
}

fn one(kind: &str, schemas: &mut Map<String, Value>) -> Value {
    match kind {
        "string" | "@quantity" => json!({ "type": "string" }),
        "int" => json!({ "type": "integer" }),
        "float" => json!({ "type": "number" }),
        "bool" => json!({ "type": "boolean" }),
        "bytes" => json!({ "type": "string", "format": "byte" }),
        "@time" | "@microtime" => json!({ "type": "string", "format": "date-time" }),
        "@intorstring" => json!({ "type": "string", "format": "int-or-string" }),
        "@raw" => json!({ "type": "object" }),
        message => {
            add(message, schemas);
            json!({ "$ref": format!("#/components/schemas/{}", name(message)) })
        }
    }
}
