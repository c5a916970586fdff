//! What the kernel counted.

use std::net::IpAddr;

use ringfence_model::Protocol;

use crate::abi::{CounterValue, FlowKey, FlowValue, flow_flags, reason};

/// How often a cause decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Connections it let through (seen from the end it speaks for; the other end may have refused).
    pub accepted: u64,
    /// Packets it dropped.
    pub dropped: u64,
}

impl FromIterator<CounterValue> for Counter {
    fn from_iter<I: IntoIterator<Item = CounterValue>>(processors: I) -> Self {
        processors.into_iter().fold(Self::default(), |sum, value| Self {
            accepted: sum.accepted + value.accepted,
            dropped: sum.dropped + value.dropped,
        })
    }
}

/// Packets dropped since the maps were made, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounters {
    /// A policy said so.
    pub policy: u64,
    /// Those of `policy` that belonged to connections of which packets had been let through before.
    pub cut: u64,
    /// The source is not an address of the pod whose interface it came from, or a pod's that has another interface.
    pub spoofed: u64,
    /// An address in the ranges of this node's pods without an endpoint.
    pub not_ready: u64,
    /// Ports or true destination cannot be told; or a pod's frame is tagged, or neither IPv4, IPv6 nor ARP.
    pub unparseable: u64,
    /// On their way to a pod they are not for: what a bridge floods, or what bears another's hardware address.
    pub astray: u64,
    /// The maps had no answer; they should always have one.
    pub incomplete: u64,
    /// Not packets: events that did not fit into the ring buffer.
    pub events_lost: u64,
}

impl DropCounters {
    pub(crate) fn new(count: impl Fn(u8) -> u64) -> Self {
        Self {
            policy: count(reason::POLICY),
            cut: count(reason::CUT),
            spoofed: count(reason::SPOOFED),
            not_ready: count(reason::NOT_READY),
            unparseable: count(reason::UNPARSEABLE),
            incomplete: count(reason::INCOMPLETE),
            astray: count(reason::ASTRAY),
            events_lost: count(reason::EVENTS_LOST),
        }
    }

    /// All packets dropped, but for copies that were astray.
    pub fn total(&self) -> u64 {
        self.policy + self.spoofed + self.not_ready + self.unparseable + self.incomplete
    }
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Its name.
    pub map: &'static str,
    /// Elements in use.
    pub used: usize,
    /// Elements that fit.
    pub size: usize,
}

/// An accepted connection in the flow table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it.
    pub source: IpAddr,
    /// Who answers: the backend, not the Service address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Source port; the identifier of an ICMP echo.
    pub source_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub destination_port: u16,
    /// Opened by this node itself.
    pub from_node: bool,
    /// Opened to a Service address, as far as that was looked at.
    pub translated: bool,
    /// Whether packets are let through unasked: those from who opened it, and those to.
    pub remembered: [bool; 2],
}

impl From<(FlowKey, FlowValue)> for Flow {
    fn from((key, value): (FlowKey, FlowValue)) -> Self {
        Self {
            source: key.source.ip(),
            destination: key.destination.ip(),
            protocol: Protocol(key.protocol),
            source_port: key.source_port,
            destination_port: key.destination_port,
            from_node: key.flags & flow_flags::NODE != 0,
            translated: key.flags & flow_flags::TRANSLATED != 0,
            remembered: value.epoch.map(|epoch| epoch != 0),
        }
    }
}
