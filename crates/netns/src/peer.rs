//! The other end of a link, requested from the kernel without entering its namespace.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::{Error, HardwareAddress, Link, Netlink, Result, address, link};

/// `IFLA_TARGET_NETNSID` (`include/uapi/linux/if_link.h`), `IFA_TARGET_NETNSID` (`include/uapi/linux/if_addr.h`).
const LINK_TARGET_NAMESPACE: u16 = 46;
const ADDRESS_TARGET_NAMESPACE: u16 = 10;

/// The other end of a link, as its own namespace sees it now. Processes in that namespace may change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Hardware address, if it is an Ethernet link.
    pub hardware_address: Option<HardwareAddress>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Netlink {
    /// Returns the other end of a link, if it is in another namespace. None if there is no other end, or it has just
    /// been deleted. Needs `CAP_NET_ADMIN` over that namespace.
    pub fn peer(&mut self, of: &Link) -> Result<Option<Peer>> {
        let (Some(namespace), Some(index)) = (of.peer_namespace, of.peer) else { return Ok(None) };
        let peer = self.peer_in(namespace, index);
        match peer.map_err(|cause| Error::new("look at the other end of link", &of.name, cause)) {
            Err(error) if error.is_not_found() => Ok(None),
            peer => peer,
        }
    }

    fn peer_in(&mut self, namespace: i32, index: u32) -> io::Result<Option<Peer>> {
        let number = |kind| DefaultNla::new(kind, namespace.to_ne_bytes().to_vec());
        let mut question = LinkMessage::default();
        question.header.index = index;
        question.attributes = vec![LinkAttribute::Other(number(LINK_TARGET_NAMESPACE))];
        let Some(end) = self.get(RouteNetlinkMessage::GetLink(question))?.and_then(link::read) else {
            return Ok(None);
        };
        let mut question = AddressMessage::default();
        question.header.index = index;
        question.attributes = vec![AddressAttribute::Other(number(ADDRESS_TARGET_NAMESPACE))];
        let answers = self.dump(RouteNetlinkMessage::GetAddress(question))?;
        let addresses = answers.into_iter().filter_map(address::parse).map(|(_, net)| net.addr()).collect();
        Ok(Some(Peer { hardware_address: end.hardware_address.as_slice().try_into().ok(), addresses }))
    }
}
