//! The differences between the three kinds of cluster-wide policy.

use ringfence_model::{Action, Name, PolicyKind, PortMatch, Tier};
use serde_json::Value;

use super::{HINT, PRIORITY_MAX, port};
use crate::convert::reader::Reader;
use crate::convert::selector::NotUnderstood;
use crate::diagnostic::Severity;
use crate::json::{get, text};
use crate::path::{Path, Segment};

/// The name a BaselineAdminNetworkPolicy must have: there is one in a cluster.
pub(crate) const ONLY_BASELINE: &str = "default";

/// Names and permitted values of the fields of a kind.
pub(super) struct Dialect {
    pub(super) kind: PolicyKind,
    pub(super) title: &'static str,
    /// The fields of `spec`.
    pub(super) fields: &'static [&'static str],
    /// None: the policy says.
    tier: Option<Tier>,
    /// None: the policy says.
    priority: Option<u32>,
    /// The actions of rules, and what they mean.
    actions: &'static [(&'static str, Action)],
    /// The permitted kinds of peer in `to`; `from` permits the first two.
    pub(super) peers: &'static [&'static str],
    /// `pods` may lack `namespaceSelector`, and then means all namespaces.
    pub(super) any_namespace: bool,
    /// The field of a rule with its ports, and how to read an item of it.
    pub(super) ports: &'static str,
    pub(super) port: fn(&Value, &Path<'_>) -> Result<PortMatch, NotUnderstood>,
}

/// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
pub(super) const CLUSTER: Dialect = Dialect {
    kind: PolicyKind::ClusterNetworkPolicy,
    title: "ClusterNetworkPolicy",
    fields: &["tier", "priority", "subject", "ingress", "egress"],
    tier: None,
    priority: None,
    actions: &[("Accept", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    peers: &["namespaces", "pods", "networks", "nodes", "domainNames"],
    any_namespace: true,
    ports: "protocols",
    port: port::protocol,
};

/// `policy.networking.k8s.io/v1alpha1` AdminNetworkPolicy.
pub(super) const ADMIN: Dialect = Dialect {
    kind: PolicyKind::AdminNetworkPolicy,
    title: "AdminNetworkPolicy",
    fields: &["priority", "subject", "ingress", "egress"],
    tier: Some(Tier::Admin),
    priority: None,
    actions: &[("Allow", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    peers: &["namespaces", "pods", "networks", "nodes", "domainNames"],
    any_namespace: false,
    ports: "ports",
    port: port::port,
};

/// `policy.networking.k8s.io/v1alpha1` BaselineAdminNetworkPolicy.
pub(super) const BASELINE: Dialect = Dialect {
    kind: PolicyKind::BaselineAdminNetworkPolicy,
    title: "BaselineAdminNetworkPolicy",
    fields: &["subject", "ingress", "egress"],
    tier: Some(Tier::Baseline),
    priority: Some(PRIORITY_MAX + 1),
    actions: &[("Allow", Action::Accept), ("Deny", Action::Deny)],
    peers: &["namespaces", "pods", "networks", "nodes"],
    any_namespace: false,
    ports: "ports",
    port: port::port,
};

impl Dialect {
    /// Says so if the API would not take the name. The policy is honoured under any.
    pub(super) fn check_name(&self, name: &str, reader: &mut Reader<'_>) {
        if self.kind != PolicyKind::BaselineAdminNetworkPolicy || name == ONLY_BASELINE {
            return;
        }
        let path = ["metadata", "name"].map(|field| Segment::Field(field.to_owned())).into_iter().collect();
        let message =
            format!("a cluster has one BaselineAdminNetworkPolicy, named {ONLY_BASELINE:?}; this one counts too");
        reader.report(Severity::Warning, path, message, HINT);
    }

    pub(super) fn tier(&self, spec: &Value, path: &Path<'_>) -> Result<Tier, NotUnderstood> {
        let value = get(spec, "tier");
        match (self.tier, text(value)) {
            (Some(tier), _) => Ok(tier),
            (None, "Admin") => Ok(Tier::Admin),
            (None, "Baseline") => Ok(Tier::Baseline),
            (None, _) => Err(NotUnderstood::new(&path.field("tier"), format!("unknown tier {value}"))),
        }
    }

    pub(super) fn priority(&self, spec: &Value, path: &Path<'_>) -> Result<u32, NotUnderstood> {
        if let Some(priority) = self.priority {
            return Ok(priority);
        }
        let value = get(spec, "priority");
        let priority = value.as_u64().and_then(|priority| u32::try_from(priority).ok());
        priority.filter(|priority| *priority <= PRIORITY_MAX).ok_or_else(|| {
            NotUnderstood::new(&path.field("priority"), format!("{value} is not a priority from 0 to {PRIORITY_MAX}"))
        })
    }

    pub(super) fn action(&self, value: &Value) -> Action {
        let known = self.actions.iter().find(|(name, _)| value.as_str() == Some(name));
        known.map_or_else(
            || Action::Unknown(Name::from(format!("unknown action {value}"))),
            |(_, action)| action.clone(),
        )
    }
}
