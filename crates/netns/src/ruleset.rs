//! Detects changes of nftables: the kernel counts the changes in each network namespace.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::{Error, Result};

/// Request and answer, as `linux/netfilter/nfnetlink.h` and `nf_tables.h` number them.
const TABLES: u16 = 10 << 8;
const GET_GENERATION: u16 = TABLES | 16;
const NEW_GENERATION: u16 = TABLES | 15;
/// The attribute of the answer with the number, in network order.
const GENERATION: u16 = 1;
/// Lengths of the headers of a message, of netfilter, and of an attribute.
const HEADERS: [usize; 3] = [16, 4, 4];

/// Returns the number of the last change of any nftables table in the network namespace of the calling thread. While it
/// stays the same, no table has changed.
///
/// # Errors
/// If the kernel has no nftables, or without permission (`CAP_NET_ADMIN`).
pub fn ruleset_generation() -> Result<u32> {
    ask().map_err(|cause| Error::new("read", "the generation of nftables", cause))
}

fn ask() -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = HEADERS[0] + HEADERS[1];
    let mut request = vec![0; length];
    request[0..4].copy_from_slice(&u32::try_from(length).unwrap_or_default().to_ne_bytes());
    request[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    // `NLM_F_REQUEST`.
    request[6..8].copy_from_slice(&1_u16.to_ne_bytes());
    socket.send(&request, 0)?;
    let (answer, _kernel) = socket.recv_from_full()?;
    read(&answer)
}

/// Parses the answer: a message with attributes, or an error.
fn read(answer: &[u8]) -> io::Result<u32> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer cannot be read");
    let short = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| -> Option<[u8; 4]> { answer.get(at..at + 4)?.try_into().ok() };
    match short(4).ok_or_else(odd)? {
        NEW_GENERATION => {}
        // An error: its negative number follows the header.
        2 => return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(long(HEADERS[0]).ok_or_else(odd)?))),
        _ => return Err(odd()),
    }
    let mut at = HEADERS[0] + HEADERS[1];
    while let (Some(length), Some(kind)) = (short(at), short(at + 2)) {
        if kind & 0x3fff == GENERATION {
            return long(at + HEADERS[2]).map(u32::from_be_bytes).ok_or_else(odd);
        }
        // Attributes are padded to four bytes. An attribute of length 0 would keep this loop here for ever.
        at += usize::from(length).next_multiple_of(4).max(4);
    }
    Err(odd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whatever_it_is() {
        assert_eq!(read(&message(NEW_GENERATION, &[8, 0, 1, 0, 0, 0, 1, 2])).unwrap(), 258);
        assert_eq!(read(&message(NEW_GENERATION, &[6, 0, 9, 0, 1, 1, 0, 0, 8, 0, 1, 0, 0, 0, 0, 7])).unwrap(), 7);
        assert!(read(&message(NEW_GENERATION, &[8, 0, 1, 0])).is_err());
        assert!(read(&message(NEW_GENERATION, &[0; 8])).is_err());
        assert!(read(&[]).is_err() && read(&message(3, &[])).is_err());
        let refused = [&[0_u8; 4][..], &2_u16.to_ne_bytes(), &[0; 10], &(-1_i32).to_ne_bytes()].concat();
        assert_eq!(read(&refused).unwrap_err().raw_os_error(), Some(1));
    }

    fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
        [&[0_u8; 4][..], &kind.to_ne_bytes(), &[0; 10], &[0; 4], attributes].concat()
    }
}
