//! What the agent says and is asked on its socket: JSON, versioned by `apiVersion` and `kind`.
//!
//! Fields are only ever added within one version; readers ignore those they do not know.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use ringfence_cni::api::{CollectRequest, Failure, ReleaseRequest, VERSION, WaitReply, WaitRequest};

/// What `GET /v1/status` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`VERSION`].
    pub api_version: String,
    /// `AgentStatus`.
    pub kind: String,
    /// The node whose pods are guarded.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Whether every watch has been listed once and what follows from it is in the kernel.
    pub ready: bool,
    /// Whether this agent is the one that writes what is the matter with policies into the API.
    #[serde(default)]
    pub leader: bool,
    /// What needs somebody's attention, most urgent first, as sentences.
    pub warnings: Vec<String>,
    /// The watches, by kind.
    pub watches: Vec<Watch>,
    /// What the kernel holds.
    pub enforcement: Enforcement,
    /// What is learnt of domain names.
    #[serde(default)]
    pub names: Names,
    /// Every policy of the cluster, by namespace and name.
    pub policies: Vec<Policy>,
    /// Addresses of local pods that are in the kernel.
    pub endpoints: Vec<Endpoint>,
    /// Pods of this node whose policies do not fit.
    #[serde(default)]
    pub without_room: Vec<WithoutRoom>,
    /// What could not be understood, or is in doubt, per object.
    pub diagnostics: Vec<ObjectDiagnostic>,
    /// What others on the node undid since the agent started, and it put right, by name.
    #[serde(default)]
    pub repairs: Vec<Repair>,
}

/// Something that is looked after, and was found undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// What it is called: `pins`, …
    pub what: String,
    /// How often it was put right.
    pub count: u64,
    /// When it was put right last, RFC 3339.
    pub last: String,
    /// What was found then.
    pub found: String,
}

/// One watched kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// What is watched.
    pub kind: String,
    /// Whether its objects were listed at least once.
    pub synced: bool,
    /// Whether the API answers now. What is in the kernel stands while it does not.
    pub connected: bool,
    /// Objects known.
    pub objects: usize,
    /// Why the API does not answer.
    pub error: Option<String>,
}

/// What the kernel holds and how it got there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// Whether the maps were taken over from an agent before this one.
    pub adopted: bool,
    /// `cut` or `drain`: what happens to open connections that a change denies.
    pub connections: String,
    /// `deny` or `keep`: what becomes of pods whose policies do not fit.
    #[serde(default)]
    pub without_room: String,
    /// Where links and maps are pinned.
    pub pin_dir: String,
    /// Why the newest state is not in the kernel; the one before it is.
    pub error: Option<String>,
    /// Ranges of this node's pods: addresses inside are closed until they belong to an endpoint.
    pub gates: Vec<String>,
    /// Prefixes with a peer class.
    pub peers: usize,
    /// Different peer classes.
    pub classes: usize,
    /// Different rulesets, of both directions.
    pub rulesets: usize,
    /// What the running kernel can do.
    pub features: Vec<Feature>,
    /// Room in the maps.
    pub maps: Vec<MapUse>,
    /// Whether pods on a bridge pass the hook; none if no pod of this node is on a bridge.
    pub bridge: Option<Bridge>,
    /// The node's ends of pods' links.
    #[serde(default)]
    pub links: Links,
    /// The network plugin in the node's configuration; none if the agent was not told to put it there.
    #[serde(default)]
    pub chain: Option<Chain>,
    /// The routes between nodes; none if another network plugin sets them.
    #[serde(default)]
    pub network: Option<Network>,
}

/// The network plugin in the node's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// Name of the file it is in.
    pub file: Option<String>,
    /// The plugins it follows.
    pub plugins: Vec<String>,
    /// Why it is not there: starting pods are not waited for, but closed until their policy is in the kernel.
    pub error: Option<String>,
    /// Which plugin moves packets past the kernel's stack, so that nothing can be enforced on this node.
    #[serde(default)]
    pub bypass: Option<String>,
}

/// The routes between nodes, where this is the network plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
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
    /// Why pods of this node have no network, or not the newest.
    pub error: Option<String>,
}

/// What is learnt of domain names, for rules that allow by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// Patterns that rules of the cluster have.
    pub patterns: usize,
    /// Whether answers of DNS servers are read; they are only while there are patterns.
    pub active: bool,
    /// The servers that are believed.
    pub servers: Vec<String>,
    /// Names that are known.
    pub names: usize,
    /// Their addresses.
    pub addresses: usize,
    /// Addresses inside of the cluster that names outside stand for: no rule opens them.
    #[serde(default)]
    pub withheld: usize,
    /// Why nothing is learnt though there are patterns.
    pub error: Option<String>,
}

/// A feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// What it is called.
    pub name: String,
    /// Whether it is there.
    pub available: bool,
    /// What it is for, or why it is missing.
    pub detail: String,
}

/// How full a map is.
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

/// Whether the kernel shows bridged packets to netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bridge {
    /// `net.bridge.bridge-nf-call-iptables` is 1.
    pub ipv4: bool,
    /// `net.bridge.bridge-nf-call-ip6tables` is 1.
    pub ipv6: bool,
}

/// The node's ends of pods' links: what comes in there is held to the pod that is behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Links {
    /// How many are guarded.
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
    /// `ingress`, `egress`: the directions it governs.
    pub directions: Vec<String>,
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
    /// Whether that interface is guarded: what the pod sends is held to its addresses before anything else sees it.
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
pub struct WithoutRoom {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// The policies that would govern it.
    pub policies: Vec<String>,
    /// What there is not enough of.
    pub room: String,
    /// It keeps what it had; else it is denied everything in this direction.
    #[serde(default)]
    pub keeps: bool,
}

/// Something that was not understood or is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDiagnostic {
    /// Kind, namespace and name of the object.
    pub object: String,
    /// What is wrong, and what follows.
    pub message: String,
}

/// One line of `GET /v1/flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// [`VERSION`].
    pub api_version: String,
    /// `Flow`.
    pub kind: String,
    /// When it was read, RFC 3339.
    pub time: String,
    /// `allowed`, `denied`, or `cut` for a connection that was open and is denied now.
    pub verdict: String,
    /// Which end decided: `ingress` at the destination, `egress` at the source; none if neither was asked.
    pub direction: Option<String>,
    /// `TCP`, `UDP`, …
    pub protocol: String,
    /// Who opened it.
    pub source: Peer,
    /// Who was called.
    pub destination: Peer,
    /// Why, as a word: `rule`, `isolated`, `no-policy`, `endpoint-not-ready`, `spoofed-source`, `unparseable`, …
    pub reason: String,
    /// Why, as a sentence.
    pub message: String,
    /// The policies that decided: the one of the rule, or those that isolate the pod, at most 50.
    pub policies: Vec<String>,
    /// How many policies more isolate the pod.
    #[serde(default)]
    pub more_policies: usize,
    /// Position of the rule in the policy's list, from 0.
    pub rule: Option<usize>,
    /// What would allow it.
    pub hint: Option<String>,
    /// Like ones since the last report of this, which were only counted.
    pub repeated: u64,
}

/// A line of `GET /v1/flows` that says that flows are left out: the reader was too slow, or there were more of a source
/// than an agent tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsLost {
    /// [`VERSION`].
    pub api_version: String,
    /// `FlowsLost`.
    pub kind: String,
    /// How many packets or flows are missing here.
    pub lost: u64,
    /// Whose, if of one source alone.
    #[serde(default)]
    pub source: Option<Peer>,
}

impl FlowsLost {
    /// So many are missing.
    pub(crate) fn new(lost: u64, source: Option<Peer>) -> Self {
        Self { api_version: VERSION.into(), kind: "FlowsLost".into(), lost, source }
    }
}

/// A line of `GET /v1/flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    /// What became of a connection.
    Flow(Box<Flow>),
    /// A gap.
    Lost(FlowsLost),
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its port, for protocols that have them.
    pub port: Option<u16>,
    /// Namespace of the pod that has the address.
    pub namespace: Option<String>,
    /// Name of the pod that has the address.
    pub pod: Option<String>,
    /// The node that has the address.
    pub node: Option<String>,
    /// Namespace and name of the Service that has the address.
    #[serde(default)]
    pub service: Option<String>,
}

/// As people write it: the pod or node if known, the address, the port.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, namespace, pod, node, service } = self;
        match (namespace, pod, node) {
            (Some(namespace), Some(pod), _) => write!(f, "{namespace}/{pod} ")?,
            (_, _, Some(node)) => write!(f, "node/{node} ")?,
            _ => {
                if let Some(service) = service {
                    write!(f, "service/{service} ")?;
                }
            }
        }
        match (address, port) {
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
            (address, Some(port)) => write!(f, "{address}:{port}"),
            (address, None) => write!(f, "{address}"),
        }
    }
}
