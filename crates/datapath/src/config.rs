//! What the datapath can be told when it is opened.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::LinkHook;
use crate::table::spare;

/// The kernel's default (`Documentation/networking/ip-sysctl.rst`), which each new network namespace has.
pub const EPHEMERAL_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// Where and how to enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory on a bpffs that keeps maps and links while no process has them open. It belongs to the datapath
    /// alone. Where there is no bpffs one is mounted: at `/sys/fs/bpf` for directories below, else at the directory.
    pub pin_dir: PathBuf,
    /// Sizes of the kernel maps.
    pub sizes: Sizes,
    /// What becomes of open connections that a change of policy denies.
    pub connections: Connections,
    /// Whether the first packet of every connection that is let through is reported, not only denials.
    pub report_allowed: bool,
    /// Where the programs at pods' links stand; none: wherever this kernel has the better place.
    pub link_hook: Option<LinkHook>,
    /// Ports that clients are given (`net.ipv4.ip_local_port_range`), which servers do not listen on: where connection
    /// tracking came upon a TCP connection in the middle, they may tell who opened it.
    pub ephemeral_ports: RangeInclusive<u16>,
}

impl Config {
    /// The defaults, with pins below a directory.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            sizes: Sizes::default(),
            connections: Connections::Cut,
            report_allowed: false,
            link_hook: None,
            ephemeral_ports: EPHEMERAL_PORTS,
        }
    }
}

/// What becomes of open connections that a change of policy denies: those of which a packet was let through before and
/// that connection tracking still knows, answered or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// Their next packet is dropped, in either direction.
    #[default]
    Cut,
    /// They may end by themselves; only new ones are denied.
    Drain,
}

/// How many elements the kernel maps hold. Elements of most take memory only when they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Addresses of local pods.
    pub endpoints: u32,
    /// Addresses with a class: pods of the cluster that rules look at.
    pub peers: u32,
    /// Address ranges with a class.
    pub prefixes: u32,
    /// Pairs of ruleset and class.
    pub entries: u32,
    /// Breakpoints of port intervals, 16 bytes each, taken at once.
    pub breakpoints: u32,
    /// Causes with a counter.
    pub causes: u32,
    /// Ranges of this node's pods.
    pub gates: u32,
    /// Ranges of all nodes' pods.
    pub pod_ranges: u32,
    /// Addresses of nodes and Services.
    pub known_addresses: u32,
    /// Connections the flow table remembers, about 150 bytes each, taken at once. Others are judged at every packet.
    pub flows: u32,
    /// Denials remembered so as not to be reported again within a second.
    pub denials: u32,
    /// Bytes of the ring buffer of events; a power of two and a multiple of the page size.
    pub events: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            endpoints: 4096,
            peers: 1 << 18,
            prefixes: 1 << 16,
            entries: 1 << 19,
            breakpoints: 1 << 19,
            causes: 1 << 16,
            gates: 8192,
            pod_ranges: 1 << 15,
            known_addresses: 1 << 16,
            flows: 1 << 16,
            denials: 1 << 13,
            events: 1 << 20,
        }
    }
}

impl Sizes {
    /// The size of the map of a name, with what stays free; none if it is fixed.
    pub(crate) fn of(&self, map: &str) -> Option<u32> {
        let elements = match map {
            "endpoints" | "interfaces" | "doors" => self.endpoints,
            "peers" => self.peers,
            "prefixes" => self.prefixes,
            "entries" => self.entries,
            "breakpoints" => self.breakpoints,
            "counters" => self.causes,
            "gates" => self.gates,
            "pod_ranges" => self.pod_ranges,
            "known_addresses" => self.known_addresses,
            "flows" => self.flows,
            "denials" => self.denials,
            "events" => self.events,
            _ => return None,
        };
        Some(elements.saturating_add(spare(map)))
    }
}
