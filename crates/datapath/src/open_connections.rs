//! Lists the open connections of connection tracking.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::Error;
use crate::ctnetlink::{ORIGINAL, REPLY, is_over, list, list_of, source};
use crate::nfnetlink::Connection;

/// Up to so many addresses, the kernel filters the dump by address.
const MAX_FILTERED_DUMPS: usize = 16;

/// Returns those of the destinations to which one of the sources has an open connection, in the network namespace of
/// the calling thread. A TCP connection is open until both sides have closed it, others until connection tracking
/// deletes their entry. A destination is the address after translation, not that of a Service.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn open_connections(
    sources: &BTreeSet<IpAddr>,
    destinations: &BTreeSet<IpAddr>,
) -> Result<BTreeSet<IpAddr>, Error> {
    find(sources, destinations).map_err(|error| Error::Netlink { what: "list open connections", error })
}

fn find(sources: &BTreeSet<IpAddr>, destinations: &BTreeSet<IpAddr>) -> io::Result<BTreeSet<IpAddr>> {
    let connection = Connection::open()?;
    let mut open = BTreeSet::new();
    let mut note = |attributes: &[u8]| {
        let Some((opener, destination)) = source(attributes, ORIGINAL).zip(source(attributes, REPLY)) else { return };
        if !is_over(attributes) && sources.contains(&opener) && destinations.contains(&destination) {
            open.insert(destination);
        }
    };
    // Dumps of IPv6 are not filtered: Linux 6.18 inverts that filter.
    if destinations.len() <= MAX_FILTERED_DUMPS && destinations.iter().all(IpAddr::is_ipv4) {
        for destination in destinations {
            list_of(&connection, (REPLY, *destination), &mut note)?;
        }
    } else {
        list(&connection, &mut note)?;
    }
    Ok(open)
}
