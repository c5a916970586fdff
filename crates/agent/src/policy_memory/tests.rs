//! Which policies are kept with their rules where there is not memory for all.

use futures::FutureExt as _;
use serde_json::json;

use super::*;

/// A policy of so many address blocks.
fn policy(namespace: &str, name: &str, blocks: usize) -> Object {
    let block = |n| json!({"ipBlock": {"cidr": format!("10.{}.{}.1/32", n / 256, n % 256)}});
    let blocks: Vec<_> = (0..blocks).map(block).collect();
    let spec = json!({"podSelector": {"matchLabels": {"app": name}}, "ingress": [{"from": blocks}]});
    let metadata = json!({"name": name, "namespace": namespace, "uid": name, "generation": 1});
    Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec})).0
}

fn key(namespace: &str, name: &str) -> PolicyId {
    id(&namespace.into(), &name.into())
}

fn has_rules(object: &Object) -> bool {
    let Object::Policy(policy) = object else { panic!("a policy") };
    assert_eq!(policy.rules_withheld, policy.ingress.as_ref().is_some_and(Vec::is_empty));
    !policy.rules_withheld
}

fn size(object: &Object) -> usize {
    let Object::Policy(policy) = object else { panic!("a policy") };
    policy.memory()
}

#[test]
fn whoever_writes_more_than_its_share_goes_without_rules_and_nobody_else() {
    let memory = PolicyMemory::with_room(4 * size(&policy("blue", "big0", 100)));
    assert!(has_rules(&memory.admit(policy("red", "small", 1))));
    let kept: Vec<bool> = (0..10).map(|n| has_rules(&memory.admit(policy("blue", &format!("big{n}"), 100)))).collect();
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 3, "three and the small one");
    assert_eq!(memory.settle(), []);
    // Another one comes, and wants a little less than half: it has all of it, and the first one the rest.
    assert!(has_rules(&memory.admit(policy("green", "big", 100))));
    assert!(has_rules(&memory.admit(policy("green", "more", 90))));
    let gone = memory.settle();
    assert_eq!(gone, [key("blue", "big2")], "equal ones by name");
    assert!(memory.is_withheld(&key("blue", "big2")) && !memory.is_withheld(&key("blue", "big1")));
    assert_eq!(memory.settle(), [], "said once");
    assert!(!memory.is_withheld(&key("red", "small")) && !memory.is_withheld(&key("green", "big")));
}

#[test]
fn who_goes_without_does_not_depend_on_the_order_in_which_policies_come() {
    let mut all: Vec<Object> = (0..12).map(|n| policy("blue", &format!("p{n}"), 10 * (n % 5 + 1))).collect();
    all.extend((0..12).map(|n| policy("red", &format!("p{n}"), 7 * (n % 7 + 1))));
    let room = all.iter().map(size).sum::<usize>() / 2;
    let withheld = |objects: &[Object]| {
        let memory = PolicyMemory::with_room(room);
        for object in objects {
            memory.admit(object.clone());
        }
        memory.settle();
        let ids = objects.iter().map(Object::key).filter_map(|key| match key {
            ObjectKey::Policy(id) => memory.is_withheld(&id).then_some(id),
            _ => None,
        });
        ids.collect::<std::collections::BTreeSet<_>>()
    };
    let first = withheld(&all);
    assert!(!first.is_empty());
    for turn in 0..all.len() {
        all.rotate_left(turn);
        assert_eq!(withheld(&all), first);
    }
    all.reverse();
    assert_eq!(withheld(&all), first);
}

#[test]
fn what_fits_again_is_asked_for_and_kept_when_it_comes() {
    let big = |name| policy("blue", name, 100);
    let memory = PolicyMemory::with_room(size(&big("a")) * 3 / 2);
    assert!(has_rules(&memory.admit(big("a"))) && !has_rules(&memory.admit(big("b"))));
    memory.settle();
    assert!(memory.0.room_again.notified().now_or_never().is_none());
    memory.note(&Event::Delete(ObjectKey::Policy(key("blue", "a"))));
    assert_eq!(memory.settle(), []);
    assert!(memory.0.room_again.notified().now_or_never().is_some());
    assert!(!memory.is_withheld(&key("blue", "b")) && memory.0.ledger.lock().has_room_again());
    // The listing that was asked for.
    let listed = vec![memory.admit(big("b"))];
    assert!(has_rules(&listed[0]));
    memory.note(&Event::Reset { kind: Kind::NetworkPolicy, objects: listed, diagnostics: Vec::new() });
    memory.settle();
    assert!(!memory.0.ledger.lock().has_room_again());
    memory.note(&Event::Reset { kind: Kind::NetworkPolicy, objects: Vec::new(), diagnostics: Vec::new() });
    let ledger = memory.0.ledger.lock();
    assert_eq!((ledger.total, ledger.namespaces.len()), (0, 0));
}

#[test]
fn cluster_wide_policies_are_not_weighed() {
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
    let object = Kind::ClusterNetworkPolicy.convert(&json!({"metadata": {"name": "x"}, "spec": spec})).0;
    assert_eq!(PolicyMemory::with_room(0).admit(object.clone()), object);
}

#[test]
fn a_subject_that_is_large_itself_becomes_the_whole_namespace() {
    let values: Vec<_> = (0..1000).map(|n| format!("v{n}")).collect();
    let spec = json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": values}]}});
    let metadata = json!({"name": "p", "namespace": "blue"});
    let object = Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec})).0;
    let Object::Policy(kept) = PolicyMemory::with_room(0).admit(object) else { panic!("a policy") };
    assert!(kept.subject.pods.is_everything() && kept.memory() < 2048);
    assert_eq!(kept.subject.namespaces, ringfence_model::NamespaceSelection::Named("blue".into()));
}
