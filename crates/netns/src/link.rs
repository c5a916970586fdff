//! Links: created (veth pairs across namespaces, bridges), changed, found and deleted.

use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

use crate::tunnel::{self, Tunnel};
use crate::{Error, Namespace, Netlink, Result};

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// The kind, such as `veth`; empty for hardware.
    pub kind: String,
    /// Hardware address; empty where there is none.
    pub hardware_address: Vec<u8>,
    /// True if the link is administratively up.
    pub up: bool,
    /// Index of the bridge it belongs to, if any.
    pub controller: Option<u32>,
    /// Index of the other end of a veth pair, in the other end's namespace.
    pub peer: Option<u32>,
    /// Id of the peer's namespace in this one, if it is another. Only the kernel can resolve the id.
    pub peer_namespace: Option<i32>,
    /// Tunnels that end here.
    pub tunnels: Vec<Tunnel>,
    /// Its MTU, in bytes.
    pub mtu: u32,
}

/// One end of a veth pair: its name and the namespace it lives in.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Interface name, at most 15 bytes.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a Namespace,
}

impl Netlink {
    /// Creates a veth pair, each end in its namespace from the start. Neither end ever appears in the namespace of this
    /// connection or of the caller.
    pub fn add_veth(&mut self, here: VethEnd<'_>, there: VethEnd<'_>, mtu: Option<u32>) -> Result<()> {
        let mut message = end_message(here, mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end_message(there, mtu)))),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| Error::new("create veth pair", format!("{}–{}", here.name, there.name), cause))
    }

    /// Creates a bridge.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| Error::new("create bridge", name, cause))
    }

    /// Returns all links, by index.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(|cause| Error::new("list", "links", cause))?;
        let mut links: Vec<Link> = answers.into_iter().filter_map(read).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// Returns the link of this name, if there is one.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.find(message, name)
    }

    /// Returns the link of this index, if there is one.
    pub fn find_index(&mut self, index: u32) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.find(message, &format!("number {index}"))
    }

    fn find(&mut self, message: LinkMessage, called: &str) -> Result<Option<Link>> {
        let answer =
            self.get(RouteNetlinkMessage::GetLink(message)).map_err(|cause| Error::new("find link", called, cause));
        match answer {
            Ok(answer) => Ok(answer.and_then(read)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the index of the link of this name.
    pub fn link_index(&mut self, name: &str) -> Result<u32> {
        let absent = || Error::new("find link", name, std::io::Error::from(std::io::ErrorKind::NotFound));
        self.find_link(name)?.map(|link| link.index).ok_or_else(absent)
    }

    /// Sets a link up.
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        let mut message = self.existing(name)?;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), 0).map_err(|cause| Error::new("set up link", name, cause))
    }

    /// Sets a link down.
    pub fn set_down(&mut self, name: &str) -> Result<()> {
        let mut message = self.existing(name)?;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), 0).map_err(|cause| Error::new("set down link", name, cause))
    }

    /// Renames a link.
    pub fn rename_link(&mut self, name: &str, to: &str) -> Result<()> {
        let mut message = self.existing(name)?;
        message.attributes.push(LinkAttribute::IfName(to.to_owned()));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|cause| Error::new("rename link", format!("{name} to {to}"), cause))
    }

    /// Makes a link accept packets whose reply would leave by another link: loose reverse path filtering (RFC 3704),
    /// for IPv4. Netlink is used because `/proc/sys` is read-only in most containers.
    pub fn set_loose_reverse_path(&mut self, name: &str) -> Result<()> {
        let mut message = self.existing(name)?;
        let mut settings = InetDevConf::default();
        settings.rp_filter = 2;
        let inet = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![inet]));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|cause| Error::new("set reverse path filtering of link", name, cause))
    }

    /// Makes a link a port of a bridge.
    pub fn set_controller(&mut self, name: &str, bridge: &str) -> Result<()> {
        let bridge_index = self.link_index(bridge)?;
        let mut message = self.existing(name)?;
        message.attributes.push(LinkAttribute::Controller(bridge_index));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|cause| Error::new("attach to bridge link", name, cause))
    }

    /// Deletes a link, and with a veth its other end. No error if it does not exist.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let Some(found) = self.find_link(name)? else { return Ok(()) };
        let mut message = LinkMessage::default();
        message.header.index = found.index;
        let deleted = self
            .change(RouteNetlinkMessage::DelLink(message), 0)
            .map_err(|cause| Error::new("delete link", name, cause));
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    fn existing(&mut self, name: &str) -> Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.header.index = self.link_index(name)?;
        Ok(message)
    }
}

fn end_message(end: VethEnd<'_>, mtu: Option<u32>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(end.name.to_owned()), LinkAttribute::NetNsFd(end.namespace.as_fd().as_raw_fd())];
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
}

/// Parses the link of a message.
pub(crate) fn read(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        hardware_address: Vec::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        controller: None,
        peer: None,
        peer_namespace: None,
        tunnels: Vec::new(),
        mtu: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(address) => link.hardware_address = address,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(number),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => link.take(&infos),
            _ => {}
        }
    }
    Some(link)
}

impl Link {
    fn take(&mut self, infos: &[LinkInfo]) {
        let Some(kind) = infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }) else {
            return;
        };
        let data = infos.iter().find_map(|info| match info {
            LinkInfo::Data(data) => Some(data),
            _ => None,
        });
        self.kind = kind.to_string();
        self.tunnels = tunnel::of(kind, data);
    }
}
