//! Who waits for a pod's policy, and sandboxes that come and go.

use ringfence_k8s::watch::Event;
use ringfence_model::ObjectKey;
use tokio::sync::oneshot;

use super::support::{Fixture, deny_all, namespace, pod};
use super::{apply, event};
use crate::api::{ReleaseRequest, WaitRequest};
use crate::core::{Message, Question};
use crate::enforcer::EnforceError;

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

/// Without the namespace's labels nobody can tell which cluster-wide policies select a pod.
#[test]
fn a_pod_is_closed_while_its_namespace_is_not_known() {
    let mut fixture = Fixture::in_sync();
    let known = |fixture: &Fixture| fixture.kernel().endpoints.contains_key(&"10.244.0.5".parse().unwrap());
    let (reply, mut answer) = oneshot::channel();
    let request = WaitRequest { namespace: "new".into(), ..wait_for("early", &["10.244.0.5"]) };
    fixture.step([apply(pod("new", "early", "")), Message::Ask(Question::Wait(request.clone(), reply))]);
    assert!(answer.try_recv().is_err() && !known(&fixture));
    let why = fixture.ask(|reply| Question::WhyWaiting(request, reply));
    assert_eq!(why, "the Namespace object of pod new/early is not known yet");
    let warnings = fixture.status().warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("the addresses of pod new/early are closed")),
        "{warnings:?}"
    );
    fixture.step([apply(namespace("new"))]);
    assert!(answer.try_recv().is_ok() && known(&fixture));
    assert_eq!(fixture.status().warnings, Vec::<String>::new());
    fixture.step([event(Event::Delete(ObjectKey::Namespace("new".into())))]);
    assert!(!known(&fixture), "nor is it selected by anything once its namespace is gone");
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
