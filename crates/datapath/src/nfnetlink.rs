//! Messages of nfnetlink (`include/uapi/linux/netfilter/nfnetlink.h`), which nftables, queues and connection tracking
//! share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_CREATE | NLM_F_APPEND` (`include/uapi/linux/netlink.h`).
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const APPEND: u16 = 0xc00;

/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLA_F_NESTED`, and the flag bits of an attribute's type.
pub(crate) const NESTED: u16 = 0x8000;
const FLAGS: u16 = 0xc000;
/// Length of `nlmsghdr`, of that with `nfgenmsg`, and of `nlattr`.
const HEADER: usize = 16;
const PREAMBLE: usize = HEADER + 4;
const ATTRIBUTE: usize = 4;

/// A message under construction, or attributes to be nested in another one.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends an attribute.
    pub(crate) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends attributes inside one.
    pub(crate) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.put(kind | NESTED, &inner.0)
    }

    /// Appends a text that ends with a zero.
    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }
}

/// The header of a message: kind, flags, family, and resource id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Subsystem and message: `subsystem << 8 | message`.
    pub(crate) kind: u16,
    /// `NLM_F_*`.
    pub(crate) flags: u16,
    /// Address family.
    pub(crate) family: u8,
    /// `res_id`.
    pub(crate) resource: u16,
}

/// A whole message.
pub(crate) fn message(header: Header, attributes: &Attributes) -> Vec<u8> {
    let Header { kind, flags, family, resource } = header;
    let length = u32::try_from(PREAMBLE + attributes.0.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | REQUEST).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(&attributes.0);
    bytes
}

/// A message that the kernel sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received<'a> {
    /// A message of a subsystem: its kind and its attributes.
    Message(u16, &'a [u8]),
    /// The end of the answer; the number is 0 or an error.
    End(i32),
}

/// Returns the messages in a datagram. A truncated or invalid message ends the sequence.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(match kind {
            ERROR | DONE => {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                Received::End(code.saturating_neg())
            }
            _ => Received::Message(kind, body.get(PREAMBLE - HEADER..).unwrap_or_default()),
        })
    })
}

/// Returns number and value of each attribute. A truncated or invalid attribute ends the sequence.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & !FLAGS;
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of an attribute.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A text that ends with a zero.
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    std::ffi::CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
}

/// A socket to the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Connection(pub(crate) Socket);

impl Connection {
    pub(crate) fn open() -> io::Result<Self> {
        Self::of(NETLINK_NETFILTER)
    }

    /// Opens a socket of another netlink protocol.
    pub(crate) fn of(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends a request and waits for the end of the answer. `each` is called with the messages before it.
    pub(crate) fn request(&self, bytes: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.0.send(bytes, 0)?;
        loop {
            let (datagram, _kernel) = self.0.recv_from_full()?;
            for received in messages(&datagram) {
                match received {
                    Received::Message(kind, attributes) => each(kind, attributes),
                    Received::End(0) => return Ok(()),
                    Received::End(code) => return Err(io::Error::from_raw_os_error(code)),
                }
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
