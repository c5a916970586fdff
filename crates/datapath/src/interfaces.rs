//! Interfaces, and whether bridged packets reach netfilter.

use std::fs;

/// The node's end of a pod's veth pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interface {
    /// Index of the interface. Packets of the pod arrive on it.
    pub index: u32,
    /// Index of the bridge (or other master) that the interface is a port of, if any.
    pub bridge: Option<u32>,
}

/// State of the sysctls that make packets between two ports of a bridge pass netfilter. If they are off, the program
/// does not see packets between two pods of one bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeNetfilter {
    /// `net.bridge.bridge-nf-call-iptables`; none if the module `br_netfilter` is not loaded.
    pub ipv4: Option<bool>,
    /// `net.bridge.bridge-nf-call-ip6tables`.
    pub ipv6: Option<bool>,
}

impl BridgeNetfilter {
    /// True if the packets of both families pass netfilter.
    pub fn is_on(self) -> bool {
        self.ipv4 == Some(true) && self.ipv6 == Some(true)
    }
}

/// Reads the state for the network namespace of the calling thread. It may change at any time.
pub fn bridge_netfilter() -> BridgeNetfilter {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/bridge/{name}")).ok()?;
        Some(text.trim() != "0")
    };
    BridgeNetfilter { ipv4: read("bridge-nf-call-iptables"), ipv6: read("bridge-nf-call-ip6tables") }
}
