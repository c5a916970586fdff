//! The rule that would allow a connection which default deny stopped.

use ringfence_model::Direction;

use crate::FlowEnd;

/// The rule, as a sentence. `protocol` is the protocol's name.
pub(crate) fn allow(direction: Direction, protocol: &str, source: &FlowEnd, destination: &FlowEnd) -> String {
    let (subject, word, peer) = match direction {
        Direction::Ingress => (destination, "from", source),
        Direction::Egress => (source, "to", destination),
    };
    let who = match (&peer.namespace, &peer.pod, peer.address) {
        (Some(namespace), Some(pod), _) => {
            format!("pods like {namespace}/{pod} (namespaceSelector and podSelector)")
        }
        (_, _, address) => {
            let length = if address.is_ipv4() { 32 } else { 128 };
            format!("ipBlock {address}/{length}")
        }
    };
    let port = destination.port.map(|port| format!(", port {port}/{protocol}")).unwrap_or_default();
    let pod = match (&subject.namespace, &subject.pod) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
        _ => "the pod".into(),
    };
    format!("allow {direction} {word} {who}{port} in a NetworkPolicy that selects {pod}")
}
