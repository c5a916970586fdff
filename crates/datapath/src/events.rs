//! Decisions as the kernel reports them.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::{RingBuffer, RingBufferBuilder};
use ringfence_engine::CauseId;
use ringfence_model::{Direction, Protocol};
use zerocopy::FromBytes as _;

use crate::Error;
use crate::abi::{EventValue, direction, event_flags, reason};
use crate::table::open_map;

/// A decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, on the kernel's monotonic clock.
    pub time: Duration,
    /// What was decided.
    pub outcome: Outcome,
    /// Who opened the connection; where that is unknown, who sent the packet.
    pub source: IpAddr,
    /// Who answers: the backend, not the Service address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Source port; the identifier of an ICMP echo; 0 for protocols without ports.
    pub source_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub destination_port: u16,
    /// Whose verdict it was: the source's (egress) or the destination's (ingress); none where no policy was asked.
    pub direction: Option<Direction>,
    /// Index of the interface the packet arrived on; 0 if this node made it.
    pub interface: u32,
    /// The packet travelled from `destination` to `source`.
    pub reply: bool,
    /// The packet was made by this node.
    pub from_node: bool,
    /// The connection was opened to a Service address, as far as that was looked at: where both ends are the same.
    pub translated: bool,
    /// Bytes of the packet, from the IP header on.
    pub length: u32,
    /// Like denials since the last report of one, which were counted and not reported.
    pub repeated: u64,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The first packet of a connection was let through, for this cause.
    Allowed(CauseId),
    /// The packet was dropped.
    Denied(Drop),
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// A policy said so.
    Policy {
        /// Which, and by which rule or lack of one.
        cause: CauseId,
        /// Packets of the connection had been let through before: a change of policy cut it.
        cut: bool,
    },
    /// The source is not an address of the pod whose interface it came from, or a pod's that has another interface.
    Spoofed,
    /// An address in the ranges of this node's pods without an endpoint.
    EndpointNotReady,
    /// Ports or true destination cannot be told; or a pod's frame is tagged, or neither IPv4, IPv6 nor ARP.
    Unparseable,
    /// It was on its way to a pod it is not for: what a bridge floods, or whose frame bears another's hardware address.
    /// Counted, not reported.
    Astray,
    /// The maps had no answer; they should always have one.
    Incomplete,
}

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy { cut: false, .. } => "policy",
            Self::Policy { cut: true, .. } => "policy-cut",
            Self::Spoofed => "spoofed",
            Self::EndpointNotReady => "endpoint-not-ready",
            Self::Unparseable => "unparseable",
            Self::Astray => "astray",
            Self::Incomplete => "incomplete",
        })
    }
}

impl Drop {
    pub(crate) fn new(code: u8, cause: u64, cut: bool) -> Self {
        match code {
            reason::POLICY => Self::Policy { cause: CauseId(cause), cut },
            reason::SPOOFED => Self::Spoofed,
            reason::NOT_READY => Self::EndpointNotReady,
            reason::UNPARSEABLE => Self::Unparseable,
            reason::ASTRAY => Self::Astray,
            _ => Self::Incomplete,
        }
    }
}

pub(crate) fn side(code: u8) -> Option<Direction> {
    match code {
        direction::INGRESS => Some(Direction::Ingress),
        direction::EGRESS => Some(Direction::Egress),
        _ => None,
    }
}

impl From<EventValue> for Event {
    fn from(value: EventValue) -> Self {
        let is = |flag: u8| value.flags & flag != 0;
        let outcome = if is(event_flags::ALLOWED) {
            Outcome::Allowed(CauseId(value.cause))
        } else {
            Outcome::Denied(Drop::new(value.reason, value.cause, is(event_flags::CUT)))
        };
        Self {
            time: Duration::from_nanos(value.time),
            outcome,
            source: value.source.ip(),
            destination: value.destination.ip(),
            protocol: Protocol(value.protocol),
            source_port: value.source_port,
            destination_port: value.destination_port,
            direction: side(value.direction),
            interface: value.interface,
            reply: is(event_flags::REPLY),
            from_node: is(event_flags::NODE),
            translated: is(event_flags::TRANSLATED),
            length: value.length,
            repeated: value.repeated,
        }
    }
}

/// Reads the ring buffer of events. There should be one reader only: each event is read once.
pub struct Events {
    ring: RingBuffer<'static>,
    read: Rc<RefCell<Vec<Event>>>,
}

// SAFETY: the ring buffer may change threads (libbpf-rs says so of it). The reference-counted queue is shared only
// with the callback inside that ring buffer, which runs inside `Events::poll`, which has `&mut self`: both owners
// always move together and never run at once.
#[expect(unsafe_code, reason = "lets the reader be moved to a thread of its own")]
unsafe impl Send for Events {}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn open(maps: &Path) -> Result<Self, Error> {
        let map = open_map(maps, "events")?;
        let read = Rc::new(RefCell::new(Vec::new()));
        let queue = Rc::clone(&read);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, move |bytes| {
                if let Ok(value) = EventValue::read_from_bytes(bytes) {
                    queue.borrow_mut().push(value.into());
                }
                0
            })
            .map_err(Error::bpf("read the BPF map `events`"))?;
        let ring = builder.build().map_err(Error::bpf("read the BPF map `events`"))?;
        Ok(Self { ring, read })
    }

    /// Waits until there are events, at most for `timeout`, and returns them in order.
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<Event>, Error> {
        match self.ring.poll(timeout) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::Interrupted => {
                Err(Error::bpf("poll the BPF map `events`")(error))
            }
            _ => Ok(self.read.take()),
        }
    }
}

impl AsFd for Events {
    /// Readable when there are events.
    #[expect(unsafe_code, reason = "the library gives the descriptor as a number")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by the ring buffer, which lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}
