//! Policies and peers that do not fit, and who notices.

use std::thread;
use std::time::{Duration, Instant};

use ringfence_api::{OverCapacity, WaitRequest};
use ringfence_engine::{Limits, RulesetId};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{Direction, Object, ObjectKey};
use serde_json::json;

use super::support::{Call, Fixture, deny_all, pod};
use super::{apply, event, wait_for};
use crate::core::{Message, Question};
use crate::enforcer::EnforceError;
use crate::problem::NO_CAPACITY;

/// A policy of a namespace that lets in every pod of the cluster.
fn all_pods(namespace: &str) -> Object {
    let spec = json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]});
    let metadata = json!({"name": "all", "namespace": namespace, "uid": "uid-all", "generation": 1});
    Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec})).0
}

const LIMITS: Limits = Limits { port_ranges: 1000, ..Limits::NONE };

/// A policy of namespace `b` that takes up much more than there is.
fn big() -> Message {
    let ports: Vec<_> = (0..900).map(|n| json!({"port": 2 * n + 1})).collect();
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": "172.16.0.0/16"}}], "ports": ports}],
    });
    let metadata = json!({"name": "big", "namespace": "b", "uid": "uid-big", "generation": 1});
    let (object, diagnostics) = Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec}));
    event(Event::Apply { object, diagnostics })
}

#[test]
fn who_asks_for_too_much_goes_without_and_nobody_else_notices() {
    let mut fixture = Fixture::in_sync_within(LIMITS);
    fixture.step([apply(pod("b", "greedy", "10.244.0.8")), big()]);
    assert_eq!(fixture.kernel().endpoints[&"10.244.0.8".parse().unwrap()].ingress, RulesetId::NO_ROOM);
    // Others: a policy, a new pod.
    fixture.step([apply(deny_all("a", 1)), apply(pod("a", "new", "10.244.0.3"))]);
    let kernel = fixture.kernel();
    assert_eq!(kernel, fixture.core.planner.plan());
    for address in ["10.244.0.2", "10.244.0.3"] {
        let ingress = kernel.endpoints[&address.parse().unwrap()].ingress;
        assert!(ingress != RulesetId::NONE && ingress != RulesetId::NO_ROOM, "{address}");
    }
    let status = fixture.status();
    assert!(status.ready && status.enforcement.error.is_none(), "the node goes on");
    assert_eq!(fixture.ask(Question::Ready), Ok("ok; no room for the policies of 1 pods".into()));
    let enforced: Vec<_> =
        status.policies.iter().map(|policy| (policy.name.as_str(), policy.enforced_generation)).collect();
    assert_eq!(enforced, [("deny-all", Some(1)), ("big", None)]);
    let [without] = &status.pods_over_capacity[..] else { panic!("{:?}", status.pods_over_capacity) };
    assert_eq!((without.pod.as_str(), without.direction), ("greedy", Direction::Ingress));
    assert_eq!(without.policies, ["NetworkPolicy b/big"]);
    assert!(status.warnings[0].starts_with("no room in the map `port_ranges`"), "{:?}", status.warnings);
    let row = status.endpoints.iter().find(|endpoint| endpoint.pod == "greedy").unwrap();
    assert_eq!(row.ingress.as_deref(), Some("no room"));
    let text = fixture.metrics();
    for line in [
        "ringfence_pods_over_capacity 1",
        "ringfence_policies_with_problems{kind=\"NetworkPolicy\",reason=\"NoCapacity\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{text}");
    }
    let (_, told) = fixture.ask(|reply| Question::Accounts(0, reply));
    let problem = told.iter().find_map(|account| account.problems.first()).unwrap();
    assert!(problem.reason == NO_CAPACITY && problem.message.contains("ingress of b/greedy"), "{problem}");

    // Once it fits, it is enforced, and nobody has to change anything for that.
    let id = told.iter().find(|account| !account.problems.is_empty()).unwrap().id.clone();
    fixture.step([event(Event::Delete(ObjectKey::Policy(id)))]);
    let status = fixture.status();
    assert_eq!(status.pods_over_capacity, []);
    assert!(!status.warnings.iter().any(|warning| warning.contains("no room")), "{:?}", status.warnings);
}

#[test]
fn a_policy_that_fits_again_is_enforced_again() {
    let mut fixture = Fixture::in_sync_within(LIMITS);
    fixture.step([apply(pod("b", "greedy", "10.244.0.8")), big()]);
    let generation = |fixture: &mut Fixture| fixture.status().policies[0].enforced_generation;
    assert_eq!(generation(&mut fixture), None);
    let gone = pod("b", "greedy", "10.244.0.8").key();
    fixture.step([event(Event::Delete(gone))]);
    assert_eq!(generation(&mut fixture), Some(1), "it selects nobody here any more");
}

#[test]
fn what_does_not_fit_though_it_was_planned_to_is_planned_with_less_room() {
    let mut fixture = Fixture::in_sync_within(LIMITS);
    fixture.fail(EnforceError::Capacity("no slice is long enough".into()));
    fixture.step([apply(deny_all("a", 1))]);
    assert_eq!(fixture.calls(), [Call::Apply, Call::Sync], "nothing has to be left out, so nothing comes back");
    let status = fixture.status();
    assert_eq!((status.policies[0].enforced_generation, status.enforcement.error), (Some(1), None));
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
}

#[test]
fn where_it_is_set_pods_keep_what_they_had_and_new_ones_are_denied() {
    let mut fixture = Fixture::keeping_within(LIMITS);
    fixture.step([apply(pod("b", "greedy", "10.244.0.8")), apply(deny_all("b", 1))]);
    let ingress = |fixture: &Fixture, address: &str| fixture.kernel().endpoints[&address.parse().unwrap()].ingress;
    let had = ingress(&fixture, "10.244.0.8");
    fixture.step([big()]);
    assert_eq!(ingress(&fixture, "10.244.0.8"), had, "what does not fit is not in force, what was is");
    fixture.step([apply(pod("b", "new", "10.244.0.9"))]);
    assert_eq!(ingress(&fixture, "10.244.0.9"), RulesetId::NO_ROOM);
    assert_eq!(ingress(&fixture, "10.244.0.8"), had);
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
    let status = fixture.status();
    let rows: Vec<_> = status.pods_over_capacity.iter().map(|row| (row.pod.as_str(), row.keeps_previous)).collect();
    assert_eq!(rows, [("new", false), ("greedy", true)]);
    assert!(status.warnings[0].contains("b/new is denied whole, b/greedy keep for ingress"), "{:?}", status.warnings);
    assert_eq!(status.enforcement.over_capacity, OverCapacity::Keep);
    let big = status.policies.iter().find(|policy| policy.name == "big").unwrap();
    assert_eq!(big.enforced_generation, None, "nobody is told that it is enforced");
    // Another pod of the same address had nothing.
    let gone = pod("b", "greedy", "10.244.0.8").key();
    fixture.step([event(Event::Delete(gone)), apply(pod("b", "next", "10.244.0.8"))]);
    assert_eq!(ingress(&fixture, "10.244.0.8"), RulesetId::NO_ROOM);
}

#[test]
fn pods_that_are_more_than_there_is_room_for_are_told_of_with_their_namespace() {
    let mut fixture = Fixture::in_sync_within(Limits { ipcache: 20, ipcache_cidrs: 20, ..Limits::NONE });
    let far = |number: u8| {
        let Object::Pod(mut pod) = pod("b", &format!("far{number}"), &format!("10.244.7.{number}")) else { panic!() };
        pod.node = Some("there".into());
        apply(Object::Pod(pod))
    };
    fixture.step((0..60).map(far).chain([apply(all_pods("a"))]));
    let status = fixture.status();
    assert!(status.ready);
    let warning = status.warnings.iter().find(|warning| warning.contains("map `ipcache`")).unwrap();
    assert!(warning.contains("41 addresses of pods of namespaces b (41)"), "{warning}");
    let told = fixture.ask(Question::Claims);
    assert!(told.len() == 41 && told.iter().all(|claim| claim.reason == NO_CAPACITY), "{told:?}");
    let text = fixture.metrics();
    assert!(text.contains("\nringfence_peers_over_capacity 41\n"), "{text}");
    assert_eq!(fixture.ask(Question::Ready), Ok("ok; no room for 41 addresses of pods as peers".into()));
    assert!(fixture.kernel().ipcache.len() <= 40);
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
}

/// A policy of 30,000 ports in namespace `b`, at a generation.
fn large(name: &str, generation: i64) -> Message {
    let ports: Vec<_> = (0..30_000).map(|n| json!({"port": 2 * n + 1})).collect();
    let metadata = json!({"name": name, "namespace": "b", "uid": format!("uid-{name}"), "generation": generation});
    let spec = json!({"podSelector": {}, "ingress": [{"ports": ports}]});
    let (object, diagnostics) = Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec}));
    event(Event::Apply { object, diagnostics })
}

#[test]
fn whoever_writes_large_policies_waits_for_turns_and_nobody_else_does() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("b", "greedy", "10.244.0.8")), large("big", 1)]);
    let generation = |fixture: &mut Fixture, name: &str| {
        let policies = fixture.status().policies;
        policies.iter().find(|policy| policy.name == name).and_then(|policy| policy.enforced_generation)
    };
    assert_eq!(generation(&mut fixture, "big"), Some(1));
    // As many as can be written: of each the newest waits.
    let many: Vec<_> = (2..8).map(|number| [large("big", number), large("other", number)]).collect();
    fixture.step([large("big", 1)]);
    for both in many {
        fixture.step(both);
    }
    let status = fixture.status();
    assert!(status.ready);
    assert!(
        status.warnings.iter().any(|text| text.starts_with("2 large policies of namespace b")),
        "{:?}",
        status.warnings
    );
    assert_eq!(generation(&mut fixture, "big"), Some(1), "what was in force is");
    // A new pod of the namespace waits with them, others do not.
    let waits = |fixture: &mut Fixture, namespace: &str, name: &str, address: &str| {
        fixture.step([apply(pod(namespace, name, address))]);
        let request = WaitRequest { namespace: namespace.into(), ..wait_for(name, &[address]) };
        fixture.ask(|reply| Question::Check(request, reply)).is_err()
    };
    assert!(waits(&mut fixture, "b", "late", "10.244.0.9"));
    assert!(!waits(&mut fixture, "a", "new", "10.244.0.3"));
    fixture.step([apply(deny_all("a", 1))]);
    assert_eq!(generation(&mut fixture, "deny-all"), Some(1));
    // Nothing is forgotten.
    let end = Instant::now() + Duration::from_mins(1);
    while generation(&mut fixture, "big") != Some(7) || generation(&mut fixture, "other") != Some(7) {
        let next = fixture.core.retry_at().expect("somebody waits");
        assert!(next < end, "in vain");
        thread::sleep(next.saturating_duration_since(Instant::now()));
        fixture.core.commit();
    }
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
}
