//! The answer to `GET /v1/status`.

use std::fmt;
use std::net::IpAddr;

use ringfence_model::Direction;
use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`crate::VERSION`].
    pub api_version: String,
    /// `AgentStatus`.
    pub kind: String,
    /// The node whose pods are guarded.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// True if every watch has been listed once and what follows from it is in the kernel.
    pub ready: bool,
    /// True if this agent is the one that writes what is the matter with policies into the API.
    #[serde(default)]
    pub leader: bool,
    /// Warnings, the most urgent first, as sentences.
    pub warnings: Vec<String>,
    /// The watches, by kind.
    pub watches: Vec<Watch>,
    /// Contents of the kernel.
    pub enforcement: Enforcement,
    /// Domain names and their addresses, for rules that allow by name.
    #[serde(default)]
    pub fqdns: FqdnCache,
    /// Every policy of the cluster, by namespace and name.
    pub policies: Vec<Policy>,
    /// Addresses of local pods that are in the kernel.
    pub endpoints: Vec<Endpoint>,
    /// Pods of this node whose policies do not fit.
    #[serde(default)]
    pub pods_over_capacity: Vec<PodOverCapacity>,
    /// Fields that were not understood or are in doubt, by object.
    pub diagnostics: Vec<ObjectDiagnostic>,
    /// Components that others on the node undid since the agent started, and that it repaired.
    #[serde(default)]
    pub repairs: Vec<Repair>,
}

/// Something that is looked after, and was found undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// The component: `pins`, …
    #[serde(alias = "what")]
    pub component: String,
    /// Number of repairs.
    pub count: u64,
    /// When it was put right last, RFC 3339.
    pub last: String,
    /// The finding at that time.
    pub found: String,
}

/// One watched kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// The watched kind.
    pub kind: String,
    /// True if its objects were listed at least once.
    pub synced: bool,
    /// True if the API answers now. What is in the kernel stands while it does not.
    pub connected: bool,
    /// Objects known.
    pub objects: usize,
    /// The reason why the API does not answer.
    pub error: Option<String>,
}

/// Contents of the kernel, and their origin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// True if the maps were taken over from an agent before this one.
    pub adopted: bool,
    /// The fate of open connections that a change denies.
    pub connections: Connections,
    /// The fate of pods whose policies do not fit.
    #[serde(default)]
    pub over_capacity: OverCapacity,
    /// Directory of pinned links and maps.
    pub pin_dir: String,
    /// The reason why the newest state is not in the kernel; the one before it is.
    pub error: Option<String>,
    /// Ranges of this node's pods. An address inside is closed until it belongs to an endpoint.
    #[serde(default)]
    pub closed_cidrs: Vec<String>,
    /// Addresses and prefixes whose peer set is in the kernel.
    #[serde(default)]
    pub ipcache_entries: usize,
    /// Different peer sets.
    #[serde(default)]
    pub peer_sets: usize,
    /// Different rulesets, of both directions.
    pub rulesets: usize,
    /// Features of the running kernel.
    pub features: Vec<Feature>,
    /// Room in the maps.
    pub maps: Vec<MapUse>,
    /// Events about packets for which the kernel's ring buffer had no room, since the maps were made. The packets are
    /// in every other counter.
    #[serde(default)]
    pub events_lost: u64,
    /// True if bridged packets pass netfilter; none if no pod of this node is on a bridge.
    #[serde(default)]
    pub bridge_netfilter: Option<BridgeNetfilter>,
    /// The host-side interfaces of pods.
    #[serde(default)]
    pub host_interfaces: HostInterfaces,
    /// The network plugin in the node's network configuration; none if the agent does not install it.
    #[serde(default)]
    pub cni_config: Option<CniConfig>,
    /// The routes between nodes; none if another network plugin sets them.
    #[serde(default)]
    pub node_routes: Option<NodeRoutes>,
}

/// The fate of an open connection that a change of policy denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// They end with their next packet
    #[default]
    Cut,
    /// They go on until they end by themselves
    Drain,
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut => "cut",
            Self::Drain => "drain",
        })
    }
}

/// The fate of pods whose policies do not fit into the kernel maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum OverCapacity {
    /// Nothing passes, in the direction that the policies govern
    #[default]
    Deny,
    /// They keep the policies they had; new pods are denied
    Keep,
}

/// The network plugin in the node's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniConfig {
    /// Name of the file it is in.
    pub file: Option<String>,
    /// The plugins it follows.
    pub plugins: Vec<String>,
    /// The reason why it is not there: starting pods are not waited for, but closed until their policy is in the
    /// kernel.
    pub error: Option<String>,
    /// The plugin that moves packets past the kernel's stack, so that nothing can be enforced on this node.
    #[serde(default)]
    pub bypass: Option<String>,
}

/// The routes between nodes, where this is the network plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRoutes {
    /// Ranges of this node's pods.
    pub ranges: Vec<String>,
    /// Largest packet of a pod's interface, in bytes.
    pub mtu: u32,
    /// Nodes reached over a common link.
    pub direct: Vec<String>,
    /// Nodes reached through VXLAN.
    pub tunnelled: Vec<String>,
    /// Nodes that are not reached, and why.
    pub problems: Vec<String>,
    /// The reason why pods of this node have no network, or not the newest.
    pub error: Option<String>,
}

/// Domain names and their addresses, for rules that allow by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FqdnCache {
    /// Patterns that rules of the cluster have.
    pub patterns: usize,
    /// True if responses of DNS servers are read, which they are only while there are patterns.
    pub learning: bool,
    /// The DNS servers whose responses count.
    pub dns_servers: Vec<String>,
    /// Names that are known.
    pub names: usize,
    /// Their addresses.
    pub addresses: usize,
    /// Addresses inside of the cluster that names outside stand for: no rule opens them.
    #[serde(default)]
    pub withheld: usize,
    /// The reason why nothing is learnt though there are patterns.
    pub error: Option<String>,
}

/// A feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// True if it is there.
    pub available: bool,
    /// Its purpose, or the reason why it is missing.
    pub detail: String,
}

/// Use of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapUse {
    /// Name of the map.
    pub name: String,
    /// Entries in it.
    pub used: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// True if the kernel shows bridged packets to netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeNetfilter {
    /// `net.bridge.bridge-nf-call-iptables` is 1.
    pub ipv4: bool,
    /// `net.bridge.bridge-nf-call-ip6tables` is 1.
    pub ipv6: bool,
}

/// The node's ends of pods' links: what comes in there is held to the pod that is behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostInterfaces {
    /// The number that are guarded.
    pub guarded: usize,
    /// Those that should be and are not: name, and why.
    pub unguarded: Vec<String>,
    /// Names of those that are closed: ports of a bridge of pods of which no pod is known.
    pub closed: Vec<String>,
}

/// A policy and how far it is enforced on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `NetworkPolicy`, …
    pub kind: String,
    /// Its namespace; none for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Unique id of the object.
    pub uid: String,
    /// Newest generation seen.
    pub generation: i64,
    /// Generation in the kernel.
    pub enforced_generation: Option<i64>,
    /// The directions it governs.
    pub directions: Vec<Direction>,
    /// Pods of this node it selects.
    pub selected_pods: usize,
}

/// An address of a local pod in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Unique id of the pod.
    pub uid: String,
    /// Index of its interface on the host's side; none if not known: then its source address is not checked.
    pub interface: Option<u32>,
    /// True if that interface is guarded: what the pod sends is held to its addresses before anything else sees it.
    #[serde(default)]
    pub guarded: bool,
    /// Id of its ruleset for connections into it; none if no policy isolates it.
    pub ingress: Option<String>,
    /// Id of its ruleset for connections out of it; none if no policy isolates it.
    pub egress: Option<String>,
}

/// A pod whose policies of one direction do not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodOverCapacity {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// The direction that the policies govern.
    pub direction: Direction,
    /// The policies that would govern it.
    pub policies: Vec<String>,
    /// The kernel map, or the other resource, that is full.
    pub resource: String,
    /// The pod keeps its previous policies. Else everything is denied in this direction.
    #[serde(default)]
    pub keeps_previous: bool,
}

/// Something that was not understood or is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDiagnostic {
    /// Kind, namespace and name of the object.
    pub object: String,
    /// The problem, and its consequence.
    pub message: String,
}
