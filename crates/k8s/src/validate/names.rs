//! The syntax of names, label keys and values, and ports. Each check returns what is wrong, nothing if all is well.

/// Longest name of an object.
pub const SUBDOMAIN_MAX: usize = 253;
/// Longest DNS label, label value and name part of a label key.
pub const LABEL_MAX: usize = 63;

/// A DNS label (RFC 1123): namespaces, containers, port names of Services.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut details = too_long(text, LABEL_MAX);
    if !is_dns_label(text) {
        details.push(
            "must be a lower-case RFC 1123 label: letters a-z, digits and '-', beginning and ending with a letter or \
             digit (such as 'my-name' or '123-abc')"
                .to_owned(),
        );
    }
    details
}

/// A DNS label that begins with a letter (RFC 1035): Services.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut details = too_long(text, LABEL_MAX);
    if !is_dns_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        details.push(
            "must be an RFC 1035 label: letters a-z, digits and '-', beginning with a letter and ending with a letter \
             or digit (such as 'my-name' or 'abc-123')"
                .to_owned(),
        );
    }
    details
}

/// A DNS subdomain (RFC 1123): most objects.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut details = too_long(text, SUBDOMAIN_MAX);
    if !text.split('.').all(is_dns_label) {
        details.push(
            "must be a lower-case RFC 1123 subdomain: letters a-z, digits, '-' and '.', beginning and ending with a \
             letter or digit (such as 'example.com')"
                .to_owned(),
        );
    }
    details
}

/// A label or annotation key: `name` or `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if name.contains('/') {
        return vec![
            "must be a name, or a DNS subdomain and a name with one '/' between (such as 'example.com/MyName')"
                .to_owned(),
        ];
    }
    let mut details = Vec::new();
    match prefix {
        Some("") => details.push("the prefix before '/' may not be empty".to_owned()),
        Some(prefix) => details.extend(dns_subdomain(prefix).into_iter().map(|detail| format!("the prefix {detail}"))),
        None => {}
    }
    if name.is_empty() {
        details.push("the name may not be empty".to_owned());
        return details;
    }
    details.extend(too_long(name, LABEL_MAX).into_iter().map(|detail| format!("the name {detail}")));
    if !is_label_text(name) {
        details.push(format!("the name {LABEL_TEXT} (such as 'MyName', 'my.name' or '123-abc')"));
    }
    details
}

/// A label value; empty is fine.
pub fn label_value(text: &str) -> Vec<String> {
    let mut details = too_long(text, LABEL_MAX);
    if !text.is_empty() && !is_label_text(text) {
        details.push(format!("a label value must be empty or {LABEL_TEXT} (such as 'MyValue', 'my_value' or '12345')"));
    }
    details
}

/// The name of a port of a container (IANA service name, RFC 6335 5.1).
pub fn service_name(text: &str) -> Vec<String> {
    let mut details = too_long(text, 15);
    let mut check = |wrong: bool, detail: &str| {
        if wrong {
            details.push(detail.to_owned());
        }
    };
    let alphabet = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    check(!text.chars().all(alphabet), "a port name may contain only a-z, 0-9 and '-'");
    check(!text.contains(|c: char| c.is_ascii_lowercase()), "a port name must contain at least one letter (a-z)");
    check(text.contains("--"), "a port name may not contain two '-' in a row");
    check(text.starts_with('-') || text.ends_with('-'), "a port name may not begin or end with '-'");
    details
}

/// A port number.
pub fn port_number(number: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&number)).then_some("must be between 1 and 65535, inclusive")
}

const LABEL_TEXT: &str = "must consist of letters, digits, '-', '_' and '.', and begin and end with a letter or digit";

fn too_long(text: &str, max: usize) -> Vec<String> {
    if text.len() > max { vec![format!("must be no more than {max} bytes")] } else { Vec::new() }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_label_text(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.iter().all(|b| inner(*b)) && outer(bytes.first()) && outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Vec::<String>::new(), "{text:?}");
        }
        for text in bad {
            assert!(!rule(text).is_empty(), "{text:?} passed");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        check(dns_label, &["a", "1", "a-b", &long[..63]], &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long]);
        check(dns_1035_label, &["a", "a-1"], &["1a", "", "a."]);
        check(dns_subdomain, &["a.b", "1.2", &long], &["", ".", "a..b", "a.-b", "A.b", &"a".repeat(254)]);
        check(
            qualified_name,
            &["a", "A_b.c", "example.com/Name", "x/1"],
            &["", "/a", "a/", "a/b/c", "A.com/x", "a b", "-a", "a-", &long],
        );
        check(label_value, &["", "a", "A_b.c-1", "1"], &[" ", "a b", "-", "a/", &long]);
    }

    #[test]
    fn port_names() {
        check(
            service_name,
            &["http", "a", "8080-tcp", "x1"],
            &["", "8080", "HTTP", "a--b", "-a", "a-", "sixteen-letters-", "a_b"],
        );
        assert_eq!(service_name("-80--").len(), 3, "one message a broken rule");
        assert!(port_number(0).is_some() && port_number(1).is_none() && port_number(65535).is_none());
        assert!(port_number(65536).is_some());
    }
}
