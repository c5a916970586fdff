//! ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy: ordered rules of the tiers around
//! NetworkPolicy.
//!
//! Conversion fails closed. An unknown peer, port or action makes an accepting rule match nothing and any other rule
//! deny everything (`policy.networking.k8s.io`, "unknown peers"). A problem of the whole policy is a problem of each of
//! its rules. Then an unknown subject is every pod, an unknown tier is Admin, an unknown priority comes first, and a
//! list of rules that is no list denies its direction. A policy without rules does nothing in any case.

mod dialect;
mod peer;
mod port;
mod rule;

use ringfence_model::{Direction, Name, NamespaceSelection, PodSelection, Policy, PolicyId, Rule, Selector, Tier};
use serde_json::Value;

use self::dialect::{ADMIN, BASELINE, CLUSTER, Dialect};
use super::reader::{Reader, unknown_field};
use super::selector::NotUnderstood;
use crate::diagnostic::Diagnostic;
use crate::json::{get, text};
use crate::path::Path;

const HINT: &str = "correct the policy, or use a version of Ringfence that knows it";

/// The largest priority the API takes.
const PRIORITY_MAX: u32 = 1000;

/// A ClusterNetworkPolicy (v1alpha2).
pub fn cluster_network_policy(policy: &Value) -> (Policy, Vec<Diagnostic>) {
    read(policy, &CLUSTER)
}

/// An AdminNetworkPolicy (v1alpha1). Its tier is Admin.
pub fn admin_network_policy(policy: &Value) -> (Policy, Vec<Diagnostic>) {
    read(policy, &ADMIN)
}

/// A BaselineAdminNetworkPolicy (v1alpha1). Its tier is Baseline; it comes after every ClusterNetworkPolicy in it.
pub fn baseline_admin_network_policy(policy: &Value) -> (Policy, Vec<Diagnostic>) {
    read(policy, &BASELINE)
}

fn read(policy: &Value, dialect: &Dialect) -> (Policy, Vec<Diagnostic>) {
    let mut reader = Reader::new(policy, dialect.title, false);
    let metadata = get(policy, "metadata");
    let name = Name::from(text(get(metadata, "name")));
    dialect.check_name(&name, &mut reader);
    let specification = Specification::read(policy, dialect, &mut reader);
    let policy = Policy {
        id: PolicyId { kind: dialect.kind, namespace: None, name },
        uid: text(get(metadata, "uid")).into(),
        generation: get(metadata, "generation").as_i64().unwrap_or_default(),
        tier: specification.tier,
        priority: specification.priority,
        subject: specification.subject,
        ingress: Some(specification.ingress),
        egress: Some(specification.egress),
        rules_withheld: false,
    };
    (policy, reader.finish())
}

/// The specification of a policy, as far as it could be converted.
struct Specification {
    tier: Tier,
    priority: u32,
    subject: PodSelection,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

impl Specification {
    fn read(policy: &Value, dialect: &Dialect, reader: &mut Reader<'_>) -> Self {
        let path = Path::ROOT.field("spec");
        let spec = get(policy, "spec");
        if !spec.is_object() && !spec.is_null() {
            return Self::deny_all(&NotUnderstood::wrong_type(&path, spec, "an object"), reader);
        }
        let mut closed = None;
        let mut whole = |error: NotUnderstood, instead: &str| {
            let message =
                format!("{}; {instead}its accepting rules match nothing, all others deny everything", error.cause);
            closed.get_or_insert_with(|| Name::from(error.to_string()));
            reader.not_understood(error, message, HINT);
        };
        if let Some(error) = stranger(policy, spec, &path, dialect) {
            whole(error, "");
        }
        let tier = dialect.tier(spec, &path).unwrap_or_else(|error| {
            whole(error, "the policy is taken to be of the Admin tier; ");
            Tier::Admin
        });
        let priority = dialect.priority(spec, &path).unwrap_or_else(|error| {
            whole(error, "the policy is taken to come first in its tier; ");
            0
        });
        let subject = peer::subject(get(spec, "subject"), &path.field("subject"), dialect).unwrap_or_else(|error| {
            whole(error, "the policy is taken to select every pod; ");
            every_pod()
        });
        let mut rules = |direction| rule::rules(spec, direction, &path, dialect, closed.as_ref(), reader);
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        Self { tier, priority, subject, ingress, egress }
    }

    /// Nothing is understood.
    fn deny_all(error: &NotUnderstood, reader: &mut Reader<'_>) -> Self {
        let message = format!("{}; every pod is denied everything instead", error.cause);
        reader.not_understood(error.clone(), message, HINT);
        let rule = || vec![rule::deny_all(error)];
        Self { tier: Tier::Admin, priority: 0, subject: every_pod(), ingress: rule(), egress: rule() }
    }
}

fn every_pod() -> PodSelection {
    PodSelection { namespaces: NamespaceSelection::Matching(Selector::everything()), pods: Selector::everything() }
}

/// A field beside or in `spec` that could change the meaning of everything.
fn stranger(policy: &Value, spec: &Value, path: &Path<'_>, dialect: &Dialect) -> Option<NotUnderstood> {
    let top = unknown_field(policy, &["apiVersion", "kind", "metadata", "spec", "status"]);
    match top {
        Some(field) => Some(NotUnderstood::unknown_field(&Path::ROOT, field)),
        None => unknown_field(spec, dialect.fields).map(|field| NotUnderstood::unknown_field(path, field)),
    }
}
