//! Kubernetes objects, as JSON, to the model. Total: what is not understood fails closed and is reported.
//!
//! Objects may come from the API or from files: what the API server would default is defaulted here too, and empty,
//! missing and null are one.

mod cluster;
mod network_policy;
mod reader;
mod selector;
mod tiered;

use ringfence_model::{Labels, Name, Object, ObjectKey, PodKey, PolicyId, PolicyKind};
use serde_json::Value;

pub use cluster::{namespace, node, pod};
pub use network_policy::network_policy;
pub use selector::{NotUnderstood, selector};
pub use tiered::{admin_network_policy, baseline_admin_network_policy, cluster_network_policy};

use crate::diagnostic::Diagnostic;
use crate::json::{at, entries, get, text};

/// The label that every namespace carries with its own name as value.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The kinds of objects that policy depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1` AdminNetworkPolicy.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1` BaselineAdminNetworkPolicy.
    BaselineAdminNetworkPolicy,
}

/// The API resource of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// `kind`.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// The objects are namespaced.
    pub namespaced: bool,
    /// A server may lack the kind; then there are no objects of it.
    pub optional: bool,
}

impl Kind {
    /// All of them, in the order in which a reader wants them.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
    ];

    /// The API resource of the kind.
    pub fn resource(self) -> Resource {
        let core =
            |kind, plural, namespaced| Resource { group: "", version: "v1", kind, plural, namespaced, optional: false };
        let tiered = |version, kind, plural| Resource {
            group: "policy.networking.k8s.io",
            version,
            kind,
            plural,
            namespaced: false,
            optional: true,
        };
        match self {
            Self::Namespace => core("Namespace", "namespaces", false),
            Self::Node => core("Node", "nodes", false),
            Self::Pod => core("Pod", "pods", true),
            Self::NetworkPolicy => Resource {
                group: "networking.k8s.io",
                version: "v1",
                kind: "NetworkPolicy",
                plural: "networkpolicies",
                namespaced: true,
                optional: false,
            },
            Self::ClusterNetworkPolicy => tiered("v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies"),
            Self::AdminNetworkPolicy => tiered("v1alpha1", "AdminNetworkPolicy", "adminnetworkpolicies"),
            Self::BaselineAdminNetworkPolicy => {
                tiered("v1alpha1", "BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies")
            }
        }
    }

    /// The kind as policies are called by it; none if it is no policy.
    pub fn policy(self) -> Option<PolicyKind> {
        match self {
            Self::Namespace | Self::Node | Self::Pod => None,
            Self::NetworkPolicy => Some(PolicyKind::NetworkPolicy),
            Self::ClusterNetworkPolicy => Some(PolicyKind::ClusterNetworkPolicy),
            Self::AdminNetworkPolicy => Some(PolicyKind::AdminNetworkPolicy),
            Self::BaselineAdminNetworkPolicy => Some(PolicyKind::BaselineAdminNetworkPolicy),
        }
    }

    /// The kind with this `apiVersion` and `kind`, if policy depends on it.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|candidate| {
            let resource = candidate.resource();
            resource.kind == kind && resource.api_version() == api_version
        })
    }

    /// Converts an object of this kind.
    pub fn convert(self, object: &Value) -> (Object, Vec<Diagnostic>) {
        fn wrap<T>(wrap: fn(T) -> Object, (object, diagnostics): (T, Vec<Diagnostic>)) -> (Object, Vec<Diagnostic>) {
            (wrap(object), diagnostics)
        }
        match self {
            Self::Namespace => wrap(Object::Namespace, namespace(object)),
            Self::Node => wrap(Object::Node, node(object)),
            Self::Pod => wrap(Object::Pod, pod(object)),
            Self::NetworkPolicy => wrap(Object::Policy, network_policy(object)),
            Self::ClusterNetworkPolicy => wrap(Object::Policy, cluster_network_policy(object)),
            Self::AdminNetworkPolicy => wrap(Object::Policy, admin_network_policy(object)),
            Self::BaselineAdminNetworkPolicy => wrap(Object::Policy, baseline_admin_network_policy(object)),
        }
    }

    /// The key of an object of this kind.
    pub fn key(self, object: &Value) -> ObjectKey {
        let name = Name::from(text(at(object, &["metadata", "name"])));
        let namespace = || namespace_of(object).into();
        let tiered = |kind| ObjectKey::Policy(PolicyId { kind, namespace: None, name: Name::clone(&name) });
        match self {
            Self::Namespace => ObjectKey::Namespace(name),
            Self::Node => ObjectKey::Node(name),
            Self::Pod => ObjectKey::Pod(PodKey { namespace: namespace(), name }),
            Self::NetworkPolicy => {
                ObjectKey::Policy(PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some(namespace()), name })
            }
            Self::ClusterNetworkPolicy => tiered(PolicyKind::ClusterNetworkPolicy),
            Self::AdminNetworkPolicy => tiered(PolicyKind::AdminNetworkPolicy),
            Self::BaselineAdminNetworkPolicy => tiered(PolicyKind::BaselineAdminNetworkPolicy),
        }
    }
}

impl Resource {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A label set; a null value is the empty string, other values that are no strings are left out.
pub fn labels(labels: &Value) -> Labels {
    let pairs = entries(labels).iter().filter(|(_, value)| value.is_string() || value.is_null());
    pairs.map(|(key, value)| (key.as_str(), text(value))).collect()
}

/// The namespace of an object in a namespace; where none is written, the one that kubectl would take.
pub(crate) fn namespace_of(object: &Value) -> &str {
    match text(get(get(object, "metadata"), "namespace")) {
        "" => "default",
        namespace => namespace,
    }
}
