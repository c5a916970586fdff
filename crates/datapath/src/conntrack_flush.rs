//! Deletes entries of connection tracking.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::Error;
use crate::ctnetlink::{
    DESTINATION_PORT, DESTINATIONS, NUMBER, ORIGINAL, PROTOCOL, REPLY, SOURCE_PORT, SOURCES, deletion, end, list,
    list_of, source,
};
use crate::nfnetlink::{Connection, attribute};

/// An entry of connection tracking, of a protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// Number of the protocol.
    pub protocol: u8,
    /// Destination of the client's packets.
    pub original_destination: SocketAddr,
    /// The source of replies. It differs from the original destination if that was translated.
    pub reply_source: SocketAddr,
}

/// Deletes the entries that `which` selects, in the network namespace of the calling thread, and returns their number.
/// The next packet of a deleted connection counts as its first, so its destination is translated anew.
///
/// # Errors
/// If the kernel cannot be asked or does not forget. A connection that has ended meanwhile is no error.
pub fn delete_conntrack_entries(which: impl Fn(&ConntrackEntry) -> bool) -> Result<usize, Error> {
    let connection = open()?;
    let mut deletions = Vec::new();
    let found = list(&connection, |attributes| {
        if read(attributes).is_some_and(|tracked| which(&tracked)) {
            deletions.extend(deletion(attributes));
        }
    });
    found.map_err(failed("list connections"))?;
    delete(&connection, &deletions)
}

/// Up to so many addresses, the kernel filters the dump by address.
const MAX_FILTERED_DUMPS: usize = 8;

/// Deletes the entries of all connections that have one of these addresses as client or server, of every protocol, in
/// the network namespace of the calling thread. Returns their number. For a few IPv4 addresses the kernel filters the
/// dump by address. For many addresses, and for IPv6, all entries are read once.
///
/// # Errors
/// If the kernel cannot be asked or does not delete an entry. A connection that has ended meanwhile is no error.
pub fn delete_conntrack_entries_of(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
    let connection = open()?;
    let mut deletions = BTreeSet::new();
    let mut note = |attributes: &[u8]| {
        let has = |direction| source(attributes, direction).is_some_and(|source| addresses.contains(&source));
        if has(ORIGINAL) || has(REPLY) {
            deletions.extend(deletion(attributes));
        }
    };
    let found = if addresses.len() > MAX_FILTERED_DUMPS {
        list(&connection, &mut note)
    } else {
        filters(&addresses).try_for_each(|filter| list_of(&connection, filter, &mut note))
    };
    found.map_err(failed("list the connections of addresses"))?;
    delete(&connection, &deletions.into_iter().collect::<Vec<_>>())
}

/// The filtered dumps that cover all connections of these addresses. Dumps of IPv6 are unfiltered, so one is enough.
fn filters(addresses: &BTreeSet<IpAddr>) -> impl Iterator<Item = (u16, IpAddr)> + '_ {
    let four = addresses.iter().filter(|address| address.is_ipv4());
    let six = addresses.iter().find(|address| address.is_ipv6());
    let both = four.flat_map(|address| [ORIGINAL, REPLY].map(|direction| (direction, *address)));
    both.chain(six.map(|address| (ORIGINAL, *address)))
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Netlink { what, error }
}

fn open() -> Result<Connection, Error> {
    Connection::open().map_err(failed("open a socket to connection tracking"))
}

/// Sends messages that delete connections. Returns the number of connections that existed.
fn delete(connection: &Connection, deletions: &[Vec<u8>]) -> Result<usize, Error> {
    let mut deleted = 0;
    for deletion in deletions {
        match connection.request(deletion, |_, _| {}) {
            Ok(()) => deleted += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("forget a connection")(error)),
        }
    }
    Ok(deleted)
}

fn read(attributes: &[u8]) -> Option<ConntrackEntry> {
    let original = attribute(attributes, ORIGINAL)?;
    Some(ConntrackEntry {
        protocol: *attribute(attribute(original, PROTOCOL)?, NUMBER)?.first()?,
        original_destination: end(original, DESTINATIONS, DESTINATION_PORT)?,
        reply_source: end(attribute(attributes, REPLY)?, SOURCES, SOURCE_PORT)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctnetlink::{ADDRESSES, GET, ID};
    use crate::nfnetlink::{Attributes, Header, message};

    /// Returns the attributes that the kernel sends for a connection.
    fn attributes(original_destination: &str, reply_source: &str) -> Vec<u8> {
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
        let client = if original_destination.starts_with('[') { "[fd00::9]:4000" } else { "10.0.0.9:4000" };
        let all = Attributes::default()
            .nest(ORIGINAL, &tuple(client, original_destination))
            .nest(REPLY, &tuple(reply_source, client))
            .put(ID, &[1, 2, 3, 4]);
        // A message without its header.
        let header = Header { kind: GET, flags: 0, family: 0, resource: 0 };
        message(header, &all).split_off(20)
    }

    #[test]
    fn a_connection_is_read_as_called_and_as_answered() {
        for (original_destination, reply_source) in
            [("10.97.0.20:53", "10.245.1.2:5353"), ("[fd00:10:97::14]:53", "[fd00:10:245:1::2]:5353")]
        {
            let expected = ConntrackEntry {
                protocol: 17,
                original_destination: original_destination.parse().unwrap(),
                reply_source: reply_source.parse().unwrap(),
            };
            assert_eq!(read(&attributes(original_destination, reply_source)), Some(expected));
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
