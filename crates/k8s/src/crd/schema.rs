//! OpenAPI schemas as CustomResourceDefinitions hold them, from small pieces.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

/// A schema while it is put together.
#[derive(Clone)]
pub(super) struct Schema(Map<String, Value>);

impl Schema {
    fn new(kind: &str, about: &str) -> Self {
        let schema = Self(Map::new());
        let schema = if about.is_empty() { schema } else { schema.with("description", about) };
        schema.with("type", kind)
    }

    /// Text.
    pub(super) fn text(about: &str) -> Self {
        Self::new("string", about)
    }

    /// One of these texts.
    pub(super) fn one_of(about: &str, values: &[&str]) -> Self {
        Self::text(about).with("enum", values.to_vec())
    }

    /// A whole number of 32 bits.
    pub(super) fn number(about: &str, range: RangeInclusive<i64>) -> Self {
        let number = Self::new("integer", about).with("format", "int32");
        number.with("minimum", *range.start()).with("maximum", *range.end())
    }

    /// A whole number of 64 bits that is not negative.
    pub(super) fn count(about: &str) -> Self {
        Self::new("integer", about).with("format", "int64").with("minimum", 0)
    }

    /// An object; fields are added to it.
    pub(super) fn object(about: &str) -> Self {
        Self::new("object", about)
    }

    /// An object with free keys.
    pub(super) fn map(about: &str, values: Self) -> Self {
        Self::object(about).with("additionalProperties", values.into_value())
    }

    /// An object with exactly one of its fields.
    pub(super) fn choice(about: &str) -> Self {
        Self::object(about).with("minProperties", 1).with("maxProperties", 1)
    }

    /// A list.
    pub(super) fn list(about: &str, items: Self) -> Self {
        Self::new("array", about).with("items", items.into_value())
    }

    /// A list of this many items.
    pub(super) fn items(self, range: RangeInclusive<usize>) -> Self {
        let list = if *range.start() > 0 { self.with("minItems", *range.start()) } else { self };
        list.with("maxItems", *range.end())
    }

    /// A field that may be missing.
    pub(super) fn optional(mut self, name: &str, schema: Self) -> Self {
        if let Some(properties) = self.0.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
            properties.insert(name.to_owned(), schema.into_value());
        }
        self
    }

    /// A field that must be there.
    pub(super) fn required(self, name: &str, schema: Self) -> Self {
        let mut schema = self.optional(name, schema);
        if let Some(required) = schema.0.entry("required").or_insert_with(|| json!([])).as_array_mut() {
            required.push(name.into());
        }
        schema
    }

    /// A field that may be missing, where a channel or kind has it.
    pub(super) fn optional_if(self, has: bool, name: &str, schema: impl FnOnce() -> Self) -> Self {
        if has { self.optional(name, schema()) } else { self }
    }

    /// A rule that the API server evaluates, and what it says where it does not hold.
    pub(super) fn rule(self, rule: &str, message: &str) -> Self {
        self.with("x-kubernetes-validations", json!([{ "message": message, "rule": rule }]))
    }

    /// Any other word of a schema.
    pub(super) fn with(mut self, word: &str, value: impl Into<Value>) -> Self {
        self.0.insert(word.to_owned(), value.into());
        self
    }

    pub(super) fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}
