//! The connection that policy decides about.

use std::net::IpAddr;

use crate::{Name, Protocol};

/// A flow as it was opened: the first packet of it, after destination NAT and before source NAT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The client.
    pub source: IpAddr,
    /// The server: the backend, not the Service address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port; 0 for protocols without ports. For ICMP and ICMPv6 the message type.
    pub port: u16,
    /// The origin of the packet.
    pub origin: Origin,
    /// True if the destination was translated (a Service). The flag distinguishes a pod that connects to itself through
    /// a Service from one that uses its own address.
    pub translated: bool,
    /// True if the connection is open already and is evaluated again.
    pub established: bool,
}

/// The origin of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// In the host network namespace of this node: kubelet, host-network pods.
    Node(Name),
    /// Anywhere else: in a pod, or outside; possibly forwarded (and masqueraded) by a node.
    Elsewhere,
}

impl Connection {
    /// ICMPv6 neighbour and router discovery (types 133–137, RFC 4861): never subject to policy. There is none over
    /// IPv4.
    pub fn is_neighbour_discovery(&self) -> bool {
        let over_v6 = self.source.is_ipv6() && self.destination.is_ipv6();
        over_v6 && self.protocol == Protocol::ICMPV6 && (133..=137).contains(&self.port)
    }
}
