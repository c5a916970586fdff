//! Tables of nftables: whether ours are there, and word of whatever anybody does to them
//! (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Other programs may take everything away (`nft flush ruleset`), and the kernel tells whoever listens.

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
/// The name of a table, as every message has it that is about one or about something inside (`NFTA_TABLE_NAME`,
/// `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`, `NFTA_OBJ_TABLE`).
const TABLE_NAME: u16 = 1;
/// `NFTA_RULE_CHAIN`.
const CHAIN_NAME: u16 = 2;
/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// Word of changes to tables, of any family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct TableEvents(Socket);

impl TableEvents {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the kernel has no nftables, or lets nobody listen.
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

    /// Whether anything happened to one of these tables since the last time, as far as that is known: what nobody could
    /// hear in time may have been about any.
    ///
    /// # Errors
    /// If the socket cannot be read.
    pub fn concern(&self, tables: &[&str]) -> Result<bool, Error> {
        let mut concern = false;
        loop {
            match self.0.recv_from_full() {
                Ok((datagram, _kernel)) => {
                    concern |= messages(&datagram).any(|received| match received {
                        Received::Message(_, attributes) => {
                            let table = attribute(attributes, TABLE_NAME).and_then(text);
                            table.is_some_and(|table| tables.contains(&table))
                        }
                        Received::End(_) => false,
                    });
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return Ok(concern),
                    Some(Errno::ENOBUFS) => concern = true,
                    Some(Errno::EINTR) => {}
                    _ => return Err(Error::Netlink { what: "listen to changes of nftables", error }),
                },
            }
        }
    }
}

/// Readable when something happened to some table.
impl AsFd for TableEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How many rules a chain of a table of family `inet` has, in the network namespace of the calling thread; none if it
/// is not there.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn rules(table: &str, chain: &str) -> Result<usize, Error> {
    count(table, chain).map_err(|error| Error::Netlink { what: "look at rules of nftables", error })
}

fn count(table: &str, chain: &str) -> io::Result<usize> {
    let header = Header { kind: GET_RULE, flags: DUMP, family: INET, resource: 0 };
    let chain_of = Attributes::default().text(TABLE_NAME, table).text(CHAIN_NAME, chain);
    let mut count = 0;
    let done = Connection::open()?.request(&message(header, &chain_of), |_, attributes| {
        // Kernels that do not look at the names list every rule.
        let is = |kind, name| attribute(attributes, kind).and_then(text) == Some(name);
        count += usize::from(is(TABLE_NAME, table) && is(CHAIN_NAME, chain));
    });
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(count),
    }
}
