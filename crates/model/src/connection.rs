//! What is judged.

use std::net::IpAddr;

use crate::{Name, Protocol};

/// A flow as it was opened: the first packet of it, after destination NAT and before source NAT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Who opens it.
    pub source: IpAddr,
    /// Who answers: the backend, not the Service address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port; 0 for protocols without ports. For ICMP and ICMPv6 the message type.
    pub port: u16,
    /// Where the packet was made.
    pub origin: Origin,
    /// Whether the destination was rewritten on the way (a Service). Tells a pod that calls itself through a Service
    /// from one that calls its own address.
    pub translated: bool,
    /// Whether it is open already and judged anew, not about to be opened.
    pub established: bool,
}

/// Where a packet was made.
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
