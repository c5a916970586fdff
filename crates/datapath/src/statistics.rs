//! Counters of the kernel program.

use std::net::IpAddr;

use ringfence_api::ReasonCode;
use ringfence_model::Protocol;

use crate::abi::{FlowKey, FlowValue, RuleCounterValue, flow_flags, reason};

/// Decisions of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounter {
    /// Connections that the rule allowed in its direction. The other direction may have denied them.
    pub accepted: u64,
    /// Packets that the rule dropped.
    pub dropped: u64,
}

impl FromIterator<RuleCounterValue> for RuleCounter {
    fn from_iter<I: IntoIterator<Item = RuleCounterValue>>(processors: I) -> Self {
        processors.into_iter().fold(Self::default(), |sum, value| Self {
            accepted: sum.accepted + value.accepted,
            dropped: sum.dropped + value.dropped,
        })
    }
}

/// Packets dropped since the maps were created, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounters {
    /// Policy denied them.
    pub policy: u64,
    /// Packets among `policy` whose connection had been allowed before.
    pub cut: u64,
    /// The source address does not belong to the pod behind the interface, or belongs to a pod with another interface.
    pub spoofed: u64,
    /// The address is in a pod CIDR of this node and no endpoint has it.
    pub not_ready: u64,
    /// Ports or the original destination cannot be determined. Or a pod's frame is tagged, or is neither IPv4, IPv6 nor
    /// ARP.
    pub unparseable: u64,
    /// Frames on their way to a pod they are not for: a bridge flooded them, or they have another pod's hardware
    /// address.
    pub misdirected: u64,
    /// The maps had no entry that decides, which should not happen.
    pub incomplete: u64,
    /// Events, not packets, that did not fit into the ring buffer.
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
            misdirected: count(reason::MISDIRECTED),
            events_lost: count(reason::EVENTS_LOST),
        }
    }

    /// Packets by reason: those of `policy` include those that were cut.
    pub fn by_reason(&self) -> [(ReasonCode, u64); 7] {
        let Self { policy, cut, spoofed, not_ready, unparseable, misdirected, incomplete, events_lost: _ } = *self;
        [
            (ReasonCode::Policy, policy),
            (ReasonCode::PolicyCut, cut),
            (ReasonCode::SpoofedSource, spoofed),
            (ReasonCode::EndpointNotReady, not_ready),
            (ReasonCode::Unparseable, unparseable),
            (ReasonCode::Misdirected, misdirected),
            (ReasonCode::Incomplete, incomplete),
        ]
    }

    /// All packets dropped, except `misdirected` copies.
    pub fn total(&self) -> u64 {
        self.policy + self.spoofed + self.not_ready + self.unparseable + self.incomplete
    }
}

/// The use of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Name of the map.
    pub map: &'static str,
    /// Elements in use.
    pub used: usize,
    /// Capacity in elements.
    pub size: usize,
}

/// An accepted connection in the flow table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub source: IpAddr,
    /// The server: the backend, not the Service address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Source port; the identifier of an ICMP echo.
    pub source_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub destination_port: u16,
    /// True if this node opened it.
    pub from_node: bool,
    /// True if it was opened to a Service address. The program looks at that only if both ends are the same address.
    pub translated: bool,
    /// True if packets pass without a policy check: packets from the client, packets to the client.
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
