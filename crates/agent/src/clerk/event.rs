//! Problems of a policy, or of a pod's address, as Events.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

use super::NAME;
use super::condition::shorten;
use super::writer::resource;
use crate::problem::{Account, Claim};

/// Bytes the API takes in a note.
const LONGEST_NOTE: usize = 1024;
/// Bytes of a policy's name in the name of an Event, which has room for 253 altogether.
const LONGEST_NAME: usize = 200;
/// Namespace of Events about objects without a namespace.
const CLUSTER_EVENTS: &str = "default";

/// The Events about a policy: one for each reason.
///
/// What concerns a node alone is told by that node's agent, everything else by the one that is elected: `own` says
/// which.
pub(super) fn events(account: &Account, node: &str, own: bool) -> Vec<Event> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for problem in account.problems.iter().filter(|problem| problem.is_everywhere() != own) {
        reasons.entry(&problem.reason).or_default().push(&problem.message);
    }
    let resource = resource(account.id.kind);
    let regarding = ObjectReference {
        api_version: Some(resource.api_version()),
        kind: Some(resource.kind.into()),
        namespace: account.id.namespace.as_deref().map(Into::into),
        name: Some(account.id.name.to_string()),
        uid: Some(account.uid.to_string()),
        ..ObjectReference::default()
    };
    reasons.into_iter().map(|(reason, messages)| event(regarding.clone(), reason, messages.join("\n"), node)).collect()
}

/// The Event about a pod that says it has an address.
pub(super) fn about_claim(claim: &Claim, node: &str) -> Event {
    let regarding = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(claim.pod.namespace.to_string()),
        name: Some(claim.pod.name.to_string()),
        uid: Some(claim.uid.to_string()),
        ..ObjectReference::default()
    };
    event(regarding, claim.reason, claim.message.clone(), node)
}

/// An Event. Its name is a hash of its text, so that it exists once whichever agent writes it.
fn event(regarding: ObjectReference, reason: &str, message: String, node: &str) -> Event {
    let note = shorten(message, LONGEST_NOTE);
    let uid = regarding.uid.as_deref().unwrap_or_default();
    let print = BuildHasherDefault::<DefaultHasher>::default().hash_one((uid, reason, &note));
    let name = shorten_name(regarding.name.as_deref().unwrap_or_default()).to_owned();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{print:016x}")),
            namespace: Some(regarding.namespace.clone().unwrap_or_else(|| CLUSTER_EVENTS.to_owned())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        action: Some("Enforcing".into()),
        reason: Some(reason.to_owned()),
        note: Some(note),
        type_: Some("Warning".into()),
        regarding: Some(regarding),
        reporting_controller: Some(NAME.into()),
        reporting_instance: Some(shorten(node.to_owned(), 128)),
        ..Event::default()
    }
}

/// Names end in a letter or digit.
fn shorten_name(name: &str) -> &str {
    name[..name.floor_char_boundary(LONGEST_NAME)].trim_end_matches(['.', '-'])
}

#[cfg(test)]
mod tests {
    use ringfence_model::{PolicyId, PolicyKind};

    use super::*;
    use crate::problem::{NO_CAPACITY, Problem};

    fn account(kind: PolicyKind, problems: &[(&str, &str)]) -> Account {
        let namespace = (kind == PolicyKind::NetworkPolicy).then(|| "shop".into());
        let problems = problems.iter().map(|(reason, text)| Problem::warning(reason, (*text).to_owned())).collect();
        Account { id: PolicyId { kind, namespace, name: "p".into() }, uid: "u".into(), generation: 1, problems }
    }

    #[test]
    fn there_is_one_for_each_reason_where_the_policy_is() {
        let problems = [("A", "one"), ("B", "two"), ("A", "three")];
        let all = events(&account(PolicyKind::NetworkPolicy, &problems), "n", false);
        let told: Vec<_> =
            all.iter().map(|event| (event.reason.as_deref().unwrap(), event.note.as_deref().unwrap())).collect();
        assert_eq!(told, [("A", "one\nthree"), ("B", "two")]);
        assert!(all.iter().all(|event| event.metadata.namespace.as_deref() == Some("shop")));
        let wide = events(&account(PolicyKind::ClusterNetworkPolicy, &problems), "n", false);
        assert_eq!(wide[0].metadata.namespace.as_deref(), Some("default"));
        assert_eq!(
            wide[0].regarding.as_ref().unwrap().api_version.as_deref(),
            Some("policy.networking.k8s.io/v1alpha2")
        );
        assert!(events(&account(PolicyKind::NetworkPolicy, &[]), "n", false).is_empty());
    }

    #[test]
    fn a_pod_whose_address_is_in_dispute_is_told_of_where_it_is() {
        let claim = Claim {
            pod: ringfence_model::PodKey { namespace: "shop".into(), name: "web".into() },
            uid: "u".into(),
            reason: crate::problem::ADDRESS_IN_DISPUTE,
            message: "text".into(),
        };
        let event = about_claim(&claim, "n");
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Pod"), Some("u")));
        assert_eq!((event.reason.as_deref(), event.note.as_deref()), (Some("AddressInDispute"), Some("text")));
    }

    #[test]
    fn what_says_the_same_is_called_the_same() {
        let name = |text: &str, node: &str| {
            events(&account(PolicyKind::NetworkPolicy, &[("A", text)]), node, false).remove(0).metadata.name.unwrap()
        };
        assert_eq!(name("one", "n"), name("one", "m"), "whoever says it");
        assert_ne!(name("one", "n"), name("two", "n"));
    }

    #[test]
    fn long_names_and_notes_fit() {
        let mut long = account(PolicyKind::NetworkPolicy, &[("A", &"ß".repeat(2000))]);
        long.id.name = format!("{}-{}", "a".repeat(199), "b".repeat(50)).as_str().into();
        let event = events(&long, &"n".repeat(253), false).remove(0);
        assert!(event.note.unwrap().len() <= LONGEST_NOTE);
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && name.starts_with(&format!("{}.", "a".repeat(199))), "{name}");
    }

    #[test]
    fn what_concerns_a_node_is_told_by_its_own_agent() {
        let both = account(PolicyKind::NetworkPolicy, &[("A", "one"), (NO_CAPACITY, "node n: no room")]);
        let told = |own| {
            let events = events(&both, "n", own);
            events.into_iter().map(|event| event.reason.unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(told(false), ["A"]);
        assert_eq!(told(true), [NO_CAPACITY]);
    }
}
