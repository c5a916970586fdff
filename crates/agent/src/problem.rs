//! Problems of a policy, for status, conditions, Events and metrics.

use std::fmt;

use ringfence_k8s::{Diagnostic, Severity};
use ringfence_model::{Name, PodKey, PolicyId};

/// Two policies of one tier share a priority and may disagree.
pub(crate) const SAME_PRIORITY: &str = "SamePriority";
/// A block is of addresses that no packet has where policy is enforced.
pub(crate) const SERVICE_ADDRESSES: &str = "ServiceAddresses";
/// The policy does not fit into the kernel maps of a node.
pub(crate) const NO_CAPACITY: &str = "NoCapacity";

/// Several pods have an address, and policy tells them apart.
pub(crate) const ADDRESS_IN_DISPUTE: &str = "AddressInDispute";
/// A pod says that it has an address, and is not believed.
pub(crate) const ADDRESS_NOT_BELIEVED: &str = "AddressNotBelieved";

/// Report about a pod that claims an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) pod: PodKey,
    pub(crate) uid: Name,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// One thing that is the matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// An error: part of the policy is not enforced as written. A warning: it is, but perhaps not as meant.
    pub(crate) severity: Severity,
    /// Kind of problem, in camel case.
    pub(crate) reason: String,
    /// The field, if it is one's fault, and what follows.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn warning(reason: &str, message: String) -> Self {
        Self { severity: Severity::Warning, reason: reason.to_owned(), message }
    }

    /// True if it is the same for every node.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.reason != NO_CAPACITY
    }
}

/// Without the object: whoever tells it names that.
impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        let Diagnostic { severity, reason, path, message, hint, .. } = diagnostic;
        let place = if path.is_root() { String::new() } else { format!("{path}: ") };
        let hint = hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        Self { severity: *severity, reason: reason.to_string(), message: format!("{place}{message}{hint}") }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)
    }
}

/// A policy and what is the matter with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) id: PolicyId,
    pub(crate) uid: Name,
    pub(crate) generation: i64,
    /// Nothing, if it is enforced as written and nothing about it is in doubt.
    pub(crate) problems: Vec<Problem>,
}
