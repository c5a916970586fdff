//! Which connections connection tracking holds open.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::Error;
use crate::entries::{ORIGINAL, REPLY, is_over, list, list_of, source};
use crate::nfnetlink::Connection;

/// Addresses for which the kernel is asked one by one.
const ASKED_ONE_BY_ONE: usize = 16;

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
    // Of IPv6 Linux 6.18 lists those that do not have the address.
    if destinations.len() <= ASKED_ONE_BY_ONE && destinations.iter().all(IpAddr::is_ipv4) {
        for destination in destinations {
            list_of(&connection, (REPLY, *destination), &mut note)?;
        }
    } else {
        list(&connection, &mut note)?;
    }
    Ok(open)
}
