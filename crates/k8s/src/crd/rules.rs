//! The rules of our schemas that API servers evaluate, as functions: there is a handful, so no language is interpreted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{admin, cluster, parts};
use crate::json::{at, get, items, text};

/// A function that returns true if a value satisfies a rule.
type Rule = fn(&Value) -> bool;

/// The rules by their text.
const RULES: &[(&str, Rule)] = &[
    (parts::CIDR.0, |value| is_cidr(text(value))),
    (cluster::ASCENDING.0, |range| get(range, "start").as_f64() < get(range, "end").as_f64()),
    (cluster::NAMED_PORTS.0, |rule| {
        !(has_peer(rule, &["networks", "nodes", "domainNames"]) && has_port(rule, "protocols", "destinationNamedPort"))
    }),
    (admin::NAMED_PORTS.0, |rule| {
        !(has_peer(rule, &["networks", "nodes", "domainNames"]) && has_port(rule, "ports", "namedPort"))
    }),
    (admin::BASELINE_NAMED_PORTS.0, |rule| {
        !(has_peer(rule, &["networks", "nodes"]) && has_port(rule, "ports", "namedPort"))
    }),
    (admin::ONLY.0, |object| text(at(object, &["metadata", "name"])) == "default"),
];

/// True if a value satisfies a rule. An unknown rule is never satisfied, so that nothing passes unchecked.
pub(crate) fn holds(rule: &str, value: &Value) -> bool {
    RULES.iter().any(|(known, holds)| *known == rule && holds(value))
}

/// True if a text matches a pattern of our schemas. An unknown pattern never matches.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    static PATTERNS: LazyLock<HashMap<&str, Regex>> = LazyLock::new(|| {
        let compiled = parts::PATTERNS.iter().filter_map(|pattern| Some((*pattern, Regex::new(pattern).ok()?)));
        compiled.collect()
    });
    PATTERNS.get(pattern).is_some_and(|pattern| pattern.is_match(text))
}

fn has_peer(rule: &Value, fields: &[&str]) -> bool {
    items(get(rule, "to")).iter().any(|peer| fields.iter().any(|field| !get(peer, field).is_null()))
}

fn has_port(rule: &Value, list: &str, field: &str) -> bool {
    items(get(rule, list)).iter().any(|port| !get(port, field).is_null())
}

/// A CIDR in the syntax of `isCIDR`: no leading zeros, no zone, not IPv4 within IPv6; host bits are permitted.
fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let plain = length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let Ok(length) = length.parse::<u8>() else { return false };
    plain
        && match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => length <= 32,
            Ok(IpAddr::V6(address)) => length <= 128 && address.to_ipv4_mapped().is_none(),
            Err(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Channel, KINDS, schema};

    #[test]
    fn every_rule_and_pattern_of_our_schemas_is_known() {
        fn walk(value: &Value, seen: &mut usize) {
            for entry in items(get(value, "x-kubernetes-validations")) {
                assert!(RULES.iter().any(|(rule, _)| *rule == text(get(entry, "rule"))), "{entry}");
                *seen += 1;
            }
            if let Some(pattern) = get(value, "pattern").as_str() {
                assert!(parts::PATTERNS.contains(&pattern) && Regex::new(pattern).is_ok(), "{pattern}");
                *seen += 1;
            }
            match value {
                Value::Object(fields) => fields.values().for_each(|value| walk(value, seen)),
                Value::Array(items) => items.iter().for_each(|value| walk(value, seen)),
                _ => {}
            }
        }
        let mut seen = 0;
        for kind in KINDS {
            for channel in Channel::ALL {
                walk(schema(kind, channel).unwrap(), &mut seen);
            }
        }
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn blocks() {
        for good in ["10.0.0.0/8", "10.1.2.3/8", "0.0.0.0/0", "fd00::/8", "::/0", "fd00::1/128"] {
            assert!(is_cidr(good), "{good}");
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/104",
            "fe80::%eth0/64",
            "fd00::/129",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/8/8",
        ] {
            assert!(!is_cidr(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_kept() {
        assert!(!holds("true", &Value::Null));
        assert!(!matches(".*", "x"));
        assert!(matches(parts::DOMAIN, "*.example.com.") && !matches(parts::DOMAIN, "com"));
    }
}
