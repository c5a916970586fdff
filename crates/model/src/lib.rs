//! What namespaces, pods, nodes, policies and verdicts are.
//!
//! Pure values: no I/O, no Kubernetes types, nothing that can fail on well-typed input. Everything else in the
//! project speaks in these words.
#![forbid(unsafe_code)]

mod claims;
mod cluster;
mod connection;
mod domain;
mod labels;
mod memory;
mod net;
mod policy;
mod selector;
mod verdict;
mod world;

pub use cluster::{ContainerPort, Namespace, Node, Pod, PodKey, PodPhase};
pub use connection::{Connection, Origin};
pub use domain::{Domain, DomainName, DomainPattern};
pub use labels::Labels;
pub use net::{IpBlock, PortRange, Protocol, canonical};
pub use policy::{
    Action, Direction, NamespaceSelection, Peer, Peers, PodSelection, Policy, PolicyId, PolicyKind, PortMatch, Ports,
    Rule, Tier,
};
pub use selector::{Requirement, Selector};
pub use verdict::{Decision, Reason, RuleRef, Verdict};
pub use world::{Object, ObjectKey, World};

/// A name of an object, cheap to clone and to share.
pub type Name = std::sync::Arc<str>;
