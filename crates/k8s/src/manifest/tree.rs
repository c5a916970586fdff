//! A tree of values that remembers where everything was written.

use granit_parser::Marker;
use serde_json::{Map, Value};

use crate::path::{FieldPath, Segment};

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
}

impl From<Marker> for Position {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) content: Content,
    /// Nodes in it, itself included.
    pub(super) size: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) position: Position,
    pub(super) node: Node,
    /// The entry was merged by `<<`, so a written one replaces it.
    pub(super) merged: bool,
}

impl Node {
    pub(super) fn new(position: Position, content: Content) -> Self {
        let size = 1 + match &content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(|node| node.size).sum(),
            Content::Map(entries) => entries.iter().map(|entry| entry.node.size).sum(),
        };
        Self { position, content, size }
    }

    /// The value without its positions.
    pub(super) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::value).collect(),
            Content::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.node.value())).collect::<Map<_, _>>())
            }
        }
    }

    /// A field of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            // Of duplicates the last counts.
            Content::Map(entries) => entries.iter().rev().find(|entry| entry.key == key),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.content {
            Content::List(items) => items,
            Content::Scalar(_) | Content::Map(_) => &[],
        }
    }

    /// The place of a field, or of the innermost enclosing one that is written: of a scalar the value, of lists and
    /// maps the key.
    pub(super) fn locate(&self, path: &FieldPath) -> Position {
        let (mut node, mut position) = (self, self.position);
        for segment in path.segments() {
            let found = match segment {
                Segment::Field(key) | Segment::Key(key) => node.entry(key).map(|entry| {
                    let scalar = matches!(entry.node.content, Content::Scalar(_));
                    (&entry.node, if scalar { entry.node.position } else { entry.position })
                }),
                Segment::Index(index) => node.items().get(*index).map(|item| (item, item.position)),
            };
            let Some(found) = found else { break };
            (node, position) = found;
        }
        position
    }
}
