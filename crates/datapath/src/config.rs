//! Settings of the datapath.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use ringfence_api::Connections;

use crate::LinkHook;
use crate::typed_map::reserved;

/// The kernel's default (`Documentation/networking/ip-sysctl.rst`), which each new network namespace has.
pub const EPHEMERAL_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// Settings of a datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory on a bpffs that keeps maps and links while no process has them open. It belongs to the datapath
    /// alone. Where there is no bpffs one is mounted: at `/sys/fs/bpf` for directories below, else at the directory.
    pub pin_dir: PathBuf,
    /// Sizes of the kernel maps.
    pub sizes: Sizes,
    /// Treatment of open connections that a change of policy denies.
    pub connections: Connections,
    /// Report the first packet of every allowed connection, not only denials.
    pub report_allowed: bool,
    /// Attachment point of the programs at pod links. None: the best one that this kernel supports.
    pub link_hook: Option<LinkHook>,
    /// Ports that clients are given (`net.ipv4.ip_local_port_range`) and servers do not listen on. If connection
    /// tracking picks up a TCP connection in the middle, these ports can tell the client from the server.
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

/// Capacities of the kernel maps, in elements. Most maps allocate memory per element in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Addresses of local pods.
    pub endpoints: u32,
    /// Single addresses in the ipcache: pods of the cluster that some rule can match, and addresses in rules.
    pub ipcache: u32,
    /// CIDRs in the ipcache.
    pub ipcache_cidrs: u32,
    /// Pairs of ruleset and peer set.
    pub policy: u32,
    /// Port ranges of all port tables, 16 bytes each, allocated at start.
    pub port_ranges: u32,
    /// Rules that have a counter.
    pub rule_counters: u32,
    /// Pod CIDRs of this node.
    pub closed_cidrs: u32,
    /// Pod CIDRs of all nodes.
    pub pod_cidrs: u32,
    /// Addresses of nodes and Services.
    pub infra_addresses: u32,
    /// Connections in the flow table, about 150 bytes each, allocated at start. Every packet of other connections is
    /// checked against the policy.
    pub flows: u32,
    /// Denials that were reported within the last second and are not reported again.
    pub drop_dedup: u32,
    /// Bytes of the ring buffer of events; a power of two and a multiple of the page size.
    pub events: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            endpoints: 4096,
            ipcache: 1 << 18,
            ipcache_cidrs: 1 << 16,
            policy: 1 << 19,
            port_ranges: 1 << 19,
            rule_counters: 1 << 16,
            closed_cidrs: 8192,
            pod_cidrs: 1 << 15,
            infra_addresses: 1 << 16,
            flows: 1 << 16,
            drop_dedup: 1 << 13,
            events: 1 << 20,
        }
    }
}

impl Sizes {
    /// Returns the size of a map, or none if the size is fixed.
    pub(crate) fn of(&self, map: &str) -> Option<u32> {
        let elements = match map {
            "endpoints" | "interfaces" | "pod_links" => self.endpoints,
            "ipcache" => self.ipcache,
            "ipcache_cidrs" => self.ipcache_cidrs,
            "policy" => self.policy,
            "port_ranges" => self.port_ranges,
            "rule_counters" => self.rule_counters,
            "closed_cidrs" => self.closed_cidrs,
            "pod_cidrs" => self.pod_cidrs,
            "infra_addresses" => self.infra_addresses,
            "flows" => self.flows,
            "drop_dedup" => self.drop_dedup,
            "events" => self.events,
            _ => return None,
        };
        Some(elements.saturating_add(reserved(map)))
    }
}
