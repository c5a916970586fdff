//! A tenant writes more policy than a node has room for, and nobody else notices.

use std::time::Instant;

use serde_json::{Value, json};

use super::kit::{Lab, Need, can_run, eventually};

/// A policy of namespace `blue` of 32,000 ports that are no neighbours.
fn big(number: usize) -> Value {
    let ports = |protocol: &'static str| (0..16_000).map(move |n| json!({"protocol": protocol, "port": 2 * n + 1}));
    let ports: Vec<Value> = ports("TCP").chain(ports("UDP")).skip(number).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("big{number}"), "namespace": "blue"},
        "spec": {
            "podSelector": {}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": format!("172.{}.0.0/16", 16 + number)}}], "ports": ports}],
        },
    })
}

#[test]
fn a_tenant_who_asks_for_too_much_goes_without_and_others_go_on() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("room", &["--nodes", "1"]);
    lab.nginx("victim", "node-1", "app=victim");
    lab.nginx("friend", "node-1", "friend=true");
    lab.must("create namespace blue");
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy", "namespace": "blue"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "nginx"}]},
    }));
    lab.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "guard"},
        "spec": {"podSelector": {"matchLabels": {"app": "victim"}}, "policyTypes": ["Ingress"],
                 "ingress": [{"from": [{"podSelector": {"matchLabels": {"friend": "true"}}}]}]},
    }));
    lab.ready(&["victim", "friend"]);
    lab.must("wait -n blue --for=condition=Ready --timeout=90s pod/greedy");
    let victim = lab.field("pod/victim", ".status.podIP");
    let friend = lab.field("pod/friend", ".status.podIP");
    lab.settles("friend", &victim, true);
    for number in 0..15 {
        // `apply` would keep a copy in an annotation, for which there is no room.
        lab.must_with("create -f -", &big(number).to_string());
    }
    let events = || lab.must("get events -n blue -o jsonpath={.items[*].reason}");
    eventually("an Event says that there is no room", || events().contains("NoCapacity"));

    // A label, a policy, a pod of others.
    let started = Instant::now();
    lab.must("label pod friend friend-");
    lab.settles("friend", &victim, false);
    lab.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"run": "newcomer"}}, "policyTypes": ["Ingress"]},
    }));
    lab.nginx("newcomer", "node-1", "run=newcomer");
    lab.ready(&["newcomer"]);
    lab.settles("victim", &lab.field("pod/newcomer", ".status.podIP"), false);
    lab.must("label pod friend friend=true");
    lab.settles("friend", &victim, true);
    lab.settles("victim", &friend, true);
    println!("a label, a pod with its policy, and a label: {:?}", started.elapsed());
    let greedy = lab.must("get pod greedy -n blue -o jsonpath={.status.podIP}");
    lab.settles("friend", &greedy, false);

    // There is room again, and it is used.
    lab.must("delete networkpolicy -n blue --all");
    lab.settles("friend", &greedy, true);
    lab.down();
}
