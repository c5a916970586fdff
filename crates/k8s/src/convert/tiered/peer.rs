//! Subjects and peers.

use ringfence_model::{DomainPattern, IpBlock, NamespaceSelection, Peer, PodSelection, Selector};
use serde_json::Value;

use super::dialect::Dialect;
use crate::address::parse_cidr;
use crate::convert::selector::{self, NotUnderstood, list, object};
use crate::json::{get, text};
use crate::path::Path;

/// The pods a policy applies to: `namespaces` or `pods`.
pub(super) fn subject(value: &Value, path: &Path<'_>, dialect: &Dialect) -> Result<PodSelection, NotUnderstood> {
    let (form, value) = only_field(value, path, &dialect.peers[..2])?;
    pods(form, value, &path.field(form), dialect)
}

/// Converts an item of `from` or `to` to alternatives. The result is never empty.
pub(super) fn peers(
    value: &Value,
    path: &Path<'_>,
    known: &'static [&'static str],
    dialect: &Dialect,
) -> Result<Vec<Peer>, NotUnderstood> {
    let (form, value) = only_field(value, path, known)?;
    let path = path.field(form);
    match form {
        "networks" => each(value, &path, network),
        "domainNames" => each(value, &path, domain),
        "nodes" => Ok(vec![Peer::Nodes(selector::read(value, &path)?)]),
        _ => Ok(vec![Peer::Pods(pods(form, value, &path, dialect)?)]),
    }
}

fn pods(form: &str, value: &Value, path: &Path<'_>, dialect: &Dialect) -> Result<PodSelection, NotUnderstood> {
    if form == "namespaces" {
        let namespaces = NamespaceSelection::Matching(selector::read(value, path)?);
        return Ok(PodSelection { namespaces, pods: Selector::everything() });
    }
    object(value, path, &["namespaceSelector", "podSelector"])?;
    let read = |field: &'static str, optional: bool| match get(value, field) {
        Value::Null if !optional => Err(NotUnderstood::new(&path.field(field), "the selector is missing")),
        selector => selector::read(selector, &path.field(field)),
    };
    let namespaces = NamespaceSelection::Matching(read("namespaceSelector", dialect.any_namespace)?);
    Ok(PodSelection { namespaces, pods: read("podSelector", false)? })
}

fn network(value: &Value, path: &Path<'_>) -> Result<Peer, NotUnderstood> {
    let block = parse_cidr(text(value));
    let block = block.ok_or_else(|| NotUnderstood::new(path, format!("{value} is not a CIDR block")))?;
    Ok(Peer::Block(IpBlock::new(block, [])))
}

fn domain(value: &Value, path: &Path<'_>) -> Result<Peer, NotUnderstood> {
    if !is_domain_pattern(text(value)) {
        return Err(NotUnderstood::new(path, format!("{value} is not a domain name, nor *. and one")));
    }
    Ok(Peer::Domain(DomainPattern::new(text(value))))
}

/// Two or more labels, perhaps with `*.` before and a dot behind. Characters are the API server's business.
fn is_domain_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.contains('.') && name.split('.').all(|label| !label.is_empty() && !label.contains('*'))
}

/// Maps the items of a list that must have some.
fn each(
    value: &Value,
    path: &Path<'_>,
    map: fn(&Value, &Path<'_>) -> Result<Peer, NotUnderstood>,
) -> Result<Vec<Peer>, NotUnderstood> {
    match list(value, path)? {
        [] => Err(NotUnderstood::new(path, "the list is empty")),
        items => items.iter().enumerate().map(|(i, item)| map(item, &path.index(i))).collect(),
    }
}

/// The one field that is set of an object that must have exactly one of `known`.
pub(super) fn only_field<'v>(
    value: &'v Value,
    path: &Path<'_>,
    known: &'static [&'static str],
) -> Result<(&'static str, &'v Value), NotUnderstood> {
    object(value, path, known)?;
    let mut set = known.iter().map(|field| (*field, get(value, field))).filter(|(_, value)| !value.is_null());
    match (set.next(), set.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(NotUnderstood::new(path, format!("one of {} is needed", known.join(", ")))),
        (Some((one, _)), Some((other, _))) => {
            Err(NotUnderstood::new(path, format!("{one} and {other} exclude each other")))
        }
    }
}
