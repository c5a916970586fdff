//! A queue of packets in user space (`include/uapi/linux/netfilter/nfnetlink_queue.h`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::nfnetlink::{ACK, Attributes, Connection, Header, Received, attribute, message, messages};

/// `NFNL_SUBSYS_QUEUE`, and its messages.
const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
/// Attributes of a packet: `NFQA_PACKET_HDR`, `NFQA_PAYLOAD`; of a verdict: `NFQA_VERDICT_HDR`.
const PACKET_HEADER: u16 = 1;
const PAYLOAD: u16 = 10;
const VERDICT_HEADER: u16 = 2;
/// Attributes of a configuration: `NFQA_CFG_*`.
const COMMAND: u16 = 1;
const PARAMETERS: u16 = 2;
const MAX_LENGTH: u16 = 3;
const MASK: u16 = 4;
const FLAGS: u16 = 5;
/// `NFQNL_CFG_CMD_BIND`, `NFQNL_COPY_PACKET`, `NFQA_CFG_F_FAIL_OPEN`, `NF_ACCEPT`.
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FAIL_OPEN: u32 = 1;
const ACCEPT: u32 = 1;

/// Numbers tried: other programs have queues of their own, mostly with small numbers.
const NUMBERS: std::ops::Range<u16> = 53053..53069;
/// Packets held at a time. Further packets pass unread.
const MAX_PACKETS: u32 = 4096;
/// Bytes of packets that wait to be read. Further packets pass unread.
const BUFFER_SIZE: usize = 8 << 20;

/// A packet that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Id of the packet, for its release.
    pub id: u32,
    /// The packet from its IP header on; empty if the kernel did not send it.
    pub bytes: Vec<u8>,
}

/// A bound queue.
#[derive(Debug)]
pub(super) struct Queue {
    connection: Connection,
    number: u16,
}

impl Queue {
    pub(super) fn open() -> io::Result<Self> {
        let connection = Connection::open()?;
        // A size above the system's limit needs a capability. A smaller buffer works too.
        let _smaller = setsockopt(&connection, sockopt::RcvBufForce, &BUFFER_SIZE);
        connection.0.set_no_enobufs(true)?;
        let number = bind(&connection)?;
        let queue = Self { connection, number };
        let copy = [&u32::from(u16::MAX).to_be_bytes()[..], &[COPY_PACKET]].concat();
        queue.configure(&Attributes::default().put(PARAMETERS, &copy))?;
        queue.configure(&Attributes::default().put(MAX_LENGTH, &MAX_PACKETS.to_be_bytes()))?;
        let flags = FAIL_OPEN.to_be_bytes();
        queue.configure(&Attributes::default().put(MASK, &flags).put(FLAGS, &flags))?;
        queue.connection.0.set_non_blocking(true)?;
        Ok(queue)
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    fn configure(&self, attributes: &Attributes) -> io::Result<()> {
        configure(&self.connection, self.number, attributes)
    }

    pub(super) fn receive(&self) -> io::Result<Vec<Packet>> {
        let mut packets = Vec::new();
        while packets.len() < MAX_PACKETS as usize {
            match self.connection.0.recv_from_full() {
                Ok((datagram, _kernel)) => packets.extend(messages(&datagram).filter_map(packet)),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => break,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(packets)
    }

    pub(super) fn release(&self, packet: u32) -> io::Result<()> {
        let verdict = [ACCEPT.to_be_bytes(), packet.to_be_bytes()].concat();
        let header = Header { kind: VERDICT, flags: 0, family: 0, resource: self.number };
        self.connection.0.send(&message(header, &Attributes::default().put(VERDICT_HEADER, &verdict)), 0).map(drop)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Binds the first number that is free.
fn bind(connection: &Connection) -> io::Result<u16> {
    let mut result = Err(io::Error::from(Errno::EBUSY));
    for number in NUMBERS {
        let command = [BIND, 0, 0, 0];
        match configure(connection, number, &Attributes::default().put(COMMAND, &command)) {
            Ok(()) => return Ok(number),
            // Another program uses this number.
            Err(error) if matches!(Errno::from_raw(error.raw_os_error().unwrap_or(0)), Errno::EBUSY | Errno::EPERM) => {
                result = Err(error);
            }
            Err(error) => return Err(error),
        }
    }
    result
}

fn configure(connection: &Connection, number: u16, attributes: &Attributes) -> io::Result<()> {
    let header = Header { kind: CONFIG, flags: ACK, family: 0, resource: number };
    connection.request(&message(header, attributes), |_, _| {})
}

fn packet(received: Received<'_>) -> Option<Packet> {
    let Received::Message(PACKET, attributes) = received else { return None };
    let id = u32::from_be_bytes(*attribute(attributes, PACKET_HEADER)?.first_chunk()?);
    Some(Packet { id, bytes: attribute(attributes, PAYLOAD).unwrap_or_default().to_vec() })
}
