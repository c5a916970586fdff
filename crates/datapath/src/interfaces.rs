//! Interfaces, and whether bridged packets reach netfilter.

use std::collections::HashMap;
use std::fs;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::Error;

/// Whether packets between two ports of a bridge pass netfilter: without, the program does not see neighbours on one
/// bridge talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeNetfilter {
    /// `net.bridge.bridge-nf-call-iptables`; none if the module `br_netfilter` is not loaded.
    pub ipv4: Option<bool>,
    /// `net.bridge.bridge-nf-call-ip6tables`.
    pub ipv6: Option<bool>,
}

impl BridgeNetfilter {
    /// Whether both families pass.
    pub fn is_on(self) -> bool {
        self.ipv4 == Some(true) && self.ipv6 == Some(true)
    }
}

/// Reads the state for the network namespace of the calling thread. It may change at any time.
pub fn bridge_netfilter() -> BridgeNetfilter {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/bridge/{name}")).ok()?;
        Some(text.trim() != "0")
    };
    BridgeNetfilter { ipv4: read("bridge-nf-call-iptables"), ipv6: read("bridge-nf-call-ip6tables") }
}

/// Which bridge (or other master) each interface of the calling thread's network namespace is a port of.
pub(crate) fn masters() -> Result<HashMap<u32, u32>, Error> {
    list_links().map_err(|source| Error::Netlink { what: "list the interfaces", source })
}

fn list_links() -> io::Result<HashMap<u32, u32>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let payload = RouteNetlinkMessage::GetLink(LinkMessage::default()).into();
    let mut request = NetlinkMessage::new(header, payload);
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut masters = HashMap::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if read_answer(&answer, &mut masters)? {
            return Ok(masters);
        }
    }
}

/// Returns whether it was the last.
fn read_answer(mut answer: &[u8], masters: &mut HashMap<u32, u32>) -> io::Result<bool> {
    while !answer.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map_err(|e| io::Error::other(e.to_string()))?;
        match &message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                masters.extend(link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::Controller(master) => Some((link.header.index, *master)),
                    _ => None,
                }));
            }
            _ => {}
        }
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        answer = answer.get(length..).unwrap_or_default();
    }
    Ok(false)
}
