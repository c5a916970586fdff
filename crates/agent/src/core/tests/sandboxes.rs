//! Which pod has which address, whatever network plugin and API say when.

use ringfence_k8s::watch::Event;
use ringfence_model::{Object, ObjectKey, PodKey};
use tokio::sync::oneshot;

use super::support::{Fixture, deny_all, pod};
use super::{apply, event, wait_for};
use crate::api::{CollectRequest, ReleaseRequest, WaitRequest};
use crate::core::{Message, Question};
use crate::dns::Learning;
use crate::enforcer::EnforceError;

#[test]
fn addresses_the_api_does_not_know_yet_come_with_the_request() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "starting", ""))]);
    let (reply, mut answer) = oneshot::channel();
    fixture.step([Message::Ask(Question::Wait(wait_for("starting", &["10.244.0.8"]), reply))]);
    fixture.step([Message::Learning(Learning::default())]);
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
    fixture.step([Message::Learning(Learning::default())]);
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

/// A pod that was created at some time.
fn created(name: &str, address: &str, at: i64) -> Message {
    let Object::Pod(mut pod) = pod("a", name, address) else { panic!("a pod is a pod") };
    pod.created = at;
    apply(Object::Pod(pod))
}

#[test]
fn whoever_is_given_an_address_has_it_though_nobody_said_that_it_was_free() {
    let mut fixture = Fixture::in_sync();
    // The pod that ran before is the younger one, so the API alone would leave the address to it.
    fixture.step([created("younger", "10.244.0.8", 9), created("waiting", "", 1)]);
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "younger");
    assert!(add(&mut fixture, "waiting", "10.244.0.8", "c2"));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "waiting");
    // The API goes on saying that the other has it, and then says that both do.
    fixture.step([created("younger", "10.244.0.8", 9)]);
    fixture.step([created("waiting", "10.244.0.8", 1)]);
    fixture.step([created("younger", "10.244.0.8", 9)]);
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "waiting");
    // It does not come back when the other goes, but with a sandbox of its own.
    fixture.step([event(Event::Delete(ObjectKey::Pod(PodKey { namespace: "a".into(), name: "waiting".into() })))]);
    fixture.step([created("younger", "10.244.0.8", 9)]);
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    assert!(add(&mut fixture, "younger", "10.244.0.8", "c3"));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "younger");
}

#[test]
fn late_news_of_an_earlier_sandbox_is_none() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "again", ""))]);
    assert!(add(&mut fixture, "again", "10.244.0.8", "c1"));
    assert!(add(&mut fixture, "again", "10.244.0.9", "c2"));
    fixture.step([apply(pod("a", "again", "10.244.0.8"))]);
    assert_eq!(owner(&mut fixture, "10.244.0.9").unwrap(), "again");
    fixture.step([apply(pod("a", "again", "10.244.0.9"))]);
    assert_eq!(owner(&mut fixture, "10.244.0.9").unwrap(), "again");
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
}

#[test]
fn checking_changes_nothing() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "again", ""))]);
    assert!(add(&mut fixture, "again", "10.244.0.9", "c2"));
    let old = WaitRequest { container: Some("c1".into()), ..wait_for("again", &["10.244.0.8"]) };
    fixture.ask(|reply| Question::Check(old, reply)).unwrap_err();
    release(&mut fixture, "again", "c2");
    assert_eq!(owner(&mut fixture, "10.244.0.9"), None, "the newest sandbox still was c2");
}

#[test]
fn sandboxes_that_nobody_lists_are_closed_and_those_of_other_networks_stay() {
    let mut fixture = Fixture::in_sync();
    for (name, address, container) in [("one", "10.244.0.8", "c1"), ("two", "10.244.0.9", "c2")] {
        fixture.step([apply(pod("a", name, ""))]);
        assert!(add(&mut fixture, name, address, container));
    }
    let collect = |network: &str| CollectRequest { network: network.into(), containers: vec!["c2".into()] };
    fixture.ask(|reply| Question::Collect(collect("others"), reply));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "one");
    fixture.ask(|reply| Question::Collect(collect("pods"), reply));
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    assert_eq!(owner(&mut fixture, "10.244.0.9").unwrap(), "two");
    assert_eq!(owner(&mut fixture, "10.244.0.2").unwrap(), "web", "nobody told of its sandbox");
}

#[test]
fn an_agent_that_comes_back_knows_the_sandboxes_of_the_one_before() {
    let told = |name: &str, address: &str, container: &str| WaitRequest {
        container: Some(container.into()),
        ..wait_for(name, &[address])
    };
    let before = vec![(told("old", "10.244.0.7", "c0"), false), (told("new", "10.244.0.8", "c1"), true)];
    let mut fixture = Fixture::after(before);
    fixture.step(Fixture::listing().into_iter().chain([
        // Its sandbox went while nobody was there to hear it.
        created("younger", "10.244.0.8", 9),
        created("new", "", 1),
        apply(pod("a", "old", "10.244.0.6")),
        event(Event::InSync),
    ]));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "new");
    assert_eq!(owner(&mut fixture, "10.244.0.6").unwrap(), "old", "the API knows better what is long ago");
    release(&mut fixture, "new", "c1");
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
}

#[test]
fn a_pod_is_not_ready_before_the_policy_that_is_known_already() {
    let mut fixture = Fixture::in_sync();
    let (reply, mut answer) = oneshot::channel();
    fixture.fail(EnforceError::Kernel("no".into()));
    fixture.step([apply(deny_all("a", 1)), Message::Ask(Question::Wait(wait_for("web", &[]), reply))]);
    assert!(answer.try_recv().is_err(), "the policy came first and is not in the kernel");
}
