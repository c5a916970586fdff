//! Policies of namespaces that are being deleted.

use ringfence_engine::RulesetId;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{Object, ObjectKey, PodKey, PolicyId, PolicyKind};

use super::support::{Fixture, deny_all, namespace};
use super::{apply, event};
use crate::core::Message;

fn policy() -> ObjectKey {
    let (kind, namespace) = (PolicyKind::NetworkPolicy, Some("a".into()));
    ObjectKey::Policy(PolicyId { kind, namespace, name: "deny-all".into() })
}

fn ending() -> Message {
    let Object::Namespace(mut namespace) = namespace("a") else { panic!("a namespace is a namespace") };
    namespace.terminating = true;
    apply(Object::Namespace(namespace))
}

fn gone(key: ObjectKey) -> Message {
    event(Event::Delete(key))
}

fn is_guarded(fixture: &Fixture) -> bool {
    let plan = fixture.kernel();
    let address = "10.244.0.2".parse().unwrap();
    plan.endpoints.get(&address).is_none_or(|endpoint| endpoint.ingress != RulesetId::NONE)
        && plan.closed_cidrs.iter().any(|gate| gate.contains(&address))
}

#[test]
fn they_stand_until_its_pods_are_gone() {
    for together in [true, false] {
        let mut fixture = Fixture::in_sync();
        fixture.step([apply(deny_all("a", 1))]);
        assert!(is_guarded(&fixture));
        // The watches of policies and namespaces are two: what happened later may be told first.
        if together {
            fixture.step([gone(policy()), ending()]);
        } else {
            fixture.step([ending()]);
            fixture.step([gone(policy())]);
        }
        assert!(is_guarded(&fixture));
        let said = |fixture: &mut Fixture| fixture.status().warnings.iter().any(|line| line.contains("being deleted"));
        assert!(said(&mut fixture));
        // A listing without it says no more than that.
        let (kind, objects) = (Kind::NetworkPolicy, Vec::new());
        fixture.step([event(Event::Reset { kind, objects, diagnostics: Vec::new() })]);
        assert!(is_guarded(&fixture));
        fixture.step([gone(ObjectKey::Namespace("a".into()))]);
        assert!(is_guarded(&fixture));
        fixture.step([gone(ObjectKey::Pod(PodKey { namespace: "a".into(), name: "web".into() }))]);
        assert!(!said(&mut fixture));
        assert_eq!(fixture.status().policies, []);
        assert!(fixture.kernel().policy.is_empty());
    }
}

#[test]
fn a_policy_that_is_deleted_otherwise_goes_at_once() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(deny_all("a", 1))]);
    fixture.step([gone(policy())]);
    assert!(!is_guarded(&fixture));
    assert_eq!(fixture.status().policies, []);
}

#[test]
fn an_agent_that_comes_too_late_to_know_them_closes_the_pods() {
    let mut fixture = Fixture::new();
    fixture.step(Fixture::listing().into_iter().chain([ending(), event(Event::InSync)]));
    assert!(fixture.kernel().endpoints.is_empty());
    assert!(is_guarded(&fixture));
    assert!(fixture.status().warnings.iter().any(|line| line.contains("before the agent started")));
    // Where the policy is still there, it is in force.
    let mut fixture = Fixture::new();
    let there = [apply(deny_all("a", 1)), ending(), event(Event::InSync)];
    fixture.step(Fixture::listing().into_iter().chain(there));
    assert_eq!(fixture.kernel().endpoints.len(), 1);
    assert!(is_guarded(&fixture));
}
