//! Labs of IPv6 alone and of both families: pods, Services, names and policy between nodes.

use serde_json::json;

use super::kit::{Lab, Need, can_run, eventually};

/// A server with its Service, a friend and a stranger on the other node; returns the server's addresses.
fn three_pods(lab: &Lab) -> Vec<String> {
    lab.nginx("server", "node-2", "app=server");
    lab.nginx("friend", "node-1", "role=friend");
    lab.nginx("stranger", "node-1", "role=stranger");
    let dual = lab.field("service/kube-dns -n kube-system", ".spec.ipFamilyPolicy") == "RequireDualStack";
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
        "spec": {
            "selector": {"app": "server"}, "ports": [{"port": 80}],
            "ipFamilyPolicy": if dual { "RequireDualStack" } else { "SingleStack" },
        },
    }));
    lab.ready(&["server", "friend", "stranger"]);
    let listed = lab.field("pod/server", ".status.podIPs[*].ip");
    listed.split_whitespace().map(str::to_owned).collect()
}

/// An address as it stands in a URL.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Holds what every lab must do, on each of its families.
fn whole(lab: &Lab, families: &[&str]) {
    let addresses = three_pods(lab);
    assert_eq!(addresses.len(), families.len(), "{addresses:?}");
    let urls: Vec<String> = addresses.iter().map(|address| bracketed(address)).collect();
    let services = lab.field("service/server", ".spec.clusterIPs[*]");
    for url in urls.iter().cloned().chain(services.split_whitespace().map(bracketed)) {
        lab.settles("friend", &url, true);
        lab.settles("stranger", &url, true);
    }
    // Names: the records of each family, and no others.
    for (family, flag) in [("IPv4", "-4"), ("IPv6", "-6")] {
        let page = || lab.exec("friend", &["curl", flag, "-sS", "-m", "3", "http://server.default/"]);
        if families.contains(&family) {
            eventually("the name leads to the page", || page().contains("Welcome to nginx!"));
        } else {
            assert!(page().contains("Could not resolve"), "{family}: {}", page());
        }
    }

    // Policy by selector, on both families at once.
    lab.apply(&policy(&json!([{"podSelector": {"matchLabels": {"role": "friend"}}}])));
    for url in &urls {
        lab.settles("stranger", url, false);
        lab.settles("friend", url, true);
    }
    // Policy by block: the family of the block, and no other.
    let friend = lab.field("pod/friend", ".status.podIPs[*].ip");
    for (index, address) in friend.split_whitespace().enumerate() {
        let length = if address.contains(':') { 128 } else { 32 };
        lab.apply(&policy(&json!([{"ipBlock": {"cidr": format!("{address}/{length}")}}])));
        for (other, url) in urls.iter().enumerate() {
            lab.settles("friend", url, other == index);
            lab.settles("stranger", url, false);
        }
    }
    // A block with a hole: the whole range of the friend's node without the stranger.
    let stranger = lab.field("pod/stranger", ".status.podIPs[*].ip");
    let blocks = stranger.split_whitespace().map(|address| {
        let (range, length) = if address.contains(':') { ("fd00:10:245:1::/64", 128) } else { ("10.245.1.0/24", 32) };
        json!({"ipBlock": {"cidr": range, "except": [format!("{address}/{length}")]}})
    });
    lab.apply(&policy(&blocks.collect()));
    for url in &urls {
        lab.settles("stranger", url, false);
        lab.settles("friend", url, true);
    }
    lab.must("delete networkpolicy only");
    for url in &urls {
        lab.settles("stranger", url, true);
    }
}

fn policy(from: &serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "only"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": from}]},
    })
}

#[test]
fn ipv6_alone() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("six", &["--nodes", "2", "--ipv6"]);
    whole(&lab, &["IPv6"]);
    lab.down();
}

#[test]
fn both_families() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("both", &["--nodes", "3", "--dual-stack"]);
    whole(&lab, &["IPv4", "IPv6"]);
    lab.down();
}
