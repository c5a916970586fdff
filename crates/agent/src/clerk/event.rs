//! What is the matter with a policy, as Events.

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
use crate::problem::Account;

/// Bytes the API takes in a note.
const LONGEST_NOTE: usize = 1024;
/// Bytes of a policy's name in the name of an Event, which has room for 253 altogether.
const LONGEST_NAME: usize = 200;
/// Where Events about objects without a namespace are.
const CLUSTER_EVENTS: &str = "default";

/// The Events about a policy: one for each reason. What they are called says what they say, so that one is there once
/// whoever writes it.
///
/// What concerns a node alone is told by that node's agent, everything else by the one that is elected: `own` says which.
pub(super) fn events(account: &Account, node: &str, own: bool) -> Vec<Event> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for problem in account.problems.iter().filter(|problem| problem.is_everywhere() != own) {
        reasons.entry(&problem.reason).or_default().push(&problem.message);
    }
    let event = |(reason, messages): (&str, Vec<&str>)| {
        let note = shorten(messages.join("\n"), LONGEST_NOTE);
        let print = BuildHasherDefault::<DefaultHasher>::default().hash_one((&*account.uid, reason, &note));
        let name = shorten_name(&account.id.name);
        let resource = resource(account.id.kind);
        let namespace = account.id.namespace.as_deref();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{print:016x}")),
                namespace: Some(namespace.unwrap_or(CLUSTER_EVENTS).to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            action: Some("Enforcing".into()),
            reason: Some(reason.to_owned()),
            note: Some(note),
            type_: Some("Warning".into()),
            regarding: Some(ObjectReference {
                api_version: Some(resource.api_version()),
                kind: Some(resource.kind.into()),
                namespace: namespace.map(Into::into),
                name: Some(account.id.name.to_string()),
                uid: Some(account.uid.to_string()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(NAME.into()),
            reporting_instance: Some(shorten(node.to_owned(), 128)),
            ..Event::default()
        }
    };
    reasons.into_iter().map(event).collect()
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
