//! Addresses of links.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Error, Netlink, Result};

impl Netlink {
    /// Adds an address to a link. IPv6 addresses skip duplicate address detection, so they are usable at once.
    /// Link-local addresses of both families get link scope, so that the kernel does not choose them as the source of
    /// packets that leave the link.
    pub fn add_address(&mut self, link: &str, address: IpNet) -> Result<()> {
        let index = self.link_index(link)?;
        self.change(RouteNetlinkMessage::NewAddress(message(index, address)), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| Error::new("add address", format!("{address} to {link}"), cause))
    }

    /// Removes an address from a link. No error if it does not exist.
    pub fn delete_address(&mut self, link: &str, address: IpNet) -> Result<()> {
        let index = self.link_index(link)?;
        let deleted = self
            .change(RouteNetlinkMessage::DelAddress(message(index, address)), 0)
            .map_err(|cause| Error::new("delete address", format!("{address} from {link}"), cause));
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Returns the addresses of all links: interface index and address with prefix length.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>> {
        let answers = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(|cause| Error::new("list", "addresses", cause))?;
        Ok(answers.into_iter().filter_map(parse).collect())
    }
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let ip = address.addr();
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.scope = if is_link_local(ip) { AddressScope::Link } else { AddressScope::Universe };
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    if ip.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The link and the address of a message.
pub(crate) fn parse(message: RouteNetlinkMessage) -> Option<(u32, IpNet)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    // IFA_LOCAL is the link's own address if the two differ (point to point). IPv6 often has only IFA_ADDRESS.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}
