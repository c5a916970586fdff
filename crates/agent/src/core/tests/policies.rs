//! Problems of policies.

use ringfence_datapath::{DropReason, Event};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event as Watched;
use ringfence_model::ObjectKey;
use serde_json::{Value, json};

use super::support::{Fixture, deny_all, pod};
use super::{apply, denied, event};
use crate::core::{Message, Question};
use crate::enforcer::EnforceError;
use crate::problem::{NO_CAPACITY, SAME_PRIORITY};
use crate::services::{Addresses, News};

/// A policy in the API's own words.
fn policy(kind: Kind, name: &str, spec: &Value) -> Message {
    let metadata = json!({"name": name, "namespace": "a", "uid": format!("uid-{name}"), "generation": 1});
    let (object, diagnostics) = kind.convert(&json!({"metadata": metadata, "spec": spec}));
    event(Watched::Apply { object, diagnostics })
}

#[test]
fn what_is_the_matter_with_policies_is_told_when_it_changes() {
    let mut fixture = Fixture::in_sync();
    let tiered = |action: &str| {
        let rule = json!({"action": action, "from": [{"namespaces": {}}]});
        json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "ingress": [rule]})
    };
    let accounts = |fixture: &mut Fixture, since| fixture.ask(|reply| Question::Accounts(since, reply));
    fixture.step([policy(Kind::ClusterNetworkPolicy, "one", &tiered("Accept"))]);
    let (first, told) = accounts(&mut fixture, 0);
    assert_eq!((told.len(), told[0].problems.len()), (1, 0));
    fixture.step([policy(Kind::ClusterNetworkPolicy, "two", &tiered("Deny"))]);
    let (second, told) = accounts(&mut fixture, first);
    assert!(told.len() == 2 && told.iter().all(|account| account.problems[0].reason == SAME_PRIORITY), "{told:?}");
    assert!(fixture.status().diagnostics[0].message.contains("ClusterNetworkPolicy two"));
    let text = fixture.metrics();
    let line = "ringfence_policies_with_problems{kind=\"ClusterNetworkPolicy\",reason=\"SamePriority\"} 2";
    assert!(text.lines().any(|found| found == line), "{text}");
    fixture.step([policy(Kind::ClusterNetworkPolicy, "two", &tiered("Deny"))]);
    assert_eq!(accounts(&mut fixture, second).1, [], "nothing new");
    let key = ObjectKey::Policy(told[1].id.clone());
    fixture.step([event(Watched::Delete(key))]);
    let (_, told) = accounts(&mut fixture, second);
    assert_eq!((told.len(), told[0].problems.len()), (1, 0), "alone again");
}

#[test]
fn a_block_of_service_addresses_is_told_and_flows_get_the_services_name() {
    let mut fixture = Fixture::in_sync();
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.96.0.7/32"}}]}]});
    fixture.step([policy(Kind::NetworkPolicy, "p", &spec)]);
    assert_eq!(fixture.status().diagnostics, []);
    let address = "10.96.0.7".parse().unwrap();
    let news = |cluster| {
        let addresses = Addresses { cluster, outside: Vec::new() };
        Message::Services(News::One(("b".into(), "web".into()), addresses))
    };
    fixture.step([news(vec![address])]);
    let remark = fixture.status().diagnostics.remove(0);
    assert!(remark.message.starts_with("warning: 10.96.0.7 is the address of Service b/web: "), "{}", remark.message);
    let event = Event { destination: address, ..denied(DropReason::Unparseable) };
    let flow = fixture.ask(|reply| Question::Resolve(vec![event], reply)).flows.remove(0);
    assert_eq!(flow.destination.to_string(), "service/b/web 10.96.0.7:80");
    fixture.step([news(vec![])]);
    assert_eq!(fixture.status().diagnostics, []);
}

#[test]
fn a_policy_there_is_no_room_for_is_told_until_there_is() {
    let mut fixture = Fixture::in_sync();
    fixture.fail(EnforceError::Capacity("map entries is full".into()));
    fixture.step([apply(deny_all("a", 1))]);
    let (revision, told) = fixture.ask(|reply| Question::Accounts(0, reply));
    let problem = &told[0].problems[0];
    assert_eq!(problem.reason, NO_CAPACITY);
    assert_eq!(problem.message, "node here: map entries is full; the policy before this change stays in force there");
    fixture.step([apply(pod("a", "more", "10.244.0.3"))]);
    let (_, told) = fixture.ask(|reply| Question::Accounts(revision, reply));
    assert_eq!((told.len(), told[0].problems.len()), (1, 0));
}
