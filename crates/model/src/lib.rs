//! The model: namespaces, pods, nodes, policies and verdicts.
//!
//! Pure values: no I/O, no Kubernetes types, and no failure on well-typed input. All other crates share these types.
#![forbid(unsafe_code)]

mod cluster;
mod connection;
mod domain;
mod labels;
mod memory;
mod net;
mod ownership;
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
