//! Paths of fields inside objects: `spec.ingress[0].from[1].ipBlock.cidr`.

use std::fmt;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment<S = String> {
    /// A field of an object.
    Field(S),
    /// An item of a list.
    Index(usize),
    /// An entry of a map with free keys.
    Key(S),
}

/// A path that borrows its way up, so that walking an object without errors allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Self>,
    segment: Option<Segment<&'a str>>,
}

impl Copy for Segment<&str> {}

impl Path<'_> {
    /// The object itself.
    pub const ROOT: Self = Self { parent: None, segment: None };

    /// A field of what this path names.
    pub fn field<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Some(Segment::Field(name)) }
    }

    /// An item of the list this path names.
    pub fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), segment: Some(Segment::Index(index)) }
    }

    /// An entry of the map this path names.
    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Some(Segment::Key(key)) }
    }

    /// The path as a value of its own.
    pub fn to_field_path(&self) -> FieldPath {
        let mut segments = Vec::new();
        let mut at = Some(self);
        while let Some(path) = at {
            segments.extend(path.segment.map(|segment| match segment {
                Segment::Field(name) => Segment::Field(name.to_owned()),
                Segment::Index(index) => Segment::Index(index),
                Segment::Key(key) => Segment::Key(key.to_owned()),
            }));
            at = path.parent;
        }
        segments.reverse();
        FieldPath(segments)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_field_path().fmt(f)
    }
}

/// A path of a field inside an object. Displays as the API server writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The steps from the object down.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// True if this is the path of the object itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// True if this path equals `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl FromIterator<Segment> for FieldPath {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if i == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_the_api_server_writes_them() {
        let spec = Path::ROOT.field("spec");
        let rules = spec.field("ingress");
        let rule = rules.index(2);
        let labels = rule.field("matchLabels");
        assert_eq!(labels.key("a.b/c").to_string(), "spec.ingress[2].matchLabels[a.b/c]");
        assert!(rule.to_field_path().starts_with(&spec.to_field_path()));
        assert!(Path::ROOT.to_field_path().is_root());
    }
}
