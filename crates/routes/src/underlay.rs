//! The properties of a node's links that routes between nodes depend on.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_netns::{Netlink, Result};

use crate::TUNNELS;

/// A link of the node that is up and has addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its addresses, with the length of the prefix that is on the link.
    pub addresses: Vec<IpNet>,
}

impl Interface {
    /// True if an address is on the link.
    pub(crate) fn reaches(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.contains(&address) && own.prefix_len() < own.max_prefix_len())
    }

    /// True if the link has an address.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
    }
}

/// The links of the namespace by which other nodes may be reached: not the loopback link, nor those made here.
pub fn interfaces(netlink: &mut Netlink) -> Result<Vec<Interface>> {
    let addresses = netlink.addresses()?;
    let links = netlink.links()?;
    let interface = |link: ringfence_netns::Link| {
        let own = addresses.iter().filter(|(index, own)| *index == link.index && !own.addr().is_loopback());
        let addresses: Vec<IpNet> = own.map(|(_, own)| *own).collect();
        let usable = link.up && !addresses.is_empty() && !TUNNELS.contains(&link.name.as_str());
        usable.then_some(Interface { name: link.name, mtu: link.mtu, addresses })
    };
    Ok(links.into_iter().filter_map(interface).collect())
}
