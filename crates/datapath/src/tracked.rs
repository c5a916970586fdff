//! Makes connection tracking forget connections (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Error;
use crate::nfnetlink::{ACK, Attributes, Connection, DUMP, Header, NESTED, attribute, message};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_ID`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
/// `CTA_TUPLE_IP` with `CTA_IP_V4_SRC`, `CTA_IP_V6_SRC` and the same for destinations.
const ADDRESSES: u16 = 1;
const SOURCES: [u16; 2] = [1, 3];
const DESTINATIONS: [u16; 2] = [2, 4];
/// `CTA_TUPLE_PROTO` with `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT`.
const PROTOCOL: u16 = 2;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// `CTA_FILTER` with `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`, and the flag of `CTA_IP_SRC` (Linux 5.8).
const FILTER: u16 = 25;
const ORIGINAL_FLAGS: u16 = 1;
const REPLY_FLAGS: u16 = 2;
const SOURCE_FLAG: u32 = 1;
/// Tell of everything.
const DUMP_ALL: Header = Header { kind: GET, flags: DUMP, family: 0, resource: 0 };

/// A connection as connection tracking knows it, of a protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Number of the protocol.
    pub protocol: u8,
    /// Whom its opener called.
    pub called: SocketAddr,
    /// Who answers: another than was called, where the destination was translated.
    pub answering: SocketAddr,
}

/// Forgets the connections for which `which` says so, in the network namespace of the calling thread; says how many.
/// The next packet of a forgotten one is a first packet again, so that translation chooses anew.
///
/// # Errors
/// If the kernel cannot be asked or does not forget. A connection that has ended meanwhile is no error.
pub fn forget_connections(which: impl Fn(&Tracked) -> bool) -> Result<usize, Error> {
    let failed = |what| move |error| Error::Netlink { what, error };
    let connection = Connection::open().map_err(failed("open a socket to connection tracking"))?;
    let mut deletions = Vec::new();
    connection
        .request(&message(DUMP_ALL, &Attributes::default()), |_, attributes| {
            if read(attributes).is_some_and(|tracked| which(&tracked)) {
                deletions.extend(deletion(attributes));
            }
        })
        .map_err(failed("list connections"))?;
    let mut forgotten = 0;
    for deletion in deletions {
        forgotten += usize::from(forget(&connection, &deletion)?);
    }
    Ok(forgotten)
}

/// Forgets the connections that an address has opened or answers, of every protocol, in the network namespace of the
/// calling thread; says how many. The kernel looks through all connections, and tells only of these.
///
/// # Errors
/// If the kernel cannot be asked or does not forget. A connection that has ended meanwhile is no error.
pub fn forget_connections_of(address: IpAddr) -> Result<usize, Error> {
    let address = address.to_canonical();
    let failed = |what| move |error| Error::Netlink { what, error };
    let connection = Connection::open().map_err(failed("open a socket to connection tracking"))?;
    let mut deletions = Vec::new();
    for tuple in [ORIGINAL, REPLY] {
        let request = message(Header { family: family(address), ..DUMP_ALL }, &filter(tuple, address));
        let mut all = |_, attributes: &[u8]| {
            // A kernel that knows no filters tells of all.
            if source(attributes, tuple) == Some(address) {
                deletions.extend(deletion(attributes));
            }
        };
        connection.request(&request, &mut all).map_err(failed("list the connections of an address"))?;
    }
    let mut forgotten = 0;
    for deletion in deletions {
        forgotten += usize::from(forget(&connection, &deletion)?);
    }
    Ok(forgotten)
}

/// What a connection has to have to be told of: this address as the source of one direction. Of IPv6 all are told: there
/// Linux 6.18 tells of those that do not have the address.
fn filter(tuple: u16, address: IpAddr) -> Attributes {
    let IpAddr::V4(address) = address else { return Attributes::default() };
    let addresses = Attributes::default().put(SOURCES[0], &address.octets());
    let flags = |of| if of == tuple { SOURCE_FLAG } else { 0_u32 };
    let flags = Attributes::default()
        .put(ORIGINAL_FLAGS, &flags(ORIGINAL).to_ne_bytes())
        .put(REPLY_FLAGS, &flags(REPLY).to_ne_bytes());
    Attributes::default().nest(tuple, &Attributes::default().nest(ADDRESSES, &addresses)).nest(FILTER, &flags)
}

/// Forgets one connection; false if it was gone already.
fn forget(connection: &Connection, deletion: &[u8]) -> Result<bool, Error> {
    match connection.request(deletion, |_, _| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::Netlink { what: "forget a connection", error }),
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

/// Who sends in one direction of a connection.
fn source(attributes: &[u8], tuple: u16) -> Option<IpAddr> {
    let listed = attribute(attribute(attributes, tuple)?, ADDRESSES)?;
    SOURCES.iter().find_map(|kind| address(attribute(listed, *kind)?))
}

/// The message that deletes a connection: named by its ends, and by its id so that no later one of the same ends goes.
fn deletion(attributes: &[u8]) -> Option<Vec<u8>> {
    let (ends, id) = (attribute(attributes, ORIGINAL)?, attribute(attributes, ID)?);
    let family = family(source(attributes, ORIGINAL)?);
    let header = Header { kind: DELETE, flags: ACK, family, resource: 0 };
    Some(message(header, &Attributes::default().put(ORIGINAL | NESTED, ends).put(ID, id)))
}

fn read(attributes: &[u8]) -> Option<Tracked> {
    let original = attribute(attributes, ORIGINAL)?;
    Some(Tracked {
        protocol: *attribute(attribute(original, PROTOCOL)?, NUMBER)?.first()?,
        called: end(original, DESTINATIONS, DESTINATION_PORT)?,
        answering: end(attribute(attributes, REPLY)?, SOURCES, SOURCE_PORT)?,
    })
}

/// One end of one direction of a connection.
fn end(tuple: &[u8], addresses: [u16; 2], port: u16) -> Option<SocketAddr> {
    let listed = attribute(tuple, ADDRESSES)?;
    let address = addresses.iter().find_map(|kind| address(attribute(listed, *kind)?))?;
    let port = attribute(attribute(tuple, PROTOCOL)?, port)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port.try_into().ok()?)))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attributes the kernel sends of a connection.
    fn attributes(called: &str, answering: &str) -> Vec<u8> {
        let tuple = |source: &str, destination: &str| {
            let (source, destination): (SocketAddr, SocketAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let family = usize::from(source.is_ipv6());
            let addresses = Attributes::default()
                .put(SOURCES[family], &octets(source.ip()))
                .put(DESTINATIONS[family], &octets(destination.ip()));
            let protocol = Attributes::default()
                .put(NUMBER, &[17])
                .put(SOURCE_PORT, &source.port().to_be_bytes())
                .put(DESTINATION_PORT, &destination.port().to_be_bytes());
            Attributes::default().nest(ADDRESSES, &addresses).nest(PROTOCOL, &protocol)
        };
        let client = if called.starts_with('[') { "[fd00::9]:4000" } else { "10.0.0.9:4000" };
        let all = Attributes::default()
            .nest(ORIGINAL, &tuple(client, called))
            .nest(REPLY, &tuple(answering, client))
            .put(ID, &[1, 2, 3, 4]);
        // Without the header a message begins with.
        let header = Header { kind: GET, flags: 0, family: 0, resource: 0 };
        message(header, &all).split_off(20)
    }

    #[test]
    fn a_connection_is_read_as_called_and_as_answered() {
        for (called, answering) in
            [("10.97.0.20:53", "10.245.1.2:5353"), ("[fd00:10:97::14]:53", "[fd00:10:245:1::2]:5353")]
        {
            let expected =
                Tracked { protocol: 17, called: called.parse().unwrap(), answering: answering.parse().unwrap() };
            assert_eq!(read(&attributes(called, answering)), Some(expected));
        }
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_deletion_names_the_ends_and_the_id() {
        let deletion = deletion(&attributes("10.97.0.20:53", "10.245.1.2:5353")).unwrap();
        assert_eq!(deletion[16], u8::try_from(nix::libc::AF_INET).unwrap());
        let body = &deletion[20..];
        assert_eq!(attribute(body, ID), Some([1, 2, 3, 4].as_slice()));
        assert!(attribute(body, ORIGINAL).is_some() && attribute(body, REPLY).is_none());
    }
}
