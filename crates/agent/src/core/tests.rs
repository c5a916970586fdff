//! The wiring against a kernel that is a plan in memory.

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use ringfence_datapath::Interface;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{Object, ObjectKey, PodKey};
use tokio::sync::oneshot;

use super::{Message, Question};
use crate::api::{ReleaseRequest, WaitRequest};
use crate::enforcer::EnforceError;
use crate::flows::{Outcome, Record, Why};
use support::{Call, Fixture, deny_all, namespace, node, pod};

fn event(event: Event) -> Message {
    Message::Event { event, received: Instant::now() }
}

fn apply(object: Object) -> Message {
    event(Event::Apply { object, diagnostics: Vec::new() })
}

#[test]
fn nothing_is_applied_before_everything_was_listed() {
    let mut fixture = Fixture::new();
    for message in Fixture::listing() {
        fixture.step([message]);
        assert_eq!(fixture.calls(), [], "a partial view must not reach the kernel");
    }
    assert!(!fixture.status().ready);
    fixture.step([event(Event::InSync)]);
    assert_eq!(fixture.calls(), [Call::Sync]);
    assert!(fixture.status().ready);
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
}

#[test]
fn a_burst_is_one_change_of_the_kernel() {
    let mut fixture = Fixture::in_sync();
    let pods = (10..60).map(|i| apply(pod("a", &format!("p{i}"), &format!("10.244.0.{i}"))));
    fixture.step(pods.chain([apply(deny_all("a", 1))]));
    let calls = fixture.calls();
    assert!((1..=2).contains(&calls.len()) && calls.iter().all(|call| *call == Call::Apply), "{calls:?}");
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
    assert_eq!(fixture.kernel().endpoints.len(), 51);
}

#[test]
fn an_event_that_changes_nothing_does_not_touch_the_kernel() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "web", "10.244.0.2"))]);
    assert_eq!(fixture.calls(), []);
}

#[test]
fn a_change_that_does_not_fit_leaves_the_old_policy_and_is_tried_again_with_the_next() {
    let mut fixture = Fixture::in_sync();
    let before = fixture.kernel();
    fixture.fail(EnforceError::Capacity("map entries is full".into()));
    fixture.step([apply(deny_all("a", 1))]);
    assert_eq!(fixture.calls(), [Call::Apply]);
    assert_eq!(fixture.kernel(), before);
    let status = fixture.status();
    assert!(status.ready, "the policy before it is enforced");
    assert!(status.warnings[0].contains("map entries is full"), "{:?}", status.warnings);
    assert_eq!(status.policies[0].enforced_generation, None);
    assert_eq!(fixture.core.retry_at(), None, "what does not fit now does not fit a moment later");

    fixture.step([apply(pod("a", "more", "10.244.0.3"))]);
    assert_eq!(fixture.calls(), [Call::Sync], "the difference since is not known: everything is compared");
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
    let status = fixture.status();
    assert_eq!(status.policies[0].enforced_generation, Some(1));
    assert!(status.enforcement.error.is_none());
}

#[test]
fn a_kernel_that_refuses_is_tried_again_unasked() {
    let mut fixture = Fixture::in_sync();
    fixture.fail(EnforceError::Kernel("cannot update map".into()));
    fixture.step([apply(deny_all("a", 1))]);
    assert_eq!(fixture.calls(), [Call::Apply]);
    let at = fixture.core.retry_at().expect("a time to try again");
    let end = Instant::now() + std::time::Duration::from_secs(10);
    while Instant::now() < at {
        assert!(Instant::now() < end, "the wait before trying again is short");
        std::thread::yield_now();
    }
    fixture.core.commit();
    assert_eq!(fixture.calls(), [Call::Sync]);
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
    assert_eq!(fixture.core.retry_at(), None);
}

#[test]
fn generations_are_told_apart_from_those_enforced() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(deny_all("a", 1))]);
    let policy = fixture.status().policies.remove(0);
    assert_eq!((policy.generation, policy.enforced_generation, policy.selected_pods), (1, Some(1), 1));
    assert_eq!(policy.directions, ["ingress", "egress"]);
    fixture.fail(EnforceError::Kernel("no".into()));
    // A change of the spec that no pod of this node sees is enforced with the commit that took it in.
    fixture.step([apply(deny_all("a", 2)), apply(pod("a", "new", "10.244.0.9"))]);
    let policy = fixture.status().policies.remove(0);
    assert_eq!((policy.generation, policy.enforced_generation), (2, Some(1)));
}

#[test]
fn a_new_listing_removes_what_is_gone() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "gone", "10.244.0.9"))]);
    assert_eq!(fixture.kernel().endpoints.len(), 2);
    let objects = vec![pod("a", "web", "10.244.0.2"), pod("a", "new", "10.244.0.7")];
    fixture.step([event(Event::Reset { kind: Kind::Pod, objects, diagnostics: Vec::new() })]);
    let addresses: Vec<_> = fixture.kernel().endpoints.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.244.0.2", "10.244.0.7"]);
}

#[test]
fn the_api_may_go_away_and_come_back() {
    let mut fixture = Fixture::in_sync();
    let before = fixture.kernel();
    fixture.step([event(Event::Disconnected { kind: Kind::Pod, error: "connection refused".into() })]);
    let status = fixture.status();
    assert!(status.ready, "what is in the kernel stands");
    assert!(status.warnings[0].contains("connection refused"), "{:?}", status.warnings);
    assert_eq!((fixture.calls(), fixture.kernel()), (vec![], before));
    fixture.step([event(Event::Connected { kind: Kind::Pod })]);
    assert_eq!(fixture.status().warnings, Vec::<String>::new());
}

#[test]
fn one_address_claimed_twice_is_reported() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "twin", "10.244.0.2"))]);
    let objects: Vec<_> = fixture.status().diagnostics.into_iter().map(|remark| remark.object).collect();
    assert_eq!(objects, ["Pod a/twin", "Pod a/web"]);
    fixture.step([event(Event::Delete(ObjectKey::Pod(PodKey { namespace: "a".into(), name: "web".into() })))]);
    assert_eq!(fixture.status().diagnostics, []);
    assert_eq!(&*fixture.kernel().endpoints.values().next().unwrap().pod.name, "twin");
}

fn wait_for(name: &str, addresses: &[&str]) -> WaitRequest {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    WaitRequest {
        namespace: "a".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        addresses,
        container: None,
        timeout_ms: 1000,
    }
}

#[test]
fn who_waits_is_answered_when_the_pod_is_in_the_kernel() {
    let mut fixture = Fixture::in_sync();
    let (reply, mut answer) = oneshot::channel();
    fixture.step([Message::Ask(Question::Wait(wait_for("late", &[]), reply))]);
    assert!(answer.try_recv().is_err());
    fixture.fail(EnforceError::Capacity("full".into()));
    fixture.step([apply(pod("a", "late", "10.244.0.5"))]);
    assert!(answer.try_recv().is_err(), "it did not fit, so it is not in the kernel");
    let why = fixture.ask(|reply| Question::WhyWaiting(wait_for("late", &[]), reply));
    assert_eq!(why, "full; the policy before this change stays in force");
    fixture.step([apply(deny_all("a", 1))]);
    assert_eq!(answer.try_recv().unwrap(), ["10.244.0.5".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn addresses_the_api_does_not_know_yet_come_with_the_request() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "starting", ""))]);
    let (reply, mut answer) = oneshot::channel();
    fixture.step([Message::Ask(Question::Wait(wait_for("starting", &["10.244.0.8"]), reply))]);
    fixture.step([Message::Bridge(None)]);
    assert_eq!(answer.try_recv().unwrap().len(), 1);
    // Another event about the pod, still without addresses, does not take them away.
    fixture.step([apply(pod("a", "starting", ""))]);
    assert!(fixture.kernel().endpoints.contains_key(&"10.244.0.8".parse().unwrap()));
    // Once the API knows, it knows better.
    fixture.step([apply(pod("a", "starting", "10.244.0.99"))]);
    let addresses: Vec<_> = fixture.kernel().endpoints.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.244.0.2", "10.244.0.99"]);
}

/// Asks for a pod in a sandbox, and whether its policy is in the kernel now.
fn add(fixture: &mut Fixture, name: &str, address: &str, container: &str) -> bool {
    let (reply, mut answer) = oneshot::channel();
    let request = WaitRequest { container: Some(container.into()), ..wait_for(name, &[address]) };
    fixture.step([Message::Ask(Question::Wait(request, reply))]);
    fixture.step([Message::Bridge(None)]);
    answer.try_recv().is_ok()
}

fn release(fixture: &mut Fixture, name: &str, container: &str) {
    let (namespace, uid) = ("a".into(), format!("uid-{name}"));
    let request = ReleaseRequest { namespace, name: name.into(), uid, container: container.into() };
    fixture.ask(|reply| Question::Release(request, reply));
}

fn owner(fixture: &mut Fixture, address: &str) -> Option<String> {
    let plan = fixture.kernel();
    plan.endpoints.get(&address.parse().unwrap()).map(|endpoint| endpoint.pod.name.to_string())
}

#[test]
fn the_address_of_a_sandbox_that_is_gone_is_closed_until_somebody_else_has_it() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "old", "")), apply(pod("a", "new", ""))]);
    assert!(add(&mut fixture, "old", "10.244.0.8", "c1"));
    fixture.step([apply(pod("a", "old", "10.244.0.8"))]);
    release(&mut fixture, "old", "c1");
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    // The API goes on saying that it has the address for a while.
    fixture.step([apply(pod("a", "old", "10.244.0.8"))]);
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    assert!(add(&mut fixture, "new", "10.244.0.8", "c2"));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "new");
}

#[test]
fn a_new_sandbox_of_the_same_pod_opens_again_and_late_tidying_does_not_close_it() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "again", "10.244.0.8"))]);
    for (container, address) in [("c1", "10.244.0.8"), ("c2", "10.244.0.8"), ("c3", "10.244.0.9")] {
        assert!(add(&mut fixture, "again", address, container), "{container}");
        release(&mut fixture, "again", "c0");
        fixture.step([apply(pod("a", "again", "10.244.0.8"))]);
        assert_eq!(owner(&mut fixture, address).unwrap(), "again", "{container}");
        if container != "c3" {
            release(&mut fixture, "again", container);
            assert_eq!(owner(&mut fixture, address), None, "{container}");
        }
    }
}

#[test]
fn an_earlier_pod_of_the_same_name_does_not_count() {
    let mut fixture = Fixture::in_sync();
    let mut request = wait_for("web", &[]);
    request.uid = "another".into();
    let why = fixture.ask(|reply| Question::WhyWaiting(request.clone(), reply));
    assert_eq!(why, "no pod a/web with uid another is bound to this node");
}

#[test]
fn a_denial_is_told_with_names_and_a_way_out() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("b", "client", "10.244.1.7")), apply(deny_all("a", 1))]);
    let cause = *fixture.kernel().causes.iter().find(|(_, cause)| cause.to_string().contains("ingress")).unwrap().0;
    let record = Record {
        verdict: Outcome::Denied,
        direction: Some(ringfence_model::Direction::Ingress),
        protocol: ringfence_model::Protocol::TCP,
        source: ("10.244.1.7".parse().unwrap(), 40000),
        destination: ("10.244.0.2".parse().unwrap(), 80),
        from_node: false,
        repeated: 3,
        why: Why::Cause(cause),
    };
    let flow = fixture.ask(|reply| Question::Names(vec![record], reply)).remove(0).flow;
    assert_eq!(flow.source.to_string(), "b/client 10.244.1.7:40000");
    assert_eq!(flow.destination.to_string(), "a/web 10.244.0.2:80");
    assert_eq!(
        (flow.reason.as_str(), flow.policies.as_slice()),
        ("isolated", &["NetworkPolicy a/deny-all".into()][..])
    );
    assert_eq!(
        flow.hint.unwrap(),
        "allow ingress from pods like b/client (namespaceSelector and podSelector), port 80/TCP in a NetworkPolicy \
         that selects a/web"
    );
}

#[test]
fn interfaces_reach_the_kernel_and_unknown_ones_are_told() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "more", "10.244.0.3"))]);
    fixture.calls();
    fixture.step([Message::Interfaces(BTreeMap::from([(
        "10.244.0.2".parse().unwrap(),
        Interface { index: 7, bridge: Some(3) },
    )]))]);
    assert_eq!(fixture.calls(), [Call::Interfaces(1)]);
    let interfaces: Vec<_> = fixture.status().endpoints.into_iter().map(|endpoint| endpoint.interface).collect();
    assert_eq!(interfaces, [Some(7), None]);
}

#[test]
fn the_plan_and_the_metrics_can_be_read() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(deny_all("a", 1)), apply(node("other", "10.90.0.12", "10.244.1.0/24")), apply(namespace("c"))]);
    let plan = fixture.ask(Question::Plan);
    assert_eq!(plan["kind"], "Plan");
    assert_eq!(plan["endpoints"]["10.244.0.2"]["pod"], "a/web");
    assert_eq!(plan["gates"][0], "10.244.0.0/24");
    let gauges = fixture.ask(Question::Gauges);
    let text = crate::metrics::text(&fixture.meters, gauges).unwrap();
    for line in [
        "ringfence_ready 1",
        "ringfence_endpoints 1",
        "ringfence_policies_behind 0",
        "ringfence_watch_synced{kind=\"NetworkPolicy\"} 1",
        "ringfence_map_capacity{map=\"endpoints\"} 100",
        "ringfence_dropped_packets_total{reason=\"policy\"} 5",
        "ringfence_rule_dropped_packets_total{policy=\"NetworkPolicy a/deny-all\",direction=\"ingress\",rule=\"default-deny\"} 2",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }
}
