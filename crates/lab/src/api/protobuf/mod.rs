//! Objects in the protobuf encoding, which kubectl sends from 1.32 on where it creates objects it has types for.
//!
//! Only reading is needed: clients that send it accept JSON in return. The messages are data (`messages.txt`); as in
//! the API's own JSON, empty fields are left out, except those that may be absent and are there.

mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::wire::{Content, fields};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; the deepest of the API has half of it.
const DEPTH: usize = 32;

/// A field of a message.
pub(crate) struct Field {
    /// As JSON names it; empty for what is part of its message.
    pub(crate) name: &'static str,
    optional: bool,
    pub(crate) shape: Shape,
    /// A message, a scalar or (with `@`) a type with a JSON form of its own.
    pub(crate) kind: &'static str,
}

/// Multiplicity of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    List,
    Map,
}

type Message = HashMap<u64, Field>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let lines = include_str!("messages.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, fields)| (name, message(fields))).collect()
});

fn message(fields: &'static str) -> Message {
    let field = |text: &'static str| {
        let (number, rest) = text.split_once(':')?;
        let (name, kind) = rest.split_once(':')?;
        let (optional, kind) = kind.strip_prefix('?').map_or((false, kind), |kind| (true, kind));
        let (shape, kind) = match kind.split_at_checked(1) {
            Some(("*", kind)) => (Shape::List, kind),
            Some(("%", kind)) => (Shape::Map, kind),
            _ => (Shape::One, kind),
        };
        Some((number.parse().ok()?, Field { name, optional, shape, kind }))
    };
    fields.split_whitespace().filter_map(field).collect()
}

/// The message of a kind.
pub(crate) fn message_of(group: &str, kind: &str) -> String {
    match group.split('.').next().unwrap_or_default() {
        "" | "apps" => kind.to_owned(),
        group => format!("{group}.{kind}"),
    }
}

/// The fields of a message, by name.
pub(crate) fn fields_of(message: &str) -> Vec<&'static Field> {
    let mut fields: Vec<_> = MESSAGES.get(message).into_iter().flat_map(HashMap::values).collect();
    fields.sort_by_key(|field| field.name);
    fields
}

/// Reads an object with its envelope, which tells its kind.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, String> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or("the protobuf envelope is missing")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in fields(envelope) {
        match field? {
            (1, Content::Bytes(meta)) => {
                for field in fields(meta) {
                    match field? {
                        (1, Content::Bytes(text)) => api_version = text_of(text)?,
                        (2, Content::Bytes(text)) => kind = text_of(text)?,
                        _ => {}
                    }
                }
            }
            (2, Content::Bytes(content)) => raw = content,
            _ => {}
        }
    }
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let name = if kind == "DeleteOptions" { kind.clone() } else { message_of(group, &kind) };
    let mut value = object(&name, raw, DEPTH)?;
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    Ok(value)
}

fn text_of(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
}

fn object(name: &str, bytes: &[u8], depth: usize) -> Result<Value, String> {
    let message = MESSAGES.get(name).ok_or_else(|| format!("no protobuf message {name:?} is known"))?;
    let depth = depth.checked_sub(1).ok_or("protobuf messages are nested too deeply")?;
    let mut members = Map::new();
    for field in fields(bytes) {
        let (number, content) = field?;
        let Some(field) = message.get(&number) else { continue };
        match field.shape {
            Shape::List => {
                let value = value(field.kind, content, depth)?;
                if let Some(list) = members.entry(field.name).or_insert_with(|| json!([])).as_array_mut() {
                    list.push(value);
                }
            }
            Shape::Map => {
                let (key, value) = entry(field.kind, content, depth)?;
                members.entry(field.name).or_insert_with(|| json!({}))[key] = value;
            }
            Shape::One => {
                let value = value(field.kind, content, depth)?;
                if field.name.is_empty() {
                    members.extend(value.as_object().cloned().unwrap_or_default());
                } else if field.optional || !is_zero(&value) {
                    members.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(Value::Object(members))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn entry(kind: &str, content: Content<'_>, depth: usize) -> Result<(String, Value), String> {
    let (mut key, mut found) = (String::new(), None);
    for field in fields(bytes_of(content)?) {
        match field? {
            (1, Content::Bytes(text)) => key = text_of(text)?,
            (2, content) => found = Some(value(kind, content, depth)?),
            _ => {}
        }
    }
    let missing = if kind == "string" { json!("") } else { Value::Null };
    Ok((key, found.unwrap_or(missing)))
}

fn bytes_of(content: Content<'_>) -> Result<&[u8], String> {
    match content {
        Content::Bytes(bytes) => Ok(bytes),
        Content::Number(_) => Err("a protobuf field is not of its type".to_owned()),
    }
}

fn value(kind: &str, content: Content<'_>, depth: usize) -> Result<Value, String> {
    match (kind, content) {
        ("int", Content::Number(number)) => Ok(number.cast_signed().into()),
        ("bool", Content::Number(number)) => Ok((number != 0).into()),
        ("float", Content::Number(number)) => Ok(f64::from_bits(number).into()),
        ("string", Content::Bytes(text)) => text_of(text).map(Value::from),
        ("bytes", Content::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
        (_, Content::Number(_)) => Err("a protobuf field is not of its type".to_owned()),
        ("@time", Content::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%SZ"),
        ("@microtime", Content::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%S.%6fZ"),
        ("@intorstring", Content::Bytes(bytes)) => int_or_string(bytes),
        ("@quantity", Content::Bytes(bytes)) => Ok(first_text(bytes)?.into()),
        ("@raw", Content::Bytes(bytes)) => Ok(serde_json::from_str(&first_text(bytes)?).unwrap_or_default()),
        (message, Content::Bytes(bytes)) => object(message, bytes, depth),
    }
}

/// The text in the first field of a message.
fn first_text(bytes: &[u8]) -> Result<String, String> {
    for field in fields(bytes) {
        if let (1, Content::Bytes(text)) = field? {
            return text_of(text);
        }
    }
    Ok(String::new())
}

/// A time; an empty one is none.
fn time(bytes: &[u8], format: &str) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for field in fields(bytes) {
        match field? {
            (1, Content::Number(number)) => seconds = number.cast_signed(),
            (2, Content::Number(number)) => nanos = i32::try_from(number).unwrap_or_default(),
            _ => {}
        }
    }
    let time = Timestamp::new(seconds, nanos).map_err(|error| error.to_string())?;
    Ok(time.strftime(format).to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in fields(bytes) {
        match field? {
            (1, Content::Number(kind)) => is_text = kind == 1,
            (2, Content::Number(value)) => number = value.cast_signed(),
            (3, Content::Bytes(value)) => text = text_of(value)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with bytes in it, shorter than 128.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn every_message_named_is_there() {
        for (name, message) in MESSAGES.iter() {
            for field in message.values() {
                let plain = ["string", "int", "bool", "bytes", "float"].contains(&field.kind);
                let known = plain || field.kind.starts_with('@') || MESSAGES.contains_key(field.kind);
                assert!(known, "{name}.{} is a {:?}", field.name, field.kind);
            }
        }
    }

    #[test]
    fn a_deployment_with_no_replicas_keeps_the_zero() {
        let label = [bytes(1, b"app"), bytes(2, b"web")].concat();
        let meta = [bytes(1, b"web"), bytes(3, b""), bytes(8, b""), bytes(11, &label)].concat();
        let spec = [vec![1 << 3, 0], vec![5 << 3, 0]].concat();
        let raw = [bytes(1, &meta), bytes(2, &spec)].concat();
        let expected = json!({
            "metadata": { "name": "web", "labels": { "app": "web" } }, "spec": { "replicas": 0 },
            "apiVersion": "apps/v1", "kind": "Deployment" });
        assert_eq!(decode(&envelope("apps/v1", "Deployment", &raw)).unwrap(), expected);
    }

    #[test]
    fn broken_input_is_an_error() {
        let whole = envelope("v1", "Namespace", &bytes(1, &bytes(1, b"a")));
        assert!(decode(&whole).is_ok());
        for length in 0..whole.len() {
            // Cut between the fields it is a shorter message; anywhere else an error; never a panic.
            let _ = decode(&whole[..length]);
        }
        assert!(decode(&whole[..whole.len() - 1]).is_err());
        assert!(decode(b"{}").is_err());
    }

    #[test]
    fn objects_in_protobuf_survive_hostile_input() {
        let label = [bytes(1, b"app"), bytes(2, b"web")].concat();
        let time = bytes(8, &[1 << 3, 0x80, 0x80, 0x80, 0x80, 0x10]);
        let meta = [bytes(1, b"web"), bytes(3, b"shop"), time, bytes(11, &label)].concat();
        let port = [vec![1 << 3, 80], bytes(4, &bytes(3, b"http"))].concat();
        let seeds = [
            envelope("apps/v1", "Deployment", &[bytes(1, &meta), bytes(2, &[1 << 3, 2])].concat()),
            envelope("v1", "Service", &[bytes(1, &meta), bytes(2, &bytes(1, &port))].concat()),
            envelope("v1", "DeleteOptions", &[1 << 3, 5]),
        ];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        ringfence_fuzz::hostile(&seeds, |bytes| {
            // What can be read is an object, whose kind is the one it was sent as.
            if let Ok(object) = decode(bytes) {
                assert!(object["kind"].is_string(), "{object}");
            }
        });
    }
}
