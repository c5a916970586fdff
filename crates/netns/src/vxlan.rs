//! VXLAN links: Ethernet frames in UDP packets, to peers with static entries.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};

use crate::{Error, HardwareAddress, Netlink, Result};

/// A VXLAN link without learning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vxlan {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// Network identifier, 24 bits.
    pub id: u32,
    /// UDP port of all peers.
    pub port: u16,
    /// Source address of its packets. All peers are of the same family.
    pub local: IpAddr,
    /// Its hardware address.
    pub hardware_address: HardwareAddress,
    /// Its MTU, in bytes.
    pub mtu: u32,
}

impl Netlink {
    /// Creates a VXLAN link, which is down.
    pub fn add_vxlan(&mut self, vxlan: &Vxlan) -> Result<()> {
        let local = match vxlan.local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        };
        let data = vec![InfoVxlan::Id(vxlan.id), local, InfoVxlan::Port(vxlan.port), InfoVxlan::Learning(false)];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(vxlan.name.clone()),
            LinkAttribute::Address(vxlan.hardware_address.to_vec()),
            LinkAttribute::Mtu(vxlan.mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
        ];
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| Error::new("create VXLAN link", &vxlan.name, cause))
    }

    /// Returns the VXLAN link of this name. None if there is no such link or it is of another kind.
    pub fn vxlan(&mut self, name: &str) -> Result<Option<Vxlan>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let answer =
            self.get(RouteNetlinkMessage::GetLink(message)).map_err(|cause| Error::new("find link", name, cause));
        match answer {
            Ok(answer) => Ok(answer.and_then(|answer| parse(name, answer))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn parse(name: &str, message: RouteNetlinkMessage) -> Option<Vxlan> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let (mut mtu, mut hardware_address, mut data) = (0, None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Mtu(value) => mtu = value,
            LinkAttribute::Address(bytes) => hardware_address = HardwareAddress::try_from(bytes).ok(),
            LinkAttribute::LinkInfo(infos) => {
                data = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let (mut id, mut port, mut local) = (None, None, None);
    for info in data? {
        match info {
            InfoVxlan::Id(value) => id = Some(value),
            InfoVxlan::Port(value) => port = Some(value),
            InfoVxlan::Local(ip) => local = Some(ip.into()),
            InfoVxlan::Local6(ip) => local = Some(ip.into()),
            _ => {}
        }
    }
    Some(Vxlan { name: name.to_owned(), id: id?, port: port?, local: local?, hardware_address: hardware_address?, mtu })
}
