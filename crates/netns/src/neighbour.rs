//! Static neighbour entries of links, and forwarding entries of VXLAN links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Error, Netlink, Result};

/// An Ethernet address.
pub type HardwareAddress = [u8; 6];

/// A neighbour that needs no resolution.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Name of the link.
    pub link: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub hardware_address: HardwareAddress,
}

/// A forwarding entry of a VXLAN link: the destination of frames for a hardware address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// Name of the VXLAN link.
    pub link: String,
    /// The destination of the frame.
    pub hardware_address: HardwareAddress,
    /// The peer with this hardware address.
    pub remote: IpAddr,
}

impl Netlink {
    /// Sets a neighbour entry, and replaces an earlier one.
    pub fn set_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        let message = self.neighbour_message(neighbour)?;
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|cause| Error::new("set neighbour", neighbour.address.to_string(), cause))
    }

    /// Deletes a neighbour entry. No error if it does not exist.
    pub fn delete_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        let message = self.neighbour_message(neighbour)?;
        gone(self.change(RouteNetlinkMessage::DelNeighbour(message), 0), "delete neighbour", neighbour.address)
    }

    /// Returns the permanent neighbour entries of a link.
    pub fn neighbours(&mut self, link: &str) -> Result<Vec<Neighbour>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let entries = self.permanent(link, family)?.into_iter().filter_map(|message| {
                let (address, hardware_address) = read(&message)?;
                Some(Neighbour { link: link.to_owned(), address, hardware_address })
            });
            found.extend(entries);
        }
        Ok(found)
    }

    /// Sets the destination of frames for a hardware address, and replaces an earlier one.
    pub fn set_forward(&mut self, forward: &Forward) -> Result<()> {
        let message = self.forward_message(forward)?;
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|cause| Error::new("set VXLAN peer", forward.remote.to_string(), cause))
    }

    /// Deletes a forwarding entry. No error if it does not exist.
    pub fn delete_forward(&mut self, forward: &Forward) -> Result<()> {
        let message = self.forward_message(forward)?;
        gone(self.change(RouteNetlinkMessage::DelNeighbour(message), 0), "delete VXLAN peer", forward.remote)
    }

    /// Returns the forwarding entries of a VXLAN link.
    pub fn forwards(&mut self, link: &str) -> Result<Vec<Forward>> {
        let entries = self.permanent(link, AddressFamily::Bridge)?;
        let read = |message: NeighbourMessage| {
            let (remote, hardware_address) = read(&message)?;
            Some(Forward { link: link.to_owned(), hardware_address, remote })
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// Returns the entries of a link that do not expire.
    fn permanent(&mut self, link: &str, family: AddressFamily) -> Result<Vec<NeighbourMessage>> {
        let index = self.link_index(link)?;
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        let answers = self
            .dump(RouteNetlinkMessage::GetNeighbour(message))
            .map_err(|cause| Error::new("list neighbours of", link, cause))?;
        let entries = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => Some(message),
            _ => None,
        });
        Ok(entries
            .filter(|message| message.header.ifindex == index && message.header.state == NeighbourState::Permanent)
            .collect())
    }

    fn neighbour_message(&mut self, neighbour: &Neighbour) -> Result<NeighbourMessage> {
        let family = if neighbour.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        self.entry(&neighbour.link, family, neighbour.address, neighbour.hardware_address)
    }

    fn forward_message(&mut self, forward: &Forward) -> Result<NeighbourMessage> {
        let mut message = self.entry(&forward.link, AddressFamily::Bridge, forward.remote, forward.hardware_address)?;
        // The entry is in the link itself, not in a bridge that the link may be a port of.
        message.header.flags = NeighbourFlags::Own;
        Ok(message)
    }

    fn entry(
        &mut self,
        link: &str,
        family: AddressFamily,
        address: IpAddr,
        hardware_address: HardwareAddress,
    ) -> Result<NeighbourMessage> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = self.link_index(link)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(address.into()),
            NeighbourAttribute::LinkLayerAddress(hardware_address.to_vec()),
        ];
        Ok(message)
    }
}

fn gone(result: std::io::Result<()>, operation: &'static str, object: IpAddr) -> Result<()> {
    match result.map_err(|cause| Error::new(operation, object.to_string(), cause)) {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn read(message: &NeighbourMessage) -> Option<(IpAddr, HardwareAddress)> {
    let (mut address, mut hardware_address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some((*ip).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some((*ip).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address = from_bytes(bytes),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                hardware_address = HardwareAddress::try_from(bytes.as_slice()).ok();
            }
            _ => {}
        }
    }
    Some((address?, hardware_address?))
}

/// Parses an address. The number of bytes decides its family.
fn from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    four.or_else(|_longer| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}
