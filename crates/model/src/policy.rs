//! Policies of all kinds, in one shape: NetworkPolicy, and the cluster-wide tiers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DomainPattern, IpBlock, Name, PortRange, Protocol, Selector};

/// Largest subject that a policy without its rules keeps, in bytes.
const MAX_SUBJECT_BYTES: usize = 4096;

/// The identity of a policy object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace; none for cluster-wide kinds.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`; its tier is Admin.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`; its tier is Baseline.
    BaselineAdminNetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        })
    }
}

/// The tier of a policy, in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Cluster-wide, before NetworkPolicy.
    Admin,
    /// NetworkPolicy.
    NetworkPolicy,
    /// Cluster-wide, after NetworkPolicy.
    Baseline,
}

/// The direction of a rule, seen from the policy's subject. Serialized as `ingress` and `egress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Into the subject.
    Ingress,
    /// Out of the subject.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A policy of any kind.
///
/// In the NetworkPolicy tier `Some(rules)` isolates the subject in that direction and `None` leaves it alone; in the
/// other tiers an empty list is the same as none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Kind, namespace and name.
    pub id: PolicyId,
    /// Unique id of the object.
    pub uid: Name,
    /// `metadata.generation`: rises with every change of the specification.
    pub generation: i64,
    /// Its tier.
    pub tier: Tier,
    /// Smaller is earlier within the tier; equal priorities are ordered by name. 0 for NetworkPolicy.
    pub priority: u32,
    /// The pods it applies to.
    pub subject: PodSelection,
    /// Rules for connections into the subject.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for connections out of the subject.
    pub egress: Option<Vec<Rule>>,
    /// True if the rules were dropped because there is no memory for them. The lists are empty then, and every pod that
    /// the policy selects is denied everything in the directions that the policy governs.
    pub rules_withheld: bool,
}

impl Policy {
    /// The rules of one direction, if the policy governs it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// The same policy without its rules. A subject that needs too much memory becomes the whole namespace. So more is
    /// denied than the author asked for, but only in that namespace.
    #[must_use]
    pub fn without_rules(&self) -> Self {
        let PodSelection { namespaces, pods } = &self.subject;
        let pods = if pods.memory() > MAX_SUBJECT_BYTES { Selector::everything() } else { pods.clone() };
        let empty = |rules: &Option<Vec<Rule>>| rules.as_ref().map(|_| Vec::new());
        Self {
            id: self.id.clone(),
            uid: Name::clone(&self.uid),
            generation: self.generation,
            tier: self.tier,
            priority: self.priority,
            subject: PodSelection { namespaces: namespaces.clone(), pods },
            ingress: empty(&self.ingress),
            egress: empty(&self.egress),
            rules_withheld: true,
        }
    }

    /// Total order of evaluation: tier, priority and name. Namespace and kind only make it total.
    pub fn rank(&self) -> (Tier, u32, &Name, &PolicyId) {
        (self.tier, self.priority, &self.id.name, &self.id)
    }
}

/// Pods by namespace and labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodSelection {
    /// The namespaces.
    pub namespaces: NamespaceSelection,
    /// The pods in them.
    pub pods: Selector,
}

/// Namespaces by name or by labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamespaceSelection {
    /// The namespace of this name, whether or not its object is known.
    Named(Name),
    /// All known namespaces whose labels match.
    Matching(Selector),
}

impl NamespaceSelection {
    /// Estimated bytes of the selection.
    pub fn memory(&self) -> usize {
        match self {
            Self::Named(_) => 0,
            Self::Matching(selector) => selector.memory(),
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The name its author gave it.
    pub name: Option<Name>,
    /// The action for a connection that it matches. Rules of a NetworkPolicy accept.
    pub action: Action,
    /// The peers at the other end.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

impl Rule {
    /// The first thing in the rule that this version does not understand.
    ///
    /// Fail closed (`policy.networking.k8s.io` API, "unknown peers"): an `Accept` rule with one matches nothing, any
    /// other acts as a `Deny` of everything.
    pub fn unknown(&self) -> Option<&Name> {
        let peer = match &self.peers {
            Peers::Any => None,
            Peers::List(peers) => peers.iter().find_map(|peer| match peer {
                Peer::Unknown(what) => Some(what),
                Peer::Pods(_) | Peer::Block(_) | Peer::Nodes(_) | Peer::Domain(_) => None,
            }),
        };
        let port = || match &self.ports {
            Ports::Any => None,
            Ports::List(ports) => ports.iter().find_map(|port| match port {
                PortMatch::Unknown(what) => Some(what),
                PortMatch::Range(_) | PortMatch::Named { .. } => None,
            }),
        };
        match &self.action {
            Action::Unknown(what) => Some(what),
            Action::Accept | Action::Deny | Action::Pass => peer.or_else(port),
        }
    }
}

/// The action of a matching rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let the connection through; final for the direction.
    Accept,
    /// Drop it silently; final.
    Deny,
    /// Leave the tier.
    Pass,
    /// An action that this version does not know: it denies everything.
    Unknown(Name),
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Anybody: pods, nodes, addresses outside.
    Any,
    /// Any of these. Never empty: an empty list in a manifest is `Any`.
    List(Vec<Peer>),
}

/// One alternative of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Pods, except host-network and completed ones.
    Pods(PodSelection),
    /// Addresses, those of pods and nodes included.
    Block(IpBlock),
    /// Nodes: every address in the status of those whose labels match.
    Nodes(Selector),
    /// The addresses learnt for the domain names of a pattern.
    Domain(DomainPattern),
    /// A peer this version does not understand, described.
    Unknown(Name),
}

/// Destination ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every port of every protocol, and protocols without ports.
    Any,
    /// Any of these. Never empty.
    List(Vec<PortMatch>),
}

/// One alternative of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortMatch {
    /// By number.
    Range(PortRange),
    /// By name, resolved on each destination pod.
    Named {
        /// Its protocol; none matches any (`destinationNamedPort`).
        protocol: Option<Protocol>,
        /// Name of a container port.
        name: Name,
    },
    /// A match this version does not understand, described.
    Unknown(Name),
}
