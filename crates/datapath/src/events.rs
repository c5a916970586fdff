//! Verdicts as the kernel reports them.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::{RingBuffer, RingBufferBuilder};
use ringfence_api::ReasonCode;
use ringfence_engine::RuleId;
use ringfence_model::{Direction, Protocol};
use zerocopy::FromBytes as _;

use crate::Error;
use crate::abi::{EventValue, direction, event_flags, reason};
use crate::typed_map::open_map;

/// A verdict about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time of the event, on the kernel's monotonic clock.
    pub time: Duration,
    /// The verdict.
    pub verdict: EventVerdict,
    /// The client of the connection; if that is unknown, the sender of the packet.
    pub source: IpAddr,
    /// The server of the connection: the backend, not the Service address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Source port; the identifier of an ICMP echo; 0 for protocols without ports.
    pub source_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub destination_port: u16,
    /// The side that decided: source (egress) or destination (ingress). None if no policy was evaluated.
    pub direction: Option<Direction>,
    /// Index of the interface the packet arrived on; 0 if this node sent it.
    pub interface: u32,
    /// True if the packet travelled from `destination` to `source`.
    pub reply: bool,
    /// True if this node sent the packet.
    pub from_node: bool,
    /// True if the connection was opened to a Service address. The program looks at that only if both ends are the same
    /// address.
    pub translated: bool,
    /// Bytes of the packet, from the IP header on.
    pub length: u32,
    /// Number of equal denials since the last report, which were counted and not reported.
    pub repeated: u64,
}

/// The verdict of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventVerdict {
    /// The first packet of a connection was let through, by this rule id.
    Allowed(RuleId),
    /// The packet was dropped.
    Denied(DropReason),
}

/// The reason why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Policy denied it.
    Policy {
        /// The rule, or the policies that isolate the pod.
        rule_id: RuleId,
        /// True if earlier packets of the connection had been allowed: a change of policy cut it.
        cut: bool,
    },
    /// The source address does not belong to the pod behind the interface, or belongs to a pod with another interface.
    Spoofed,
    /// The address is in a pod CIDR of this node and no endpoint has it.
    EndpointNotReady,
    /// Ports or the original destination cannot be determined. Or a pod's frame is tagged, or is neither IPv4, IPv6 nor
    /// ARP.
    Unparseable,
    /// The frame was on its way to a pod it is not for: a bridge flooded it, or it has another pod's hardware address.
    /// Such packets are counted and not reported.
    Misdirected,
    /// The maps had no entry that decides, which should not happen.
    Incomplete,
}

impl DropReason {
    /// The word, sentence and hint of this reason. That of a policy is told by its rule id.
    pub fn code(&self) -> ReasonCode {
        match self {
            Self::Policy { cut: false, .. } => ReasonCode::Policy,
            Self::Policy { cut: true, .. } => ReasonCode::PolicyCut,
            Self::Spoofed => ReasonCode::SpoofedSource,
            Self::EndpointNotReady => ReasonCode::EndpointNotReady,
            Self::Unparseable => ReasonCode::Unparseable,
            Self::Misdirected => ReasonCode::Misdirected,
            Self::Incomplete => ReasonCode::Incomplete,
        }
    }

    pub(crate) fn new(code: u8, rule_id: u64, cut: bool) -> Self {
        match code {
            reason::POLICY => Self::Policy { rule_id: RuleId(rule_id), cut },
            reason::SPOOFED => Self::Spoofed,
            reason::NOT_READY => Self::EndpointNotReady,
            reason::UNPARSEABLE => Self::Unparseable,
            reason::MISDIRECTED => Self::Misdirected,
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
        let verdict = if is(event_flags::ALLOWED) {
            EventVerdict::Allowed(RuleId(value.rule_id))
        } else {
            EventVerdict::Denied(DropReason::new(value.reason, value.rule_id, is(event_flags::CUT)))
        };
        Self {
            time: Duration::from_nanos(value.time),
            verdict,
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

// SAFETY: the ring buffer may change threads (libbpf-rs says so of it). The reference-counted queue is shared only with
// the callback inside that ring buffer. The callback runs only inside `Events::poll`, which has `&mut self`. So both
// owners always move together and never run at once.
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
