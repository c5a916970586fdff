//! Destination ports, in the words of both versions.

use ringfence_model::{PortMatch, PortRange, Protocol};
use serde_json::Value;

use super::peer::only_field;
use crate::convert::cluster::{port_number, protocol as protocol_name};
use crate::convert::selector::{NotUnderstood, object};
use crate::json::get;
use crate::path::Path;

/// An item of `protocols` (v1alpha2). A protocol without `destinationPort` is all its ports.
pub(super) fn protocol(value: &Value, path: &Path<'_>) -> Result<PortMatch, NotUnderstood> {
    let (form, value) = only_field(value, path, &["tcp", "udp", "sctp", "destinationNamedPort"])?;
    let path = path.field(form);
    let protocol = match form {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        _ => return named(value, &path),
    };
    object(value, &path, &["destinationPort"])?;
    let port = get(value, "destinationPort");
    if port.is_null() {
        return Ok(PortMatch::Range(PortRange::all(protocol)));
    }
    let path = path.field("destinationPort");
    let (form, value) = only_field(port, &path, &["number", "range"])?;
    let path = path.field(form);
    if form == "number" {
        return Ok(PortMatch::Range(PortRange::single(protocol, port_number(value, &path)?)));
    }
    object(value, &path, &["start", "end"])?;
    range(protocol, value, &path)
}

/// An item of `ports` (v1alpha1).
pub(super) fn port(value: &Value, path: &Path<'_>) -> Result<PortMatch, NotUnderstood> {
    let (form, value) = only_field(value, path, &["portNumber", "portRange", "namedPort"])?;
    let path = path.field(form);
    let protocol = || {
        let value = get(value, "protocol");
        protocol_name(value)
            .ok_or_else(|| NotUnderstood::new(&path.field("protocol"), format!("unknown protocol {value}")))
    };
    match form {
        "portNumber" => {
            object(value, &path, &["protocol", "port"])?;
            let number = port_number(get(value, "port"), &path.field("port"))?;
            Ok(PortMatch::Range(PortRange::single(protocol()?, number)))
        }
        "portRange" => {
            object(value, &path, &["protocol", "start", "end"])?;
            range(protocol()?, value, &path)
        }
        _ => named(value, &path),
    }
}

/// A container port of this name, of any protocol.
fn named(value: &Value, path: &Path<'_>) -> Result<PortMatch, NotUnderstood> {
    match value {
        Value::String(name) if !name.is_empty() => Ok(PortMatch::Named { protocol: None, name: name.as_str().into() }),
        _ => Err(NotUnderstood::new(path, format!("{value} is not a port name"))),
    }
}

/// `start` may be `end`: v1alpha2 refuses that, v1alpha1 does not, and it is clear what it means.
fn range(protocol: Protocol, value: &Value, path: &Path<'_>) -> Result<PortMatch, NotUnderstood> {
    let first = port_number(get(value, "start"), &path.field("start"))?;
    let last = port_number(get(value, "end"), &path.field("end"))?;
    if last < first {
        return Err(NotUnderstood::new(&path.field("end"), format!("end {last} is less than start {first}")));
    }
    Ok(PortMatch::Range(PortRange { protocol, first, last }))
}
