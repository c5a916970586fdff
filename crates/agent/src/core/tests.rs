//! The wiring against a kernel that is a plan in memory.

mod domains;
mod ending;
mod known;
mod links;
mod memory;
mod metrics;
mod policies;
mod room;
mod sandboxes;
mod support;
mod waiting;

use std::time::Instant;

use ringfence_api::{ReasonCode, WaitRequest};
use ringfence_datapath::{DropReason, Event as KernelEvent};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{Direction, Object, ObjectKey, PodKey};

use super::{Message, Question};
use crate::enforcer::EnforceError;
use crate::fake::dropped;
use support::{Call, Fixture, deny_all, namespace, node, pod};

fn event(event: Event) -> Message {
    Message::Event { event, received: Instant::now(), waits: None }
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
    assert_eq!(policy.directions, [Direction::Ingress, Direction::Egress]);
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
        network: Some("pods".into()),
        links: Vec::new(),
        hardware_address: None,
        timeout_ms: 1000,
    }
}

/// A packet from `b/client` to `a/web` that was dropped.
fn denied(reason: DropReason) -> KernelEvent {
    KernelEvent {
        source: "10.244.1.7".parse().unwrap(),
        source_port: 40000,
        destination: "10.244.0.2".parse().unwrap(),
        destination_port: 80,
        direction: Some(Direction::Ingress),
        repeated: 3,
        ..dropped(reason)
    }
}

#[test]
fn a_denial_is_told_with_names_and_a_way_out() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("b", "client", "10.244.1.7")), apply(deny_all("a", 1))]);
    let cause = *fixture.kernel().rules.iter().find(|(_, cause)| cause.to_string().contains("ingress")).unwrap().0;
    let event = denied(DropReason::Policy { rule_id: cause, cut: false });
    let flow = fixture.ask(|reply| Question::Resolve(vec![event], reply)).flows.remove(0);
    assert_eq!(flow.source.to_string(), "b/client 10.244.1.7:40000");
    assert_eq!(flow.destination.to_string(), "a/web 10.244.0.2:80");
    assert_eq!(
        (flow.explanation.reason, flow.explanation.policies.as_slice()),
        (ReasonCode::DefaultDeny, &["NetworkPolicy a/deny-all".into()][..])
    );
    assert_eq!(
        flow.explanation.hint.unwrap(),
        "allow ingress from pods like b/client (namespaceSelector and podSelector), port 80/TCP in a NetworkPolicy \
         that selects a/web"
    );
}

#[test]
fn events_that_the_kernel_lost_are_in_status_metrics_and_with_flows() {
    let mut fixture = Fixture::in_sync();
    assert_eq!(fixture.status().enforcement.events_lost, 0);
    fixture.lose_events(7);
    let status = fixture.status();
    assert_eq!((status.enforcement.events_lost, status.ready), (7, true));
    assert!(status.warnings.is_empty(), "counters have them: {:?}", status.warnings);
    assert_eq!(fixture.ask(|reply| Question::Resolve(vec![denied(DropReason::Unparseable)], reply)).events_lost, 7);
    let text = fixture.metrics();
    assert!(text.contains("\nringfence_events_lost_total 7\n"), "{text}");
}

#[test]
fn the_plan_and_the_metrics_can_be_read() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(deny_all("a", 1)), apply(node("other", "10.90.0.12", "10.244.1.0/24")), apply(namespace("c"))]);
    let plan = fixture.ask(Question::Plan);
    assert_eq!(plan["kind"], "Plan");
    assert_eq!(plan["endpoints"]["10.244.0.2"]["pod"], "a/web");
    assert_eq!(plan["closed_cidrs"][0], "10.244.0.0/24");
    let text = fixture.metrics();
    for line in [
        "ringfence_ready 1",
        "ringfence_endpoints 1",
        "ringfence_policies_behind 0",
        "ringfence_watch_synced{kind=\"NetworkPolicy\"} 1",
        "ringfence_map_capacity{map=\"endpoints\"} 100",
        "ringfence_dropped_packets_total{reason=\"policy\"} 5",
        "ringfence_default_deny_dropped_packets_total{namespace=\"a\",direction=\"ingress\"} 2",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }
}

#[test]
fn what_others_undo_is_mended_and_told_and_what_cannot_be_makes_the_node_not_ready() {
    let mut fixture = Fixture::in_sync();
    fixture.step([Message::Look]);
    assert_eq!(fixture.calls(), [Call::Mend]);
    assert!(fixture.status().ready && fixture.status().repairs.is_empty());
    fixture.fail(EnforceError::Kernel("cannot mount a bpffs".into()));
    fixture.step([Message::Look]);
    let status = fixture.status();
    assert!(!status.ready && status.warnings[0].contains("cannot mount a bpffs"), "{:?}", status.warnings);
    let why = fixture.ask(Question::Ready).unwrap_err();
    assert!(why.contains("cannot mount a bpffs"), "{why}");
    fixture.undo("4 pins were removed");
    fixture.step([Message::Look]);
    let status = fixture.status();
    assert!(status.ready && status.warnings.is_empty(), "{:?}", status.warnings);
    assert_eq!((status.repairs[0].count, &*status.repairs[0].found), (1, "4 pins were removed"));
    let text = fixture.metrics();
    for line in ["ringfence_repairs_total{component=\"pins\"} 1", "ringfence_degraded_components 0"] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

#[test]
fn a_part_that_ends_or_panics_ends_the_agent() {
    for panics in [false, true] {
        let fixture = Fixture::in_sync();
        fixture.handle.spawn("names", move || assert!(!panics, "this is meant to fail")).unwrap();
        assert_eq!(fixture.run(), Some("names"));
    }
}

#[tokio::test]
async fn a_task_that_ends_or_panics_ends_the_agent_too() {
    for panics in [false, true] {
        let fixture = Fixture::in_sync();
        let _ended = fixture.handle.spawn_task("look", async move { assert!(!panics, "this is meant to fail") }).await;
        assert_eq!(fixture.run(), Some("look"));
    }
}
