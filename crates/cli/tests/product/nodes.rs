//! Policies about nodes: NodePorts, pods on the host's network, probes of the kubelet.

use serde_json::{Value, json};

use super::kit::{Lab, Need, can_run, settles_from};

fn ingress(name: &str, from: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"],
            "ingress": if from.is_null() { json!([]) } else { json!([{"from": from}]) }},
    })
}

/// A pod on its node's network, with a server on this port.
fn on_host(lab: &Lab, name: &str, node: &str, labels: &Value, port: u16) {
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "hostNetwork": true, "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "c", "image": "registry.k8s.io/e2e-test-images/agnhost:2.53",
            "args": ["netexec", format!("--http-port={port}"), format!("--udp-port={port}")],
        }]},
    }));
}

#[test]
fn calls_from_outside_through_a_node_are_not_the_nodes_own() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("nodeport", &["--nodes", "2"]);
    lab.nginx("server", "node-2", "app=server");
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
        "spec": {"type": "NodePort", "selector": {"app": "server"}, "ports": [{"port": 80, "nodePort": 30080}]},
    }));
    lab.ready(&["server"]);
    let outside = lab.namespace("fabric");
    let node = |number: u8| format!("10.89.0.{}:30080", 10 + number);
    let both = |allowed: [bool; 2]| {
        settles_from(&outside, &node(1), allowed[0]);
        settles_from(&outside, &node(2), allowed[1]);
    };
    both([true, true]);
    // The pod's own node hides who calls behind its address, and it is not let through for that.
    lab.apply(&ingress("server", &Value::Null));
    both([false, false]);
    // On the pod's node the caller is still known when policy is asked; behind another node it is that node.
    lab.apply(&ingress("server", &json!([{"ipBlock": {"cidr": "10.89.0.1/32"}}])));
    both([false, true]);
    lab.apply(&ingress("server", &json!([{"ipBlock": {"cidr": "10.89.0.11/32"}}])));
    both([true, false]);
    // The node itself, calling its own port, is the node.
    lab.apply(&ingress("server", &Value::Null));
    settles_from(&lab.namespace("node-2"), &node(2), true);
    settles_from(&lab.namespace("node-1"), &node(1), false);
    lab.must("delete networkpolicy server");
    both([true, true]);
    lab.down();
}

#[test]
fn pods_on_the_hosts_network_are_their_node() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("host", &["--nodes", "2"]);
    lab.nginx("server", "node-2", "app=server");
    lab.nginx("client", "node-1", "role=client");
    on_host(&lab, "near", "node-2", &json!({"role": "friend"}), 8080);
    on_host(&lab, "far", "node-1", &json!({"role": "friend", "app": "server"}), 8080);
    lab.ready(&["server", "client", "near", "far"]);
    let server = lab.field("pod/server", ".status.podIP");
    assert_eq!(lab.field("pod/far", ".status.podIP"), "10.89.0.11");
    for from in ["near", "far", "client"] {
        lab.settles(from, &server, true);
    }

    // As subjects: no policy selects them, whatever their labels.
    lab.apply(&ingress("server", &Value::Null));
    lab.settles("client", &server, false);
    lab.settles("client", "10.89.0.11:8080", true);
    // As peers: the pod's own node is let through, another is not, and their labels say nothing.
    lab.settles("near", &server, true);
    lab.settles("far", &server, false);
    lab.apply(&ingress("server", &json!([{"podSelector": {"matchLabels": {"role": "friend"}}}])));
    lab.settles("near", &server, true);
    lab.settles("far", &server, false);
    lab.apply(&ingress("server", &json!([{"ipBlock": {"cidr": "10.89.0.11/32"}}])));
    lab.settles("far", &server, true);
    lab.must("delete networkpolicy server");

    // The way to a node is not free, neither to the pod's own.
    let egress = |to: &Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "client"},
            "spec": {"podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"],
            "egress": [{"to": to}]},
        })
    };
    lab.apply(&egress(&json!([{"podSelector": {}}])));
    lab.settles("client", &server, true);
    lab.settles("client", "10.89.0.11:8080", false);
    lab.settles("client", "10.89.0.12:8080", false);
    lab.apply(&egress(&json!([{"ipBlock": {"cidr": "10.89.0.11/32"}}])));
    lab.settles("client", "10.89.0.11:8080", true);
    lab.settles("client", "10.89.0.12:8080", false);
    lab.settles("client", &server, false);
    lab.down();
}

#[test]
fn the_kubelets_probes_pass_whatever_policy_says() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("probes", &["--nodes", "2", "--dual-stack"]);
    // Before there is any pod: not one packet of a probe may need another order of events.
    lab.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "nothing"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }));
    let probe = json!({"httpGet": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 2});
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probed", "labels": {"app": "server"}},
        "spec": {"nodeName": "node-1", "containers": [{
            "name": "c", "image": "nginx", "ports": [{"name": "http", "containerPort": 80}],
            "startupProbe": probe, "readinessProbe": probe,
            "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 2},
        }]},
    }));
    lab.nginx("other", "node-1", "role=client");
    lab.ready(&["probed", "other"]);
    let address = lab.field("pod/probed", ".status.podIP");
    lab.settles("other", &address, false);
    settles_from(&lab.namespace("node-2"), &address, false);
    for url in [address, format!("[{}]", lab.field("pod/probed", ".status.podIPs[1].ip"))] {
        settles_from(&lab.namespace("node-1"), &url, true);
    }
    let ready = lab.field("pod/probed", ".status.containerStatuses[0].ready");
    let restarts = lab.field("pod/probed", ".status.containerStatuses[0].restartCount");
    assert_eq!((ready.as_str(), restarts.as_str()), ("true", "0"));
    lab.down();
}
