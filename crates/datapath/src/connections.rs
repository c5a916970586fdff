//! Which connections connection tracking holds open (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Error;
use crate::nfnetlink::{Attributes, Connection, DUMP, Header, attribute, message};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET`; any family.
const GET: u16 = (1 << 8) | 1;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_PROTOINFO`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const PROTOCOL_STATE: u16 = 4;
/// `CTA_TUPLE_IP`; `CTA_IP_V4_SRC`, `CTA_IP_V6_SRC`.
const ADDRESSES: u16 = 1;
const SOURCES: [u16; 2] = [1, 3];
/// `CTA_FILTER` with `CTA_FILTER_REPLY_FLAGS`, of which one (`CTA_FILTER_F_CTA_IP_SRC`) means the source address: the
/// kernel then lists only connections that have the one in the message. Kernels before 5.8 list all.
const FILTER: u16 = 25;
const REPLY_FLAGS: u16 = 2;
const BY_SOURCE: u32 = 1;
/// Addresses for which the kernel is asked one by one. It walks the whole table for each, but need not write down what is
/// in it, which is most of the work.
const ASKED_ONE_BY_ONE: usize = 16;
/// `CTA_PROTOINFO_TCP`, `CTA_PROTOINFO_TCP_STATE`, and from which state on a connection is over
/// (`TCP_CONNTRACK_LAST_ACK`).
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const OVER: u8 = 6;

/// Those of some addresses to which some sources have connections open, in the network namespace of the calling
/// thread: TCP until both sides have closed, others until connection tracking forgets them. Service addresses count as
/// what they were translated to.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn open_connections(
    sources: &BTreeSet<IpAddr>,
    destinations: &BTreeSet<IpAddr>,
) -> Result<BTreeSet<IpAddr>, Error> {
    list(sources, destinations).map_err(|error| Error::Netlink { what: "list open connections", error })
}

fn list(sources: &BTreeSet<IpAddr>, destinations: &BTreeSet<IpAddr>) -> io::Result<BTreeSet<IpAddr>> {
    let connection = Connection::open()?;
    let mut open = BTreeSet::new();
    let mut note = |_kind: u16, attributes: &[u8]| {
        let Some((source, destination)) = ends(attributes) else { return };
        if !is_over(attributes) && sources.contains(&source) && destinations.contains(&destination) {
            open.insert(destination);
        }
    };
    // Of IPv6 Linux 6.18 lists those that do not have the address.
    if destinations.len() <= ASKED_ONE_BY_ONE && destinations.iter().all(IpAddr::is_ipv4) {
        for destination in destinations {
            connection.request(&answered_by(*destination), &mut note)?;
        }
    } else {
        connection.request(&dump(0, &Attributes::default()), &mut note)?;
    }
    Ok(open)
}

/// Asks for the connections that an address answers.
fn answered_by(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(four) => (nix::libc::AF_INET, four.octets().to_vec()),
        IpAddr::V6(six) => (nix::libc::AF_INET6, six.octets().to_vec()),
    };
    let source = Attributes::default().put(SOURCES[usize::from(address.is_ipv6())], &octets);
    let by = Attributes::default().put(REPLY_FLAGS, &BY_SOURCE.to_ne_bytes());
    let tuple = Attributes::default().nest(ADDRESSES, &source);
    dump(u8::try_from(family).unwrap_or_default(), &Attributes::default().nest(REPLY, &tuple).nest(FILTER, &by))
}

fn dump(family: u8, attributes: &Attributes) -> Vec<u8> {
    message(Header { kind: GET, flags: DUMP, family, resource: 0 }, attributes)
}

/// Who opened a connection, and who answers.
fn ends(attributes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let source = |tuple| {
        let addresses = attribute(attribute(attributes, tuple)?, ADDRESSES)?;
        SOURCES.iter().find_map(|kind| address(attribute(addresses, *kind)?))
    };
    Some((source(ORIGINAL)?, source(REPLY)?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn is_over(attributes: &[u8]) -> bool {
    let state = attribute(attributes, PROTOCOL_STATE)
        .and_then(|state| attribute(state, TCP))
        .and_then(|tcp| attribute(tcp, TCP_STATE)?.first());
    state.is_some_and(|state| *state >= OVER)
}
