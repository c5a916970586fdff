//! Namespaces, pods and nodes, as far as policy looks at them.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Labels, Name, Protocol};

/// A namespace. `labels` has to contain `kubernetes.io/metadata.name` too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// True if it is being deleted.
    pub terminating: bool,
}

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// Namespace of the pod.
    pub namespace: Name,
    /// Name of the pod.
    pub name: Name,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// Unique id of this incarnation.
    pub uid: Name,
    /// Its labels.
    pub labels: Labels,
    /// The node it is bound to, if any.
    pub node: Option<Name>,
    /// Its addresses, at most one a family, canonical (no IPv4-mapped IPv6).
    pub addresses: Vec<IpAddr>,
    /// True if it shares the network of its node. Then no policy selects it and its traffic is the node's.
    pub host_network: bool,
    /// Its phase.
    pub phase: PodPhase,
    /// True if it is being deleted.
    pub terminating: bool,
    /// Time of creation, in seconds since 1970; 0 if unknown.
    pub created: i64,
    /// Named ports of its containers, native sidecars included.
    pub ports: Vec<ContainerPort>,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerPort {
    /// The name rules may use.
    pub name: Name,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodPhase {
    /// Not all containers have started.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended well; the address may belong to another pod by now.
    Succeeded,
    /// All containers ended, one badly; the address may belong to another pod by now.
    Failed,
    /// The kubelet cannot be reached.
    Unknown,
}

impl Pod {
    /// True if policies select this pod, as subject and as peer: it is not on the host network and not completed.
    /// Terminating pods are selected too.
    pub fn is_endpoint(&self) -> bool {
        !self.host_network && !matches!(self.phase, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// All addresses in its status that are IP addresses, canonical.
    pub addresses: Vec<IpAddr>,
    /// The ranges its pods get their addresses from (`spec.podCIDRs`).
    pub pod_cidrs: Vec<IpNet>,
}
