//! Plain YAML scalars as kubectl reads them: as YAML 1.1, converted to JSON.

use serde_json::{Number, Value};

/// The value of a scalar that is neither quoted nor tagged.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Value::Bool(false),
        _ => number(text).map_or_else(|| text.into(), Value::Number),
    }
}

/// The value of a scalar with a tag of the core schema; `None` if it does not fit.
pub(super) fn tagged(tag: &str, text: &str) -> Option<Value> {
    match (tag, plain(text)) {
        ("str", _) => Some(text.into()),
        ("int", value @ Value::Number(_)) if value.is_i64() || value.is_u64() => Some(value),
        ("float", value @ Value::Number(_)) | ("bool", value @ Value::Bool(_)) | ("null", value @ Value::Null) => {
            Some(value)
        }
        _ => None,
    }
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    integer(&digits).or_else(|| float(&digits))
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let size = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(size.into());
    }
    0i64.checked_sub_unsigned(size).map(Number::from)
}

fn float(text: &str) -> Option<Number> {
    let allowed = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    if !text.chars().all(allowed) || !text.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    // In JSON a whole number is one however it was written.
    let whole = value.fract() == 0.0 && value.abs() < 1e15;
    if whole { format!("{value:.0}").parse::<i64>().ok().map(Number::from) } else { Number::from_f64(value) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("80", json!(80)),
            ("-1", json!(-1)),
            ("+1", json!(1)),
            ("1_000", json!(1000)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("017", json!(15)),
            ("0080", json!(80)),
            ("0", json!(0)),
            ("80.0", json!(80)),
            ("1e3", json!(1000)),
            (".5", json!(0.5)),
            ("1.5", json!(1.5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("10.0.0.0/8", json!("10.0.0.0/8")),
            ("1.2.3", json!("1.2.3")),
            ("-", json!("-")),
            ("--1", json!("--1")),
            ("0x", json!("0x")),
            ("-0x-1", json!("-0x-1")),
            ("2024-01-02", json!("2024-01-02")),
            ("web", json!("web")),
            ("<<", json!("<<")),
            (".", json!(".")),
            ("+.e", json!("+.e")),
        ] {
            assert_eq!(plain(text), value, "{text:?}");
        }
    }

    #[test]
    fn tags_of_the_core_schema() {
        assert_eq!(tagged("str", "80"), Some(json!("80")));
        assert_eq!(tagged("int", "80"), Some(json!(80)));
        assert_eq!(tagged("int", "x"), None);
        assert_eq!(tagged("bool", "yes"), Some(json!(true)));
    }
}
