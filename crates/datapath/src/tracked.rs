//! Makes connection tracking forget connections.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::Error;
use crate::entries::{
    DESTINATION_PORT, DESTINATIONS, NUMBER, ORIGINAL, PROTOCOL, REPLY, SOURCE_PORT, SOURCES, deletion, end, list,
    list_of, source,
};
use crate::nfnetlink::{Connection, attribute};

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
    let connection = open()?;
    let mut deletions = Vec::new();
    let found = list(&connection, |attributes| {
        if read(attributes).is_some_and(|tracked| which(&tracked)) {
            deletions.extend(deletion(attributes));
        }
    });
    found.map_err(failed("list connections"))?;
    forget(&connection, &deletions)
}

/// So many addresses at most are asked about one by one.
const ASKED_ONE_BY_ONE: usize = 8;

/// Forgets the connections that addresses have opened or answer, of every protocol, in the network namespace of the
/// calling thread; says how many. The kernel looks through all connections for each of a few addresses, and tells only
/// of theirs; of many addresses, and of IPv6, all connections are read once, however many addresses there are.
///
/// # Errors
/// If the kernel cannot be asked or does not forget. A connection that has ended meanwhile is no error.
pub fn forget_connections_of(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
    let connection = open()?;
    let mut deletions = BTreeSet::new();
    let mut note = |attributes: &[u8]| {
        let has = |direction| source(attributes, direction).is_some_and(|source| addresses.contains(&source));
        if has(ORIGINAL) || has(REPLY) {
            deletions.extend(deletion(attributes));
        }
    };
    let found = if addresses.len() > ASKED_ONE_BY_ONE {
        list(&connection, &mut note)
    } else {
        questions(&addresses).try_for_each(|question| list_of(&connection, question, &mut note))
    };
    found.map_err(failed("list the connections of addresses"))?;
    forget(&connection, &deletions.into_iter().collect::<Vec<_>>())
}

/// What the kernel has to be asked to tell of all connections of these. About IPv6 it tells of all in any case.
fn questions(addresses: &BTreeSet<IpAddr>) -> impl Iterator<Item = (u16, IpAddr)> + '_ {
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

/// Sends messages that delete connections; says how many were there.
fn forget(connection: &Connection, deletions: &[Vec<u8>]) -> Result<usize, Error> {
    let mut forgotten = 0;
    for deletion in deletions {
        match connection.request(deletion, |_, _| {}) {
            Ok(()) => forgotten += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("forget a connection")(error)),
        }
    }
    Ok(forgotten)
}

fn read(attributes: &[u8]) -> Option<Tracked> {
    let original = attribute(attributes, ORIGINAL)?;
    Some(Tracked {
        protocol: *attribute(attribute(original, PROTOCOL)?, NUMBER)?.first()?,
        called: end(original, DESTINATIONS, DESTINATION_PORT)?,
        answering: end(attribute(attributes, REPLY)?, SOURCES, SOURCE_PORT)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::{ADDRESSES, GET, ID};
    use crate::nfnetlink::{Attributes, Header, message};

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
