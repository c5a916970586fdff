//! Routes of the main table, and the lookup from a pod's address to its link.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Error, Netlink, Result};

/// The main routing table.
pub const MAIN_TABLE: u8 = RouteHeader::RT_TABLE_MAIN;
/// Protocol of routes that an administrator created (`RTPROT_STATIC`).
const STATIC: u8 = 4;

/// A route, or an unreachable one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The destination; a prefix of length 0 is the default route.
    pub destination: IpNet,
    /// Next hop. None: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Name of the outgoing link. None: the kernel finds it by the gateway.
    pub link: Option<String>,
    /// Source address of the node's own packets along this route.
    pub source: Option<IpAddr>,
    /// True if packets are refused with an ICMP error instead of being forwarded.
    pub unreachable: bool,
    /// The table it is in.
    pub table: u8,
    /// The protocol that created it, by its number in `/etc/iproute2/rt_protos`.
    pub protocol: u8,
}

impl Route {
    fn to(destination: IpNet) -> Self {
        let (table, protocol) = (MAIN_TABLE, STATIC);
        Self { destination, gateway: None, link: None, source: None, unreachable: false, table, protocol }
    }

    /// A route directly over a link.
    pub fn direct(destination: IpNet, link: &str) -> Self {
        Self { link: Some(link.to_owned()), ..Self::to(destination) }
    }

    /// A route that refuses packets to the destination, unless a longer prefix matches.
    pub fn unreachable(destination: IpNet) -> Self {
        Self { unreachable: true, ..Self::to(destination) }
    }

    /// A route over a gateway, found by the kernel.
    pub fn via(destination: IpNet, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::to(destination) }
    }

    /// The same, with a source address for the node's own packets.
    #[must_use]
    pub fn from_source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// The same route, of a protocol that identifies its owner.
    #[must_use]
    pub fn by(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }

    /// The same, in another table.
    #[must_use]
    pub fn in_table(mut self, table: u8) -> Self {
        self.table = table;
        self
    }

    /// The same, over this link even if no address makes the gateway look reachable.
    #[must_use]
    pub fn on_link(mut self, link: &str) -> Self {
        self.link = Some(link.to_owned());
        self
    }
}

impl Netlink {
    /// Sets a route, and replaces one to the same destination.
    pub fn set_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route_message(route)?;
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|cause| Error::new("set route to", route.destination.to_string(), cause))
    }

    /// Deletes a route. No error if it does not exist.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route_message(route)?;
        let deleted = self
            .change(RouteNetlinkMessage::DelRoute(message), 0)
            .map_err(|cause| Error::new("delete route to", route.destination.to_string(), cause));
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Returns all routes that a protocol created, in every table, of both families.
    pub fn routes_by(&mut self, protocol: u8) -> Result<Vec<Route>> {
        let names: HashMap<u32, String> = self.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        let mut found = Vec::new();
        for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = address_family;
            let answers = self
                .dump(RouteNetlinkMessage::GetRoute(message))
                .map_err(|cause| Error::new("list", "routes", cause))?;
            found.extend(answers.into_iter().filter_map(|answer| parse(answer, protocol, &names)));
        }
        Ok(found)
    }

    /// Returns the index of the link by which exactly this address is reached: that of its host route (/32 or /128).
    /// None if only a wider route, a local address or nothing matches, or if the address is behind a gateway.
    pub fn route_ifindex(&mut self, address: IpAddr) -> Result<Option<u32>> {
        let host = IpNet::from(address);
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = host.prefix_len();
        // The matching entry, not the cloned result, which is always a host route.
        message.header.flags = RouteFlags::FibMatch;
        message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(address))];
        match self.get(RouteNetlinkMessage::GetRoute(message)) {
            Ok(Some(RouteNetlinkMessage::NewRoute(found))) => Ok(host_route_link(&found, host.prefix_len())),
            Ok(_) => Ok(None),
            Err(cause) if is_unreachable(&cause) => Ok(None),
            Err(cause) => Err(Error::new("look up route to", address.to_string(), cause)),
        }
    }

    fn route_message(&mut self, route: &Route) -> Result<RouteMessage> {
        let destination = route.destination.trunc();
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(destination.addr()),
            destination_prefix_length: destination.prefix_len(),
            table: route.table,
            protocol: RouteProtocol::from(route.protocol),
            scope: if route.gateway.is_some() || route.unreachable || destination.addr().is_ipv6() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            },
            kind: if route.unreachable { RouteType::Unreachable } else { RouteType::Unicast },
            ..RouteHeader::default()
        };
        if destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(destination.addr().into()));
        }
        message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
        if let Some(link) = &route.link {
            message.attributes.push(RouteAttribute::Oif(self.link_index(link)?));
            if route.gateway.is_some() {
                message.header.flags |= RouteFlags::Onlink;
            }
        }
        Ok(message)
    }
}

fn parse(message: RouteNetlinkMessage, protocol: u8, names: &HashMap<u32, String>) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = message.header;
    if u8::from(header.protocol) != protocol {
        return None;
    }
    let everywhere: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut route = Route::to(IpNet::new(everywhere, header.destination_prefix_length).ok()?);
    (route.table, route.protocol) = (header.table, protocol);
    route.unreachable = header.kind == RouteType::Unreachable;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                route.destination = IpNet::new(address(&to)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(via) => route.gateway = address(&via),
            RouteAttribute::PrefSource(from) => route.source = address(&from),
            // The kernel reports unreachable routes of IPv6 on the loopback link.
            RouteAttribute::Oif(index) if !route.unreachable => route.link = names.get(&index).cloned(),
            _ => {}
        }
    }
    Some(route)
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn host_route_link(found: &RouteMessage, host_length: u8) -> Option<u32> {
    let behind = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    if found.header.destination_prefix_length != host_length
        || found.header.kind != RouteType::Unicast
        || found.attributes.iter().any(behind)
    {
        return None;
    }
    found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn is_unreachable(cause: &io::Error) -> bool {
    matches!(
        cause.raw_os_error(),
        Some(nix::libc::ENETUNREACH | nix::libc::EHOSTUNREACH | nix::libc::ESRCH | nix::libc::EINVAL)
    )
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
