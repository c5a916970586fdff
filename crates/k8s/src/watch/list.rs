//! A list, parsed as it arrives. Its objects are extracted one by one, so the list of a large cluster is never held as
//! text or as JSON.

use std::fmt;
use std::io::{self, BufReader, Read};

use bytes::{Buf as _, Bytes};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokio::sync::mpsc::Receiver;

/// A list, or a page of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List<T> {
    /// The extracts of all objects.
    pub(super) objects: Vec<T>,
    /// Its resource version.
    pub(super) version: String,
    /// Continue token of the next page, if there is one.
    pub(super) token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

/// Parses a list from the parts of a response. Blocks until all parts have arrived.
pub(super) fn parse<T>(parts: Receiver<Bytes>, read: &dyn Fn(&Value) -> T) -> serde_json::Result<List<T>> {
    let mut source = serde_json::Deserializer::from_reader(BufReader::new(Parts { parts, current: Bytes::new() }));
    let list = source.deserialize_map(Whole(read))?;
    source.end()?;
    Ok(list)
}

/// The parts as one reader.
struct Parts {
    parts: Receiver<Bytes>,
    current: Bytes,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.current = part,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Parses the object that contains a list.
struct Whole<'a, T>(&'a dyn Fn(&Value) -> T);

impl<'de, T> Visitor<'de> for Whole<'_, T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
        let (mut meta, mut objects) = (Meta::default(), None);
        while let Some(key) = map.next_key::<String>()? {
            match &*key {
                "metadata" => meta = map.next_value()?,
                "items" => objects = Some(map.next_value_seed(Items(self.0))?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if meta.resource_version.is_empty() {
            return Err(A::Error::missing_field("metadata.resourceVersion"));
        }
        let objects = objects.ok_or_else(|| A::Error::missing_field("items"))?;
        let token = Some(meta.r#continue).filter(|token| !token.is_empty());
        Ok(List { objects, version: meta.resource_version, token })
    }
}

/// Parses the items; null means none.
struct Items<'a, T>(&'a dyn Fn(&Value) -> T);

impl<'de, T> DeserializeSeed<'de> for Items<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Vec<T>, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de, T> Visitor<'de> for Items<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    fn visit_unit<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
        let mut objects = Vec::new();
        while let Some(object) = sequence.next_element::<Value>()? {
            objects.push((self.0)(&object));
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Parses a text that arrives in parts of a given size.
    fn read(text: &str, part: usize) -> serde_json::Result<List<String>> {
        let (sender, receiver) = mpsc::channel(text.len().max(1));
        for part in text.as_bytes().chunks(part) {
            sender.try_send(Bytes::copy_from_slice(part)).unwrap();
        }
        drop(sender);
        parse(receiver, &|object| object["name"].as_str().unwrap_or("?").to_owned())
    }

    #[test]
    fn a_list_is_read_whatever_its_parts_and_the_order_of_its_fields() {
        let (items, meta) =
            (r#""items": [{"name": "a"}, 7, {"name": "ü"}]"#, r#""metadata": {"resourceVersion": "9"}"#);
        for text in [format!("{{{items}, {meta}}}"), format!("{{\"kind\": \"L\", {meta}, \"x\": [1], {items}}}")] {
            for part in 1..text.len() {
                let list = read(&text, part).unwrap();
                assert_eq!((list.objects.concat(), &*list.version, list.token), ("a?ü".to_owned(), "9", None));
            }
        }
    }

    #[test]
    fn a_list_may_be_empty_or_have_a_rest() {
        let list = read(r#"{"metadata": {"resourceVersion": "9", "continue": "t"}, "items": null}"#, 8).unwrap();
        assert_eq!((list.objects.len(), list.token.as_deref()), (0, Some("t")));
    }

    #[test]
    fn what_is_cut_off_or_no_list_is_none() {
        let whole = r#"{"metadata": {"resourceVersion": "9"}, "items": [{"name": "a"}]}"#;
        for length in 0..whole.len() {
            assert!(read(&whole[..length], 8).is_err(), "{}", &whole[..length]);
        }
        assert!(read(whole, 8).is_ok());
        for text in [r#"{"items": []}"#, r#"{"metadata": {"resourceVersion": "9"}}"#, "[]", "{}", "<html>"] {
            assert!(read(text, 8).is_err(), "{text}");
        }
        assert!(read(&format!("{whole}x"), 8).is_err(), "more follows");
    }
}
