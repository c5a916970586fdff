//! YAML (and so JSON) to trees, one a document.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::scalar;
use super::tree::{Content, Entry, Node, Position};

/// Most nodes that one document may have after its aliases are resolved.
const NODES_MAX: usize = 1_000_000;

/// Something wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) position: Position,
    pub(super) message: String,
}

/// One document.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) root: Node,
    /// Problems that do not prevent reading.
    pub(super) problems: Vec<Problem>,
}

/// All documents of a text; one that cannot be read does not hide the others. Empty ones are left out.
pub(super) fn parse(text: &str) -> Vec<Result<Parsed, Problem>> {
    // A byte order mark is no part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str_with_options(text, granit_parser::options! { emit_comments: false });
    let mut documents = Vec::new();
    loop {
        match document(&mut parser) {
            Ok(None) => return documents,
            Ok(Some(parsed)) if matches!(parsed.root.content, Content::Scalar(Value::Null)) => {}
            Ok(Some(parsed)) => documents.push(Ok(parsed)),
            Err(problem) => {
                documents.push(Err(problem));
                match parser.proceed_next_document() {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return documents,
                }
            }
        }
    }
}

type Events<'i> = Parser<'i, granit_parser::StrInput<'i>>;

fn document(parser: &mut Events<'_>) -> Result<Option<Parsed>, Problem> {
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax(&error))?;
        match event {
            Event::StreamStart | Event::DocumentStart(..) => {}
            Event::StreamEnd => return Ok(None),
            Event::DocumentEnd => {
                let null = Node::new(Position::from(span.start), Content::Scalar(Value::Null));
                return Ok(Some(Parsed { root: builder.root.unwrap_or(null), problems: builder.problems }));
            }
            event => builder.event(event, span)?,
        }
    }
    Ok(None)
}

fn syntax(error: &ScanError) -> Problem {
    Problem { position: Position::from(*error.marker()), message: format!("not valid YAML: {}", error.info()) }
}

/// A collection that is not complete yet.
struct Frame {
    position: Position,
    anchor: usize,
    content: Content,
    key: Option<(Key, Position)>,
}

/// A key that waits for its value.
enum Key {
    Text(String),
    /// `<<`: the value is a map, or a list of maps, whose entries are taken over.
    Merge,
}

/// Builds one tree from events.
#[derive(Default)]
struct Builder {
    frames: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    problems: Vec<Problem>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let position = Position::from(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), position);
                let merge = style == ScalarStyle::Plain && text == "<<";
                self.complete(Node::new(position, Content::Scalar(value)), anchor, merge)
            }
            Event::MappingStart(_, anchor, _) => {
                self.frames.push(Frame { position, anchor, content: Content::Map(Vec::new()), key: None });
                Ok(())
            }
            Event::SequenceStart(_, anchor, _) => {
                self.frames.push(Frame { position, anchor, content: Content::List(Vec::new()), key: None });
                Ok(())
            }
            Event::MappingEnd | Event::SequenceEnd => match self.frames.pop() {
                Some(frame) => self.complete(Node::new(frame.position, frame.content), frame.anchor, false),
                None => Ok(()),
            },
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    let message = "an alias inside the value it stands for".to_owned();
                    return Err(Problem { position, message });
                };
                // Counted before copying: a few lines of nested aliases may stand for billions of nodes.
                self.nodes += node.size;
                self.check_size(position)?;
                let node = Node { position, ..node.clone() };
                self.complete(node, 0, false)
            }
            _ => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, position: Position) -> Value {
        if let Some(tag) = tag.and_then(Tag::core_suffix) {
            return scalar::tagged(tag, text).unwrap_or_else(|| {
                self.problems.push(Problem { position, message: format!("{text:?} is no !!{tag}") });
                text.into()
            });
        }
        if style == ScalarStyle::Plain { scalar::plain(text) } else { text.into() }
    }

    fn check_size(&self, position: Position) -> Result<(), Problem> {
        if self.nodes <= NODES_MAX {
            return Ok(());
        }
        Err(Problem { position, message: format!("the document has more than {NODES_MAX} nodes") })
    }

    /// A node has come to its end: it is a key, a value, an item or the root.
    fn complete(&mut self, node: Node, anchor: usize, merge: bool) -> Result<(), Problem> {
        self.nodes += 1;
        self.check_size(node.position)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut frame.content, frame.key.take()) {
            (Content::List(items), _) => items.push(node),
            (Content::Map(_), None) => {
                let key = self.key(&node, merge);
                if let Some(frame) = self.frames.last_mut() {
                    frame.key = Some((key, node.position));
                }
            }
            (Content::Map(entries), Some((Key::Merge, position))) => {
                if !merge_into(entries, node) {
                    self.problems.push(Problem { position, message: "only maps can be merged by '<<'".to_owned() });
                }
            }
            (Content::Map(entries), Some((Key::Text(key), position))) => {
                if entries.iter().any(|entry| entry.key == key && !entry.merged) {
                    let message = format!("the key {key:?} is there twice; the last one counts");
                    self.problems.push(Problem { position, message });
                }
                entries.retain(|entry| entry.key != key);
                entries.push(Entry { key, position, node, merged: false });
            }
            (Content::Scalar(_), _) => {}
        }
        Ok(())
    }

    fn key(&mut self, node: &Node, merge: bool) -> Key {
        match &node.content {
            Content::Scalar(_) if merge => Key::Merge,
            Content::Scalar(Value::String(text)) => Key::Text(text.clone()),
            Content::Scalar(value) => Key::Text(value.to_string()),
            Content::List(_) | Content::Map(_) => {
                let message = "a key must be a string".to_owned();
                self.problems.push(Problem { position: node.position, message });
                Key::Text(node.value().to_string())
            }
        }
    }
}

/// Replaces entries by those of a map, or of a list of maps of which the first wins. `kubectl` reads entries in their
/// order, and the last one wins. Returns false for other nodes.
fn merge_into(entries: &mut Vec<Entry>, node: Node) -> bool {
    match node.content {
        Content::Map(others) => {
            for other in others {
                entries.retain(|entry| entry.key != other.key);
                entries.push(Entry { merged: true, ..other });
            }
            true
        }
        Content::List(items) => items.into_iter().rev().all(|item| merge_into(entries, item)),
        Content::Scalar(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::path::Segment;

    fn one(text: &str) -> Parsed {
        let mut all = parse(text);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).unwrap()
    }

    #[track_caller]
    fn problem(text: &str, expect: (usize, usize, &str)) {
        let parsed = one(text);
        let problem = &parsed.problems[0];
        assert_eq!((problem.position.line, problem.position.column), (expect.0, expect.1), "{problem:?}");
        assert!(problem.message.contains(expect.2), "{problem:?}");
    }

    #[test]
    fn values_and_where_they_are() {
        let parsed = one("a: 1\nb:\n  - x\n  - k: 'v'\n    l: [true, null]\n");
        assert_eq!(parsed.root.value(), json!({"a": 1, "b": ["x", {"k": "v", "l": [true, null]}]}));
        let at = |segments: &[Segment]| {
            let position = parsed.root.locate(&segments.iter().cloned().collect());
            (position.line, position.column)
        };
        let field = |name: &str| Segment::Field(name.to_owned());
        assert_eq!(at(&[]), (1, 1));
        assert_eq!(at(&[field("a")]), (1, 4), "a scalar is where its value is");
        assert_eq!(at(&[field("b")]), (2, 1), "a list is where its key is");
        assert_eq!(at(&[field("b"), Segment::Index(1)]), (4, 5));
        assert_eq!(at(&[field("b"), Segment::Index(1), field("l"), Segment::Index(0)]), (5, 9));
        assert_eq!(at(&[field("b"), Segment::Index(1), field("missing"), field("x")]), (4, 5));
        assert_eq!(at(&[field("b"), Segment::Index(9)]), (2, 1));
    }

    #[test]
    fn a_broken_document_does_not_hide_the_others() {
        let all = parse("a: 1\n---\nb: [1\n---\n# nothing\n---\nc: 3\n");
        let all: Vec<_> = all.into_iter().map(|d| d.map(|d| d.root.value()).map_err(|p| p.position.line)).collect();
        assert_eq!(all, [Ok(json!({"a": 1})), Err(3), Ok(json!({"c": 3}))]);
        assert!(parse("").is_empty() && parse("---\n---\n# only a comment\n").is_empty());
    }

    #[test]
    fn anchors_aliases_and_merges() {
        let parsed = one("a: &a {x: 1, w: 2}\nb: *a\nc:\n  w: 3\n  <<: *a\nd: {<<: [*a, {z: 4, x: 6}], w: 5}\n");
        let value =
            json!({"a": {"x": 1, "w": 2}, "b": {"x": 1, "w": 2}, "c": {"w": 2, "x": 1}, "d": {"w": 5, "z": 4, "x": 1}});
        assert_eq!(parsed.root.value(), value);
        assert_eq!(parsed.problems, []);
        problem("a: {<<: 1}\n", (1, 5, "only maps can be merged"));
        assert!(parse("a: *nowhere\n")[0].is_err());
        assert!(parse("a: &a [*a]\n")[0].is_err());
    }

    #[test]
    fn aliases_cannot_fill_the_memory() {
        let line = |i: usize| {
            let item = if i == 0 { "x".to_owned() } else { format!("*a{}", i - 1) };
            format!("a{i}: &a{i} [{}]\n", vec![item; 10].join(", "))
        };
        let text: String = (0..12).map(line).collect();
        let problem = parse(&text).remove(0).unwrap_err();
        assert!(problem.message.contains("more than 1000000 nodes"), "{problem:?}");
    }

    #[test]
    fn doubtful_keys() {
        problem("a: 1\nb: 2\na: 3\n", (3, 1, "\"a\" is there twice"));
        assert_eq!(one("a: 1\na: 3\n").root.value(), json!({"a": 3}));
        problem("? [1, 2]\n: x\n", (1, 3, "a key must be a string"));
        assert_eq!(one("80: x\ntrue: z\n").root.value(), json!({"80": "x", "true": "z"}));
        problem("a: !!int web\n", (1, 10, "no !!int"));
    }

    #[test]
    fn json_is_yaml() {
        let parsed = one("\u{feff}{\n\t\"a\": [1, \"b\"],\n\t\"c\": {\"d\": null}\n}\n");
        assert_eq!(parsed.root.value(), json!({"a": [1, "b"], "c": {"d": null}}));
    }
}
