//! A pod that is relabelled among many policies. The delta contains only what its labels decide.

use ringfence_engine::{Delta, Planner, Scope};
use ringfence_k8s::convert::Kind;
use ringfence_model::Object;
use serde_json::{Value, json};

fn object(kind: Kind, value: &Value) -> Object {
    let (object, diagnostics) = kind.convert(value);
    assert_eq!(diagnostics, []);
    object
}

/// A pod of this node with a role.
fn pod(name: &str, number: u8, role: &str) -> Object {
    let pod = json!({
        "metadata": {"namespace": "a", "name": name, "uid": name, "labels": {"app": "web", "role": role}},
        "spec": {"nodeName": "node0", "containers": [{"name": "main", "ports": [{"name": "http",
        "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": format!("10.0.0.{number}"),
        "podIPs": [{"ip": format!("10.0.0.{number}")}]},
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

/// Policies that select every pod, and some that select a role.
fn world() -> Vec<Object> {
    let mut world = vec![object(Kind::Namespace, &json!({"metadata": {"name": "a"}}))];
    world.extend((0..200).map(|number| policy(&format!("p{number}"), &json!({}), number)));
    world.push(policy("of-cooks", &json!({"matchLabels": {"role": "cook"}}), 201));
    let not_waiters = json!({"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["waiter"]}]});
    world.push(policy("not-of-waiters", &not_waiters, 202));
    world
}

fn entries(deltas: &[Delta]) -> usize {
    deltas.iter().map(|delta| delta.put_policy.len() + delta.delete_policy.len()).sum()
}

fn planner(objects: impl IntoIterator<Item = Object>) -> Planner {
    let mut planner = Planner::new(Scope::Node("node0".into()));
    for object in objects {
        planner.apply(object);
    }
    planner.commit();
    planner
}

/// `others`: pods with the same policies until the pod is relabelled.
fn relabel(others: u8) {
    let others: Vec<_> = (0..others).map(|number| pod(&format!("other{number}"), 100 + number, "guest")).collect();
    let mut planner = planner(world().into_iter().chain(others.clone()).chain([pod("pod", 1, "guest")]));
    // True if its policies differ afterwards.
    for (role, other) in
        [("child", false), ("cook", true), ("waiter", true), ("cook", true), ("guest", true), ("old", false)]
    {
        planner.apply(pod("pod", 1, role));
        let entries = entries(&planner.commit());
        assert_eq!(entries > 0, other, "{role}, {} others: {entries} entries", others.len());
        let fresh = self::planner([pod("pod", 1, role)].into_iter().chain(others.clone()).chain(world()));
        assert_eq!(planner.plan(), fresh.plan(), "{role}, {} others", others.len());
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
    let mut planner = planner(world().into_iter().chain([pod("pod", 1, "guest")]));
    let late = policy("late", &json!({}), 203);
    planner.apply(pod("pod", 1, "child"));
    planner.apply(late.clone());
    assert!(entries(&planner.commit()) > 0);
    let fresh = self::planner(world().into_iter().chain([late, pod("pod", 1, "child")]));
    assert_eq!(planner.plan(), fresh.plan());
}
