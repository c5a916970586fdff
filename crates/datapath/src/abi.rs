//! Keys and values of the maps, as in `bpf/abi.h`.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use ringfence_engine::{IpcacheEntry, PeerSetId, PolicyKey, RuleId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `RINGFENCE_ABI`.
pub(crate) const ABI: u64 = 3;

macro_rules! mirror {
    ($($(#[$meta:meta])* $name:ident ($size:literal) { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }
        const _: () = assert!(size_of::<$name>() == $size, concat!("size of ", stringify!($name)));
    )*};
}

mirror! {
    /// An address in network order; IPv4 as IPv4-mapped IPv6.
    Address(16) { bytes: [u8; 16] }
    EndpointValue(32) { checksum: u64, ingress: u64, egress: u64, interface: u32, bridge: u32 }
    IpcacheValue(32) { checksum: u64, peer_set: u64, fallback: u64, established: u64 }
    CidrKey(24) { length: u32, family: u32, address: [u8; 16] }
    PeerInfo(16) { peer_set: u64, fallback: u64 }
    PolicyKeyValue(16) { ruleset: u64, peer_set: u64 }
    PolicyValue(16) { checksum: u64, start: u32, count: u32 }
    InterfaceValue(24) { checksum: u64, address: Address }
    LinkValue(24) { checksum: u64, bridge: u32, flags: u32, mac: [u8; 8] }
    InfraValue(16) { checksum: u64, flags: u64 }
    PortRangeValue(16) { key: u32, allow: u32, rule_id: u64 }
    FlowKey(40) {
        source: Address, destination: Address, source_port: u16, destination_port: u16,
        protocol: u8, family: u8, flags: u8, zero: u8,
    }
    FlowValue(40) { checksum: u64, epoch: [u64; 2], arrived: [u32; 2], left: [u32; 2] }
    ConfigValue(24) { epoch: u64, netns: u64, flags: u32, ephemeral: [u16; 2] }
    RuleCounterValue(16) { accepted: u64, dropped: u64 }
    EventValue(72) {
        time: u64, rule_id: u64, repeated: u64, source: Address, destination: Address,
        source_port: u16, destination_port: u16, interface: u32,
        protocol: u8, reason: u8, direction: u8, flags: u8, length: u32,
    }
    TestRunValue(96) {
        interface: u32, out_interface: u32, conntrack: u8, translated: u8, local_in: u8, flags: u8,
        accepted: u8, reason: u8, direction: u8, egress_result: u8, ingress_result: u8, hit: u8,
        established: u8, error_protocol: u8, error_port: u16, original_port: u16,
        egress_rule_id: u64, ingress_rule_id: u64, error_client: Address, error_server: Address,
        original_destination: Address, picked_up: u8, by_original: u8, zero: [u8; 6],
    }
}

/// Bits of `ConfigValue::flags`.
pub(crate) mod flags {
    pub(crate) const NOTIFY_ALLOWED: u32 = 1;
    pub(crate) const DRAIN: u32 = 2;
    pub(crate) const HAS_IPCACHE_CIDRS: u32 = 4;
    pub(crate) const HAS_CLOSED_CIDRS: u32 = 8;
    pub(crate) const HAS_INFRA: u32 = 16;
}

/// Bits of `LinkValue::flags`.
pub(crate) mod link_flags {
    pub(crate) const POD: u32 = 1;
    pub(crate) const MAC: u32 = 2;
    pub(crate) const BRIDGE: u32 = 4;
    pub(crate) const GUARDED: u32 = 8;
}

/// Bits of `InfraValue::flags`.
pub(crate) mod infra_flags {
    pub(crate) const NODE: u64 = 1;
    pub(crate) const SERVICE: u64 = 2;
}

/// Bits of `EventValue::flags`.
pub(crate) mod event_flags {
    pub(crate) const ALLOWED: u8 = 1;
    pub(crate) const CUT: u8 = 2;
    pub(crate) const REPLY: u8 = 4;
    pub(crate) const NODE: u8 = 8;
    pub(crate) const TRANSLATED: u8 = 16;
}

/// Bits of `FlowKey::flags`.
pub(crate) mod flow_flags {
    pub(crate) const NODE: u8 = 1;
    pub(crate) const TRANSLATED: u8 = 2;
}

/// Reasons of a verdict: values of the reason fields, and indices of the map `drops`.
pub(crate) mod reason {
    pub(crate) const POLICY: u8 = 1;
    pub(crate) const SPOOFED: u8 = 2;
    pub(crate) const NOT_READY: u8 = 3;
    pub(crate) const UNPARSEABLE: u8 = 4;
    pub(crate) const INCOMPLETE: u8 = 5;
    pub(crate) const EVENTS_LOST: u8 = 6;
    pub(crate) const CUT: u8 = 7;
    pub(crate) const MISDIRECTED: u8 = 8;
}

/// Values of the direction fields.
pub(crate) mod direction {
    pub(crate) const INGRESS: u8 = 1;
    pub(crate) const EGRESS: u8 = 2;
}

/// `RF_CHECKSUM_1` to `RF_CHECKSUM_5`, and `RF_CHECKSUM_9`.
const CHECKSUM: [u64; 5] =
    [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f5, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ed, 0x1b39_896a_51a8_749b];
const EMPTY_CHECKSUM: u64 = 0x3ee5_7890_41c9_8ac3;

/// Checksum of the words of a key and its value, as `RF_CHECKSUM` computes it.
fn checksum(words: [u64; 5]) -> u64 {
    let parts = words.iter().zip(CHECKSUM).map(|(word, factor)| word.wrapping_mul(factor));
    parts.fold(EMPTY_CHECKSUM, u64::wrapping_add)
}

/// Returns the word that consists of two halves.
fn word(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Address {
    fn halves(self) -> [u64; 2] {
        zerocopy::transmute!(self.bytes)
    }

    /// Returns the address; an IPv4-mapped one as IPv4.
    pub(crate) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.bytes).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let bytes = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Self { bytes }
    }
}

impl EndpointValue {
    pub(crate) fn new(address: Address, ingress: u64, egress: u64, interface: u32, bridge: u32) -> Self {
        let [first, second] = address.halves();
        let checksum = checksum([first, second, ingress, egress, word(interface, bridge)]);
        Self { checksum, ingress, egress, interface, bridge }
    }
}

impl IpcacheValue {
    pub(crate) fn new(address: Address, peer_set: IpcacheEntry) -> Self {
        let [first, second] = address.halves();
        let IpcacheEntry {
            peer_set: PeerSetId(peer_set),
            fallback: PeerSetId(fallback),
            established: PeerSetId(established),
        } = peer_set;
        Self { checksum: checksum([first, second, peer_set, fallback, established]), peer_set, fallback, established }
    }
}

impl PolicyValue {
    pub(crate) fn new(key: PolicyKeyValue, start: u32, count: u32) -> Self {
        Self { checksum: checksum([key.ruleset, key.peer_set, word(start, count), 0, 0]), start, count }
    }
}

impl InterfaceValue {
    pub(crate) fn new(interface: u32, address: Address) -> Self {
        let [first, second] = address.halves();
        Self { checksum: checksum([interface.into(), first, second, 0, 0]), address }
    }
}

impl InfraValue {
    pub(crate) fn new(address: Address, flags: u64) -> Self {
        let [first, second] = address.halves();
        Self { checksum: checksum([first, second, flags, 0, 0]), flags }
    }
}

impl LinkValue {
    pub(crate) fn new(interface: u32, bridge: u32, flags: u32, mac: [u8; 6]) -> Self {
        let mut padded = [0; 8];
        padded[..mac.len()].copy_from_slice(&mac);
        let checksum = checksum([interface.into(), word(bridge, flags), u64::from_ne_bytes(padded), 0, 0]);
        Self { checksum, bridge, flags, mac: padded }
    }
}

impl From<PolicyKey> for PolicyKeyValue {
    fn from(key: PolicyKey) -> Self {
        Self { ruleset: key.ruleset.0, peer_set: key.peer_set.0 }
    }
}

impl From<ringfence_engine::PortVerdict> for PortRangeValue {
    fn from(range: ringfence_engine::PortVerdict) -> Self {
        Self { key: range.key, allow: range.allow.into(), rule_id: range.rule_id.0 }
    }
}

impl From<PortRangeValue> for ringfence_engine::PortVerdict {
    fn from(range: PortRangeValue) -> Self {
        Self { key: range.key, allow: range.allow != 0, rule_id: RuleId(range.rule_id) }
    }
}

impl From<IpcacheEntry> for PeerInfo {
    fn from(peer_set: IpcacheEntry) -> Self {
        Self { peer_set: peer_set.peer_set.0, fallback: peer_set.fallback.0 }
    }
}

const FAMILY_BITS: u32 = 32;

impl From<IpNet> for CidrKey {
    fn from(net: IpNet) -> Self {
        let mut address = [0; 16];
        let family = match net.trunc() {
            IpNet::V4(net) => {
                address[..4].copy_from_slice(&net.addr().octets());
                4
            }
            IpNet::V6(net) => {
                address = net.addr().octets();
                6
            }
        };
        Self { length: FAMILY_BITS + u32::from(net.prefix_len()), family, address }
    }
}

impl CidrKey {
    /// Returns the prefix, or none if the key is not a valid one.
    pub(crate) fn net(self) -> Option<IpNet> {
        let length = u8::try_from(self.length.checked_sub(FAMILY_BITS)?).ok()?;
        let address = match self.family {
            4 => IpAddr::from([self.address[0], self.address[1], self.address[2], self.address[3]]),
            6 => IpAddr::from(self.address),
            _ => return None,
        };
        IpNet::new(address, length).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_keys_keep_the_families_apart_and_come_back() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "::/0", "fd00::/64", "::ffff:0:0/96"] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(CidrKey::from(net).net(), Some(net));
        }
        let v4 = CidrKey::from("0.0.0.0/0".parse::<IpNet>().unwrap());
        let v6 = CidrKey::from("::/0".parse::<IpNet>().unwrap());
        assert_ne!((v4.length, v4.family), (v6.length, v6.family));
    }

    #[test]
    fn addresses_come_back() {
        for text in ["10.0.0.1", "fd00::1", "::", "::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).ip(), address);
        }
    }
}
