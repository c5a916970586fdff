//! A pod that is relabelled among many policies: what its labels do not decide stays as it is.

use ringfence_engine::{Delta, Planner, Scope};
use ringfence_k8s::convert::Kind;
use ringfence_model::Object;
use serde_json::{Value, json};

fn object(kind: Kind, value: &Value) -> Object {
    let (object, diagnostics) = kind.convert(value);
    assert_eq!(diagnostics, []);
    object
}

/// The pod of this node whose role is one of these.
fn pod(name: &str, number: u8, role: &str) -> Object {
    let pod = json!({
        "metadata": {"namespace": "a", "name": name, "uid": name, "labels": {"app": "web", "role": role}},
        "spec": {"nodeName": "node0", "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": format!("10.0.0.{number}"), "podIPs": [{"ip": format!("10.0.0.{number}")}]},
    });
    object(Kind::Pod, &pod)
}

fn policy(name: &str, selector: &Value, number: u8) -> Object {
    let policy = json!({
        "metadata": {"namespace": "a", "name": name, "uid": name, "generation": 1},
        "spec": {
            "podSelector": selector,
            "ingress": [{"from": [{"ipBlock": {"cidr": format!("192.0.2.{number}/32")}}], "ports": [{"port": "http"}]}],
        },
    });
    object(Kind::NetworkPolicy, &policy)
}

/// Policies that select every pod, and some that ask for a role.
fn world() -> Vec<Object> {
    let mut world = vec![object(Kind::Namespace, &json!({"metadata": {"name": "a"}}))];
    world.extend((0..200).map(|number| policy(&format!("p{number}"), &json!({}), number)));
    world.push(policy("of-cooks", &json!({"matchLabels": {"role": "cook"}}), 201));
    let not_waiters = json!({"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["waiter"]}]});
    world.push(policy("not-of-waiters", &not_waiters, 202));
    world
}

fn entries(deltas: &[Delta]) -> usize {
    deltas.iter().map(|delta| delta.put_entries.len() + delta.delete_entries.len()).sum()
}

/// `others`: pods beside it, which have the same policies until it is relabelled.
fn relabel(others: u8) {
    let mut planner = Planner::new(Scope::Node("node0".into()));
    world().into_iter().for_each(|object| planner.apply(object));
    (0..others).for_each(|number| planner.apply(pod(&format!("other{number}"), 100 + number, "guest")));
    planner.apply(pod("pod", 1, "guest"));
    planner.commit();
    // Whether its policies are others then.
    for (role, other) in
        [("child", false), ("cook", true), ("waiter", true), ("cook", true), ("guest", true), ("old", false)]
    {
        planner.apply(pod("pod", 1, role));
        let deltas = planner.commit();
        assert_eq!(entries(&deltas) > 0, other, "{role}, {others} others: {} entries", entries(&deltas));
        let mut fresh = Planner::new(Scope::Node("node0".into()));
        fresh.apply(pod("pod", 1, role));
        (0..others).for_each(|number| fresh.apply(pod(&format!("other{number}"), 100 + number, "guest")));
        world().into_iter().for_each(|object| fresh.apply(object));
        fresh.commit();
        assert_eq!(planner.plan(), fresh.plan(), "{role}, {others} others");
    }
}

#[test]
fn alone() {
    relabel(0);
}

#[test]
fn beside_others() {
    relabel(1);
}

#[test]
fn a_policy_that_comes_together_with_the_label_counts() {
    let mut planner = Planner::new(Scope::Node("node0".into()));
    world().into_iter().for_each(|object| planner.apply(object));
    planner.apply(pod("pod", 1, "guest"));
    planner.commit();
    planner.apply(pod("pod", 1, "child"));
    planner.apply(policy("late", &json!({}), 203));
    let deltas = planner.commit();
    assert!(entries(&deltas) > 0);
    let mut fresh = Planner::new(Scope::Node("node0".into()));
    world()
        .into_iter()
        .chain([policy("late", &json!({}), 203), pod("pod", 1, "child")])
        .for_each(|object| fresh.apply(object));
    fresh.commit();
    assert_eq!(planner.plan(), fresh.plan());
}
