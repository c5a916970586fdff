//! Policies that there is no memory for.

use std::fs;
use std::time::{Duration, Instant};

use ringfence_engine::{Limits, RulesetId};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{Object, ObjectKey};
use serde_json::{Value, json};

use super::support::{Fixture, deny_all, pod};
use super::{apply, event};
use crate::core::Question;
use crate::policy_memory::PolicyMemory;
use crate::problem::NO_CAPACITY;

/// A policy of namespace `b` that names so many addresses.
fn addresses(name: &str, count: usize) -> Object {
    let block = |n| json!({"ipBlock": {"cidr": format!("172.16.{}.{}/32", n / 256, n % 256)}});
    let blocks: Vec<_> = (0..count).map(block).collect();
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": blocks}]});
    let metadata = json!({"name": name, "namespace": "b", "uid": name, "generation": 1});
    Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec})).0
}

fn bytes(object: &Object) -> usize {
    let Object::Policy(policy) = object else { panic!("a policy") };
    policy.memory()
}

#[test]
fn policies_that_there_is_no_memory_for_are_kept_without_rules_and_deny() {
    let memory = PolicyMemory::with_room(bytes(&addresses("first", 500)) + bytes(&deny_all("a", 1)) + 4096);
    let admit = memory.intake().admit;
    let read = |object: Object| apply(admit(object));
    let mut fixture = Fixture::in_sync_with_memory(&memory);
    fixture.step([apply(pod("b", "greedy", "10.244.0.8")), read(deny_all("a", 1)), read(addresses("first", 500))]);
    let ingress = |fixture: &Fixture| fixture.kernel().endpoints[&"10.244.0.8".parse().unwrap()].ingress;
    assert_ne!(ingress(&fixture), RulesetId::NO_ROOM);
    fixture.step([read(addresses("second", 501))]);
    assert_eq!(ingress(&fixture), RulesetId::NO_ROOM, "one of its policies is not known whole");
    let status = fixture.status();
    let enforced: Vec<_> =
        status.policies.iter().map(|policy| (policy.name.as_str(), policy.enforced_generation)).collect();
    assert_eq!(enforced, [("deny-all", Some(1)), ("first", None), ("second", None)]);
    assert!(status.warnings[0].starts_with("no room in the memory of the agent"), "{:?}", status.warnings);
    let (_, told) = fixture.ask(|reply| Question::Accounts(0, reply));
    let problem = told.iter().find_map(|account| account.problems.first()).unwrap();
    assert!(problem.reason == NO_CAPACITY && problem.message.contains("more memory for the agent"), "{problem}");

    // Another policy of the namespace that is smaller has the share: the first is let go of.
    fixture.step([read(addresses("third", 400))]);
    let ObjectKey::Policy(first) = addresses("first", 500).key() else { panic!("a policy") };
    assert!(memory.is_withheld(&first));
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());

    // Once they are gone, what is listed anew is enforced.
    for name in ["second", "third"] {
        let gone = Event::Delete(addresses(name, 1).key());
        memory.note(&gone);
        fixture.step([event(gone)]);
    }
    assert_eq!(ingress(&fixture), RulesetId::NO_ROOM, "nobody here has the rules of the first");
    let objects = vec![admit(deny_all("a", 1)), admit(addresses("first", 500))];
    fixture.step([event(Event::Reset { kind: Kind::NetworkPolicy, objects, diagnostics: Vec::new() })]);
    assert_ne!(ingress(&fixture), RulesetId::NO_ROOM);
    let status = fixture.status();
    assert!(status.policies.iter().all(|policy| policy.enforced_generation == Some(1)), "{:?}", status.policies);
}

#[test]
fn a_policy_that_waits_for_its_turn_loses_its_rules_too() {
    let memory = PolicyMemory::with_room(bytes(&addresses("one", 2100)) * 3);
    let admit = memory.intake().admit;
    let mut fixture = Fixture::in_sync_with_memory(&memory);
    let messages = ["one", "two", "three"].map(|name| apply(admit(addresses(name, 2100))));
    fixture.step([apply(pod("b", "greedy", "10.244.0.8"))].into_iter().chain(messages));
    assert!(fixture.core.turns.is_waited_for(&"b".into()));
    // A namespace that wants as much comes.
    let spec = json!({"podSelector": {}, "ingress": [{"from": (0..2900).map(|n| json!({
        "ipBlock": {"cidr": format!("10.9.{}.{}/32", n / 256, n % 256)}})).collect::<Vec<_>>()}]});
    let metadata = json!({"name": "other", "namespace": "a", "uid": "other", "generation": 1});
    let other = Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec})).0;
    fixture.step([apply(admit(other))]);
    assert!(!fixture.core.turns.is_waited_for(&"b".into()), "what waited is here without its rules");
    let kernel = fixture.kernel();
    assert_eq!(kernel.endpoints[&"10.244.0.8".parse().unwrap()].ingress, RulesetId::NO_ROOM);
    assert_ne!(kernel.endpoints[&"10.244.0.2".parse().unwrap()].ingress, RulesetId::NO_ROOM);
}

/// The most memory that this process has used so far, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Says how much memory an agent needs whatever a tenant writes, and how long others wait for its planning thread.
#[test]
#[ignore = "it measures"]
fn hostile_policies() {
    let selectors =
        |count| (0..count).map(|n| json!({"podSelector": {"matchLabels": {"n": format!("v{n}")}}})).collect();
    let addresses = |count: u32| {
        let block = |n: u32| json!({"ipBlock": {"cidr": format!("{}/32", std::net::Ipv4Addr::from(0xac10_0000 + n))}});
        (0..count).map(block).collect()
    };
    let ports = |count| (0..count).map(|n| json!({"port": 2 * n + 1})).collect();
    let spec = |field: &str, list: Vec<Value>| json!({"podSelector": {}, "ingress": [{field: list}]});
    let limits = Limits { ipcache: 100_000, ipcache_cidrs: 50_000, port_ranges: 1 << 20, ..Limits::NONE };
    for (what, spec) in [
        ("ports", spec("ports", ports(32_000))),
        ("addresses", spec("from", addresses(38_000))),
        ("selectors", spec("from", selectors(24_000))),
    ] {
        let memory = PolicyMemory::with_room(128 << 20);
        let admit = memory.intake().admit;
        let mut fixture = Fixture::in_sync_within_memory(limits, &memory);
        fixture.step([apply(pod("b", "greedy", "10.244.0.8"))]);
        let (before, mut longest) = (peak(), Duration::ZERO);
        for number in 0..100 {
            let metadata = json!({"name": format!("p{number}"), "namespace": "b", "uid": "u", "generation": 1});
            let object = Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec})).0;
            let started = Instant::now();
            fixture.step([apply(admit(object))]);
            longest = longest.max(started.elapsed());
        }
        let more = (peak() - before) >> 20;
        println!("100 policies of many {what}: at most {more} MiB more, longest step {} ms", longest.as_millis());
    }
}
