//! The cells of `kubectl get`: columns and the texts in them.

use jiff::Timestamp;
use serde_json::Value;

use super::json::Json as _;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) format: &'static str,
    /// 0: always shown; 1: only with `-o wide`.
    pub(crate) priority: u8,
}

impl Column {
    pub(crate) const fn text(name: &'static str) -> Self {
        Self { name, format: "", priority: 0 }
    }

    pub(crate) const fn wide(name: &'static str) -> Self {
        Self { name, format: "", priority: 1 }
    }
}

pub(crate) const NAME: Column = Column { name: "Name", format: "name", priority: 0 };
pub(crate) const AGE: Column = Column::text("Age");
pub(crate) const NAME_AGE: &[Column] = &[NAME, AGE];

pub(crate) fn name_age(object: &Value) -> Vec<Value> {
    vec![name(object), age(object)]
}

pub(crate) fn name(object: &Value) -> Value {
    object.text("/metadata/name").into()
}

pub(crate) fn age(object: &Value) -> Value {
    since(object.text("/metadata/creationTimestamp")).into()
}

/// The text, or `<none>` for the empty one.
pub(crate) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Age of a timestamp.
pub(crate) fn since(timestamp: &str) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => duration(Timestamp::now().as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A duration in two significant units, as kubectl shows ages.
fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, unit: &str, small: i64, rest: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{rest}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds / YEAR, "y", seconds % YEAR / DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// A map of labels as `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: &Value) -> Value {
    let mut pairs: Vec<_> =
        labels.entries("").map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort();
    or_none(&pairs.join(","))
}

/// A label selector as kubectl writes it, or `<none>` for the one that selects everything.
pub(crate) fn label_selector(selector: &Value) -> Value {
    let equal = selector
        .entries("/matchLabels")
        .map(|(key, value)| (key.to_owned(), format!("{key}={}", value.as_str().unwrap_or_default())));
    let expressions = selector.list("/matchExpressions").iter().map(|expression| {
        let key = expression.text("/key");
        let mut values: Vec<_> = expression.list("/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression.text("/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => "<error>".to_owned(),
        };
        (key.to_owned(), text)
    });
    let mut terms: Vec<_> = equal.chain(expressions).collect();
    terms.sort();
    let terms: Vec<_> = terms.into_iter().map(|(_, text)| text).collect();
    or_none(&terms.join(","))
}

/// Names and images of the containers of a pod template.
pub(crate) fn containers(template: &Value) -> (String, String) {
    let join = |field: &str| {
        let texts: Vec<_> = template.list("/spec/containers").iter().map(|container| container.text(field)).collect();
        texts.join(",")
    };
    (join("/name"), join("/image"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_have_two_units_where_they_matter() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (150, "2m30s"),
            (300, "5m"),
            (3600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (30 * 3600, "30h"),
            (50 * 3600, "2d2h"),
            (20 * 86_400, "20d"),
            (3 * 365 * 86_400, "3y"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn selectors_read_as_kubectl_prints_them() {
        let selector = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(label_selector(&selector), "a in (x,y),b=1,!c");
        assert_eq!(label_selector(&json!({})), "<none>");
    }
}
