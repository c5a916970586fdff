//! Which connections connection tracking holds open (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::collections::BTreeSet;
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
    let failed = |error| Error::Netlink { what: "list open connections", error };
    let mut open = BTreeSet::new();
    let header = Header { kind: GET, flags: DUMP, family: 0, resource: 0 };
    let dump = message(header, &Attributes::default());
    Connection::open()
        .and_then(|connection| {
            connection.request(&dump, |_, attributes| {
                let Some((source, destination)) = ends(attributes) else { return };
                if !is_over(attributes) && sources.contains(&source) && destinations.contains(&destination) {
                    open.insert(destination);
                }
            })
        })
        .map_err(failed)?;
    Ok(open)
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
