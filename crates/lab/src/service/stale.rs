//! UDP conversations that go on to where a Service led once and leads no more.
//!
//! Translation is chosen by a conversation's first packet and remembered by connection tracking for as long as packets
//! follow; UDP says nowhere that it is over. As kube-proxy does, what is remembered is forgotten once it is no longer
//! true, and the next packet chooses anew. TCP needs none of this: a connection to a pod that is gone ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ringfence_datapath::{ConntrackEntry, delete_conntrack_entries};
use ringfence_netns::Namespace;

use super::table::{Port, Protocol};

/// Number of UDP among the protocols of IP.
const UDP: u8 = 17;

/// UDP endpoints of Services: the endpoints that serve, ready for new conversations or only finishing old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Destinations {
    by_address: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
    by_node_port: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

impl Destinations {
    /// Those of all ports.
    pub(super) fn of(ports: &[Port]) -> Self {
        let mut all = Self::default();
        for port in ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            for address in &port.addresses {
                let original_destination = SocketAddr::new(*address, port.number);
                all.by_address.entry(original_destination).or_default().extend(&port.serving);
            }
            if let Some(number) = port.on_nodes {
                all.by_node_port.entry(number).or_default().extend(&port.serving);
            }
        }
        all
    }

    /// True if a conversation goes where it would not go now: to an endpoint that serves no more, by a Service that is
    /// gone, or untranslated to a Service that came later.
    fn is_stale(&self, entry: &ConntrackEntry, own: &[IpAddr]) -> bool {
        if entry.protocol != UDP {
            return false;
        }
        let of_node = || {
            own.contains(&entry.original_destination.ip())
                .then(|| self.by_node_port.get(&entry.original_destination.port()))
        };
        match self.by_address.get(&entry.original_destination).or_else(|| of_node().flatten()) {
            Some(serving) => !serving.contains(&entry.reply_source),
            None => entry.original_destination != entry.reply_source,
        }
    }

    /// Forgets in a node's namespace what is not true any more. `own` are the node's addresses.
    pub(super) fn sweep(&self, namespace: &str, own: &[IpAddr]) -> std::io::Result<()> {
        let inside = Namespace::open(namespace).map_err(std::io::Error::other)?;
        let forgotten = inside
            .run(|| delete_conntrack_entries(|entry| self.is_stale(entry, own)))
            .map_err(std::io::Error::other)?
            .map_err(std::io::Error::other)?;
        if forgotten > 0 {
            tracing::debug!(namespace, forgotten, "stale UDP conversations forgotten");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 89, 0, 11))];

    fn destinations(serving: &[&str]) -> Destinations {
        let serving: Vec<SocketAddr> = serving.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        Destinations::of(&[Port {
            name: "kube-system/dns/udp/53".into(),
            protocol: Protocol::Udp,
            addresses: vec!["10.97.0.10".parse().unwrap()],
            number: 53,
            on_nodes: Some(30053),
            sticky: false,
            endpoints: serving.clone(),
            serving,
        }])
    }

    fn is_stale(destinations: &Destinations, protocol: u8, original_destination: &str, reply_source: &str) -> bool {
        let entry = ConntrackEntry {
            protocol,
            original_destination: original_destination.parse().unwrap(),
            reply_source: reply_source.parse().unwrap(),
        };
        destinations.is_stale(&entry, &NODE)
    }

    #[test]
    fn conversations_with_endpoints_that_serve_stay() {
        let now = destinations(&["10.245.1.2:53"]);
        for original_destination in ["10.97.0.10:53", "10.89.0.11:30053"] {
            assert!(!is_stale(&now, UDP, original_destination, "10.245.1.2:53"), "{original_destination}");
            assert!(is_stale(&now, UDP, original_destination, "10.245.1.3:53"), "{original_destination}");
            assert!(!is_stale(&now, 6, original_destination, "10.245.1.3:53"), "TCP ends by itself");
        }
    }

    #[test]
    fn conversations_by_a_service_that_is_gone_or_came_later_go() {
        let now = destinations(&["10.245.1.2:53"]);
        assert!(is_stale(&now, UDP, "10.97.0.99:53", "10.245.1.2:53"), "the Service is gone");
        assert!(is_stale(&now, UDP, "10.97.0.10:53", "10.97.0.10:53"), "the Service came later");
        assert!(is_stale(&destinations(&[]), UDP, "10.97.0.10:53", "10.245.1.2:53"), "no endpoint is left");
    }

    #[test]
    fn conversations_without_a_service_stay() {
        let now = destinations(&["10.245.1.2:53"]);
        assert!(!is_stale(&now, UDP, "10.245.2.7:53", "10.245.2.7:53"));
        assert!(!is_stale(&now, UDP, "10.245.2.7:30053", "10.245.2.7:30053"), "a pod's port, not the node's");
    }
}
