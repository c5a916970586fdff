//! Requests that wait until a pod's policy is in the kernel.

use ringfence_api::WaitRequest;
use ringfence_k8s::watch::Event;
use ringfence_model::ObjectKey;
use tokio::sync::oneshot;

use super::support::{Fixture, deny_all, namespace, pod};
use super::{apply, event, wait_for};
use crate::core::{Message, Question};
use crate::enforcer::EnforceError;

#[test]
fn who_waits_is_answered_when_the_pod_is_in_the_kernel() {
    let mut fixture = Fixture::in_sync();
    let (reply, mut answer) = oneshot::channel();
    fixture.step([Message::Ask(Question::Wait(wait_for("late", &[]), reply))]);
    assert!(answer.try_recv().is_err());
    fixture.fail(EnforceError::Capacity("full".into()));
    fixture.step([apply(pod("a", "late", "10.244.0.5"))]);
    assert!(answer.try_recv().is_err(), "it did not fit, so it is not in the kernel");
    let why = fixture.ask(|reply| Question::Check(wait_for("late", &[]), reply)).unwrap_err();
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
    let why = fixture.ask(|reply| Question::Check(request, reply)).unwrap_err();
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
fn an_earlier_pod_of_the_same_name_does_not_count() {
    let mut fixture = Fixture::in_sync();
    let mut request = wait_for("web", &[]);
    request.uid = "another".into();
    let why = fixture.ask(|reply| Question::Check(request.clone(), reply)).unwrap_err();
    assert_eq!(why, "no pod a/web with uid another is bound to this node");
}
