//! Receivers of UDP encapsulation (FOU, GUE). They are not links; a family of generic netlink lists them.
//!
//! Families are listed, not requested by name, because a request by name would load a module that is not in use.

use std::io;

use netlink_packet_core::{DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::{Error, Result, Tunnel};

/// Name and messages of the family (`include/uapi/linux/fou.h`): `FOU_CMD_GET`, and `FOU_ATTR_PORT` of each receiver,
/// in network order.
const FAMILY: &str = "fou";
const GET: u8 = 3;
const PORT: u16 = 1;
/// The family that lists families (`include/uapi/linux/genetlink.h`): `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, and
/// `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME` of each.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Length of `genlmsghdr`.
const PREAMBLE: usize = 4;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

impl Tunnel {
    /// Returns the tunnels that end at receivers of FOU and GUE in the namespace of the calling thread. None if the
    /// kernel has no such receivers.
    ///
    /// # Errors
    /// If the kernel does not answer, or sends an invalid answer.
    pub fn receivers() -> Result<Vec<Self>> {
        receivers().map_err(|cause| Error::new("list", "receivers of FOU", cause))
    }
}

fn receivers() -> io::Result<Vec<Tunnel>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let Some(family) = dump(&socket, CONTROL, GET_FAMILY)?.iter().find_map(|message| number(message)) else {
        return Ok(Vec::new());
    };
    Ok(dump(&socket, family, GET)?.iter().filter_map(|message| tunnel(message)).collect())
}

/// Returns the id of the family, if this is the right one.
fn number(message: &[u8]) -> Option<u16> {
    let name = attribute(message, FAMILY_NAME)?;
    if name.strip_suffix(&[0]) != Some(FAMILY.as_bytes()) {
        return None;
    }
    Some(u16::from_ne_bytes(attribute(message, FAMILY_ID)?.try_into().ok()?))
}

/// The receiver's address is ignored: packets to any address count as tunnelled.
fn tunnel(message: &[u8]) -> Option<Tunnel> {
    Some(Tunnel::udp(u16::from_be_bytes(attribute(message, PORT)?.try_into().ok()?)))
}

fn attribute(message: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(message)
        .filter_map(std::result::Result::ok)
        .find(|one| one.kind() == kind)
        .map(|one| one.value().to_vec())
}

/// Returns the attributes of all objects that a family lists for a command.
fn dump(socket: &Socket, family: u16, command: u8) -> io::Result<Vec<Vec<u8>>> {
    socket.send(&request(family, command), 0)?;
    let mut messages = Vec::new();
    loop {
        let (datagram, _kernel) = socket.recv_from_full()?;
        if read(&datagram, &mut messages)? {
            return Ok(messages);
        }
    }
}

fn request(family: u16, command: u8) -> Vec<u8> {
    const VERSION: u8 = 1;
    // Length of both headers.
    const LENGTH: u32 = 20;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    // Sequence number and port are 0. Then the command, without attributes.
    [&LENGTH.to_ne_bytes()[..], &family.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], &[command, VERSION, 0, 0]]
        .concat()
}

/// Collects the messages of a datagram. Returns true if they were the last ones.
fn read(datagram: &[u8], messages: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let invalid = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(invalid)?;
        let body = message.payload();
        match message.message_type() {
            ERROR | DONE => {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(true) };
            }
            _ => messages.push(body.get(PREAMBLE..).unwrap_or_default().to_vec()),
        }
        let length = (message.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + u16::try_from(value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    }

    #[test]
    fn ports_are_read_of_receivers_as_the_kernel_lists_them() {
        // Attributes as `fou_fill_info` writes them: port, address family, protocol, type, and optional ones.
        let receiver = |port: u16, kind: u8| {
            let attributes = [
                attribute_of(PORT, &port.to_be_bytes()),
                attribute_of(2, &[2]),
                attribute_of(3, &[4]),
                attribute_of(4, &[kind]),
                attribute_of(6, &[10, 0, 0, 1]),
                attribute_of(10, &7777_u16.to_be_bytes()),
            ];
            message(0x20, &[&[1, 1, 0, 0][..], &attributes.concat()].concat())
        };
        let datagram = [receiver(5555, 1), receiver(6080, 2), message(DONE, &[0; 4])].concat();
        let mut messages = Vec::new();
        assert!(read(&datagram, &mut messages).unwrap());
        let tunnels: Vec<_> = messages.iter().filter_map(|attributes| tunnel(attributes)).collect();
        assert_eq!(tunnels, [5555, 6080].map(Tunnel::udp));
        assert!(!read(&receiver(1, 1), &mut messages).unwrap(), "more is to come");
        let error = read(&message(ERROR, &(-1_i32).to_ne_bytes()), &mut messages).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(read(&datagram[..30], &mut messages).is_err() && read(&[1, 2, 3], &mut messages).is_err());
    }

    #[test]
    fn families_are_told_apart_by_their_names() {
        let family = |name: &str| {
            [attribute_of(FAMILY_NAME, &[name.as_bytes(), &[0]].concat()), attribute_of(FAMILY_ID, &[0x21, 0])].concat()
        };
        assert_eq!(number(&family("fou")), Some(u16::from_ne_bytes([0x21, 0])));
        assert_eq!(number(&family("foul")), None);
    }

    #[test]
    fn this_kernel_answers() {
        // The list contains the family that lists families.
        let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
        socket.bind_auto().unwrap();
        let families = dump(&socket, CONTROL, GET_FAMILY).unwrap();
        assert!(families.iter().any(|message| attribute(message, FAMILY_NAME) == Some(b"nlctrl\0".to_vec())));
        Tunnel::receivers().unwrap();
    }
}
