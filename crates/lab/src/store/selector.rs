//! Label and field selectors as the API's query parameters write them.

use serde_json::Value;

/// One requirement on the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// A label selector: all requirements hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Reads the form `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        split(text).into_iter().map(|term| requirement(term.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// True if the selector asks for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if an object's labels fulfil it.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|value| values.iter().any(|v| v == value)),
            Requirement::NotIn(key, values) => !label(key).is_some_and(|value| values.iter().any(|v| v == value)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        })
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut terms, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.retain(|term| !term.trim().is_empty());
    terms
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let error = || format!("unable to parse requirement: {term:?}");
    if let Some(key) = term.strip_prefix('!') {
        return label_key(key.trim()).map(Requirement::Missing).ok_or_else(error);
    }
    if let Some(values) = term.strip_suffix(')') {
        let (head, values) = values.split_once('(').ok_or_else(error)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(error)?;
        let key = label_key(key.trim()).ok_or_else(error)?;
        return match operator {
            "in" => Ok(Requirement::In(key, values)),
            "notin" => Ok(Requirement::NotIn(key, values)),
            _ => Err(error()),
        };
    }
    let Some((key, value)) = term.split_once('=') else {
        return label_key(term).map(Requirement::Exists).ok_or_else(error);
    };
    let value = value.strip_prefix('=').unwrap_or(value).trim().to_owned();
    match key.strip_suffix('!') {
        Some(key) => Ok(Requirement::NotIn(label_key(key.trim()).ok_or_else(error)?, vec![value])),
        None => Ok(Requirement::In(label_key(key.trim()).ok_or_else(error)?, vec![value])),
    }
}

fn label_key(text: &str) -> Option<String> {
    let valid = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    valid.then(|| text.to_owned())
}

/// A field selector: all fields have (or do not have) the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Reads the form `a.b=c,d!=e`, whose fields must be among the `known`.
    pub(crate) fn parse(text: &str, known: &[&str]) -> Result<Self, String> {
        let term = |term: &str| {
            let (field, value) = term.split_once('=').ok_or_else(|| format!("invalid selector: {term:?}"))?;
            let value = value.strip_prefix('=').unwrap_or(value).trim().to_owned();
            let (field, equal) = field.strip_suffix('!').map_or((field, true), |field| (field, false));
            let field = field.trim();
            if !known.contains(&field) && !["metadata.name", "metadata.namespace"].contains(&field) {
                return Err(format!("field label not supported: {field}"));
            }
            Ok((field.to_owned(), equal, value))
        };
        text.split(',').filter(|part| !part.trim().is_empty()).map(term).collect::<Result<_, _>>().map(Self)
    }

    /// The selector of one object by name.
    pub(crate) fn name(name: &str) -> Self {
        Self(vec![("metadata.name".to_owned(), true, name.to_owned())])
    }

    /// True if the selector asks for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if an object's fields fulfil it. A missing field is the empty text.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, equal, value)| (field_text(object, field) == *value) == *equal)
    }
}

fn field_text(object: &Value, field: &str) -> String {
    match field.split('.').try_fold(object, |value, name| value.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_follow_the_query_grammar() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        for (selector, matches) in [
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (api, web),tier", true),
            ("app notin (web)", false),
            ("!app", false),
            ("!absent,absent!=x", true),
            ("absent notin (x)", true),
            ("absent in (x)", false),
            ("", true),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&object), matches, "{selector}");
        }
        assert!(LabelSelector::parse("app within (x)").is_err());
        assert!(LabelSelector::parse("a b=c").is_err());
    }

    #[test]
    fn field_selectors_know_their_fields() {
        let object = json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
        let known = ["status.phase", "spec.nodeName"];
        for (selector, matches) in [
            ("metadata.name=a", true),
            ("status.phase!=Running", false),
            ("spec.nodeName=", true),
            ("spec.nodeName=n,status.phase=Running", false),
        ] {
            assert_eq!(FieldSelector::parse(selector, &known).unwrap().matches(&object), matches, "{selector}");
        }
        assert!(FieldSelector::parse("spec.colour=red", &known).is_err());
    }
}
