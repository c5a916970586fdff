//! Tables of nftables: the number of rules in a chain, and events of changes
//! (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Other programs may remove the tables of Ringfence (`nft flush ruleset`). The kernel sends events of that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use crate::Error;
use crate::nfnetlink::{Attributes, Connection, DUMP, Header, Received, attribute, message, messages, text};

/// `NFNL_SUBSYS_NFTABLES` and its messages, `NFPROTO_INET`.
const NFTABLES: u16 = 10;
const GET_RULE: u16 = (NFTABLES << 8) | 7;
const INET: u8 = 1;
/// Attribute with the name of a table, the same number in every message about a table or something inside
/// (`NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`,
/// `NFTA_OBJ_TABLE`).
const TABLE_NAME: u16 = 1;
/// `NFTA_RULE_CHAIN`.
const CHAIN_NAME: u16 = 2;
/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// Events of changes to tables of any family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NftablesEvents(Socket);

impl NftablesEvents {
    /// Subscribes to the events.
    ///
    /// # Errors
    /// If the kernel has no nftables, or refuses the subscription.
    pub fn open() -> Result<Self, Error> {
        let failed = |error| Error::Netlink { what: "listen to changes of nftables", error };
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open().map(Self).map_err(failed)
    }

    /// True if one of these tables has changed since the last call. Lost events may have been about any table, so they
    /// count as a change.
    ///
    /// # Errors
    /// If the socket cannot be read.
    pub fn affect(&self, tables: &[&str]) -> Result<bool, Error> {
        let mut affected = false;
        loop {
            match self.0.recv_from_full() {
                Ok((datagram, _kernel)) => {
                    affected |= messages(&datagram).any(|received| match received {
                        Received::Message(_, attributes) => {
                            let table = attribute(attributes, TABLE_NAME).and_then(text);
                            table.is_some_and(|table| tables.contains(&table))
                        }
                        Received::End(_) => false,
                    });
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return Ok(affected),
                    Some(Errno::ENOBUFS) => affected = true,
                    Some(Errno::EINTR) => {}
                    _ => return Err(Error::Netlink { what: "listen to changes of nftables", error }),
                },
            }
        }
    }
}

/// Readable when any table has changed.
impl AsFd for NftablesEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The number of rules in a chain of a table of family `inet`, in the network namespace of the calling thread. 0 if the
/// chain does not exist.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn rule_count(table: &str, chain: &str) -> Result<usize, Error> {
    count(table, chain).map_err(|error| Error::Netlink { what: "look at rules of nftables", error })
}

fn count(table: &str, chain: &str) -> io::Result<usize> {
    let header = Header { kind: GET_RULE, flags: DUMP, family: INET, resource: 0 };
    let chain_of = Attributes::default().text(TABLE_NAME, table).text(CHAIN_NAME, chain);
    let mut count = 0;
    let done = Connection::open()?.request(&message(header, &chain_of), |_, attributes| {
        // Older kernels ignore the names in the request and list every rule.
        let is = |kind, name| attribute(attributes, kind).and_then(text) == Some(name);
        count += usize::from(is(TABLE_NAME, table) && is(CHAIN_NAME, chain));
    });
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(count),
    }
}
