//! Tunnels that end at a link: the kernel decapsulates packets to them and processes the inner packet.

use netlink_packet_route::link::{InfoBareUdp, InfoData, InfoGeneve, InfoGre, InfoIpTunnel, InfoKind, InfoVxlan};

/// The protocol and port of a tunnel's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// IP protocol.
    pub protocol: u8,
    /// Destination port; 0 if the protocol has none.
    pub port: u16,
}

/// IP protocols (<https://www.iana.org/assignments/protocol-numbers>).
const IPIP: u8 = 4;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const GRE: u8 = 47;
/// Ports of GTP version 0 and 1 (3GPP TS 29.281), which `gtp` links do not report.
const GTP: [u16; 2] = [3386, 2152];
/// Port of AMT (RFC 7450), of PFCP (3GPP TS 29.244).
const AMT: u16 = 2268;
const PFCP: u16 = 8805;

impl Tunnel {
    /// A tunnel in UDP.
    pub const fn udp(port: u16) -> Self {
        Self { protocol: UDP, port }
    }

    const fn whole(protocol: u8) -> Self {
        Self { protocol, port: 0 }
    }
}

/// Returns the tunnels that end at a link of some kind. None for kinds that authenticate packets (WireGuard, IPsec).
pub(crate) fn of(kind: &InfoKind, data: Option<&InfoData>) -> Vec<Tunnel> {
    let mut found: Vec<Tunnel> = match kind {
        InfoKind::GreTun
        | InfoKind::GreTap
        | InfoKind::GreTun6
        | InfoKind::GreTap6
        | InfoKind::ErSpan
        | InfoKind::Ip6ErSpan => vec![Tunnel::whole(GRE)],
        // Each of these links can be set to accept either protocol.
        InfoKind::IpIp | InfoKind::SitTun | InfoKind::Ip6Tnl => vec![Tunnel::whole(IPIP), Tunnel::whole(IPV6)],
        InfoKind::Gtp => GTP.map(Tunnel::udp).into(),
        InfoKind::Amt => vec![Tunnel::udp(AMT)],
        InfoKind::Pfcp => vec![Tunnel::udp(PFCP)],
        _ => Vec::new(),
    };
    found.extend(data.into_iter().flat_map(ports).filter(|port| *port != 0).map(Tunnel::udp));
    found
}

/// Returns the UDP ports of a link.
fn ports(data: &InfoData) -> Vec<u16> {
    match data {
        InfoData::Vxlan(attributes) => collect(attributes, |one| match one {
            InfoVxlan::Port(port) => Some(*port),
            _ => None,
        }),
        InfoData::Geneve(attributes) => collect(attributes, |one| match one {
            InfoGeneve::Port(port) => Some(*port),
            _ => None,
        }),
        InfoData::BareUdp(attributes) => collect(attributes, |one| match one {
            InfoBareUdp::Port(port) => Some(*port),
            _ => None,
        }),
        // With UDP encapsulation (FOU, GUE) both ends usually use the same port. The receivers are in `fou`.
        InfoData::IpTunnel(attributes) => collect(attributes, |one| match one {
            InfoIpTunnel::EncapDPort(port) => Some(*port),
            _ => None,
        }),
        InfoData::GreTun(attributes) | InfoData::GreTap(attributes) => collect(attributes, |one| match one {
            InfoGre::DestinationPort(port) => Some(*port),
            _ => None,
        }),
        _ => Vec::new(),
    }
}

fn collect<T>(attributes: &[T], port: impl Fn(&T) -> Option<u16>) -> Vec<u16> {
    attributes.iter().filter_map(port).collect()
}
