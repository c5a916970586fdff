//! Entries of connection tracking over ctnetlink (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::nfnetlink::{ACK, Attributes, Connection, DUMP, Header, NESTED, attribute, message};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
pub(crate) const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_PROTOINFO`, `CTA_ID`.
pub(crate) const ORIGINAL: u16 = 1;
pub(crate) const REPLY: u16 = 2;
const PROTOCOL_STATE: u16 = 4;
pub(crate) const ID: u16 = 12;
/// `CTA_TUPLE_IP` with `CTA_IP_V4_SRC`, `CTA_IP_V6_SRC` and the same for destinations.
pub(crate) const ADDRESSES: u16 = 1;
pub(crate) const SOURCES: [u16; 2] = [1, 3];
pub(crate) const DESTINATIONS: [u16; 2] = [2, 4];
/// `CTA_TUPLE_PROTO` with `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT`.
pub(crate) const PROTOCOL: u16 = 2;
pub(crate) const NUMBER: u16 = 1;
pub(crate) const SOURCE_PORT: u16 = 2;
pub(crate) const DESTINATION_PORT: u16 = 3;
/// `CTA_PROTOINFO_TCP`, `CTA_PROTOINFO_TCP_STATE`, and the first state in which a connection is over
/// (`TCP_CONNTRACK_LAST_ACK`).
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const OVER: u8 = 6;
/// `CTA_FILTER` with `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`, and the flag of `CTA_IP_SRC`. With these the
/// kernel lists only connections whose source, in one direction, is the one in the message. Kernels before 5.8 list
/// all.
const FILTER: u16 = 25;
const ORIGINAL_FLAGS: u16 = 1;
const REPLY_FLAGS: u16 = 2;
const SOURCE_FLAG: u32 = 1;

/// Lists all connections in the network namespace of a socket. `each` is called with the attributes of each connection.
pub(crate) fn list(connection: &Connection, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let header = Header { kind: GET, flags: DUMP, family: 0, resource: 0 };
    connection.request(&message(header, &Attributes::default()), |_, attributes| each(attributes))
}

/// Lists the connections that have this address as the source of one direction. The kernel still walks its whole table,
/// but does not encode the other entries, which is most of the work. Some kernels list other connections too.
pub(crate) fn list_of(
    connection: &Connection,
    (direction, address): (u16, IpAddr),
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let header = Header { kind: GET, flags: DUMP, family: family(address), resource: 0 };
    connection.request(&message(header, &filter(direction, address)), |_, attributes| each(attributes))
}

/// Attributes that filter a dump by address. Dumps of IPv6 are not filtered: Linux 6.18 inverts that filter.
fn filter(direction: u16, address: IpAddr) -> Attributes {
    let IpAddr::V4(address) = address else { return Attributes::default() };
    let addresses = Attributes::default().put(SOURCES[0], &address.octets());
    let flags = |of| if of == direction { SOURCE_FLAG } else { 0_u32 };
    let flags = Attributes::default()
        .put(ORIGINAL_FLAGS, &flags(ORIGINAL).to_ne_bytes())
        .put(REPLY_FLAGS, &flags(REPLY).to_ne_bytes());
    Attributes::default().nest(direction, &Attributes::default().nest(ADDRESSES, &addresses)).nest(FILTER, &flags)
}

/// Returns the message that deletes a connection. It names the connection by its id too, so that no later connection
/// with the same addresses and ports is deleted.
pub(crate) fn deletion(attributes: &[u8]) -> Option<Vec<u8>> {
    let (ends, id) = (attribute(attributes, ORIGINAL)?, attribute(attributes, ID)?);
    let family = family(source(attributes, ORIGINAL)?);
    let header = Header { kind: DELETE, flags: ACK, family, resource: 0 };
    Some(message(header, &Attributes::default().put(ORIGINAL | NESTED, ends).put(ID, id)))
}

/// Returns the source address of one direction of a connection.
pub(crate) fn source(attributes: &[u8], direction: u16) -> Option<IpAddr> {
    address(attribute(attributes, direction)?, SOURCES)
}

/// Returns one end of one direction of a connection.
pub(crate) fn end(tuple: &[u8], addresses: [u16; 2], port: u16) -> Option<SocketAddr> {
    let port = attribute(attribute(tuple, PROTOCOL)?, port)?;
    Some(SocketAddr::new(address(tuple, addresses)?, u16::from_be_bytes(port.try_into().ok()?)))
}

/// True if both sides have closed a TCP connection.
pub(crate) fn is_over(attributes: &[u8]) -> bool {
    let state = attribute(attributes, PROTOCOL_STATE)
        .and_then(|state| attribute(state, TCP))
        .and_then(|tcp| attribute(tcp, TCP_STATE)?.first());
    state.is_some_and(|state| *state >= OVER)
}

fn address(tuple: &[u8], kinds: [u16; 2]) -> Option<IpAddr> {
    let listed = attribute(tuple, ADDRESSES)?;
    let bytes = kinds.iter().find_map(|kind| attribute(listed, *kind))?;
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}
