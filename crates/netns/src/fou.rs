//! Receivers of UDP encapsulation (FOU, GUE). They are no links, but a family of generic netlink lists them.
//!
//! Families are listed and not requested by name: the kernel would load a module that is not in use.

use std::io;

use netlink_packet_core::{DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::{Error, Result, Tunnel};

/// The name of the family, and its messages (`include/uapi/linux/fou.h`): `FOU_CMD_GET`, and of each receiver
/// `FOU_ATTR_PORT`, in network order.
const FAMILY: &str = "fou";
const GET: u8 = 3;
const PORT: u16 = 1;
/// The family that lists families (`include/uapi/linux/genetlink.h`): `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, and of each
/// `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
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
    /// The tunnels that receivers of FOU and GUE in the namespace of the calling thread end. None where the kernel has
    /// no such receivers.
    ///
    /// # Errors
    /// If the kernel does not answer, or not as it should.
    pub fn receivers() -> Result<Vec<Self>> {
        receivers().map_err(|cause| Error::new("list", "receivers of FOU", cause))
    }
}

fn receivers() -> io::Result<Vec<Tunnel>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let Some(family) = dump(&socket, CONTROL, GET_FAMILY)?.iter().find_map(|told| number(told)) else {
        return Ok(Vec::new());
    };
    Ok(dump(&socket, family, GET)?.iter().filter_map(|told| tunnel(told)).collect())
}

/// The number of the family, if it is this one.
fn number(told: &[u8]) -> Option<u16> {
    let name = attribute(told, FAMILY_NAME)?;
    if name.strip_suffix(&[0]) != Some(FAMILY.as_bytes()) {
        return None;
    }
    Some(u16::from_ne_bytes(attribute(told, FAMILY_ID)?.try_into().ok()?))
}

/// Whatever of addresses a receiver goes by: packets to any address are held back.
fn tunnel(told: &[u8]) -> Option<Tunnel> {
    Some(Tunnel::udp(u16::from_be_bytes(attribute(told, PORT)?.try_into().ok()?)))
}

fn attribute(told: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(told)
        .filter_map(std::result::Result::ok)
        .find(|one| one.kind() == kind)
        .map(|one| one.value().to_vec())
}

/// The attributes of everything that a family has of a kind.
fn dump(socket: &Socket, family: u16, command: u8) -> io::Result<Vec<Vec<u8>>> {
    socket.send(&request(family, command), 0)?;
    let mut told = Vec::new();
    loop {
        let (datagram, _kernel) = socket.recv_from_full()?;
        if read(&datagram, &mut told)? {
            return Ok(told);
        }
    }
}

fn request(family: u16, command: u8) -> Vec<u8> {
    const VERSION: u8 = 1;
    // Of both headers.
    const LENGTH: u32 = 20;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    // Neither a number nor a port; then the command, and nothing about what is asked for.
    [&LENGTH.to_ne_bytes()[..], &family.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], &[command, VERSION, 0, 0]]
        .concat()
}

/// Takes the messages out of a datagram; whether that was all.
fn read(datagram: &[u8], told: &mut Vec<Vec<u8>>) -> io::Result<bool> {
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
            _ => told.push(body.get(PREAMBLE..).unwrap_or_default().to_vec()),
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
        // As `fou_fill_info` writes them: port, address family, protocol, type, and what else it is bound to.
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
        let mut told = Vec::new();
        assert!(read(&datagram, &mut told).unwrap());
        let tunnels: Vec<_> = told.iter().filter_map(|told| tunnel(told)).collect();
        assert_eq!(tunnels, [5555, 6080].map(Tunnel::udp));
        assert!(!read(&receiver(1, 1), &mut told).unwrap(), "more is to come");
        let error = read(&message(ERROR, &(-1_i32).to_ne_bytes()), &mut told).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(read(&datagram[..30], &mut told).is_err() && read(&[1, 2, 3], &mut told).is_err());
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
        assert!(families.iter().any(|told| attribute(told, FAMILY_NAME) == Some(b"nlctrl\0".to_vec())));
        Tunnel::receivers().unwrap();
    }
}
