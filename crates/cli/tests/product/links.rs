//! The node's end of each pod's link is guarded from before the pod starts, and the status says so.

use serde_json::Value;

use super::kit::{Lab, Need, can_run, eventually, ringfence, text};

fn status(lab: &Lab) -> Value {
    let mut command = ringfence();
    command.env("KUBECONFIG", lab.directory().join("kubeconfig")).env_remove("RINGFENCE_SOCKET");
    let output = command.args(["status", "--cluster", "-o", "json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

/// Links guarded and endpoints that are not, of all nodes.
fn counts(lab: &Lab) -> (u64, usize) {
    let status = status(lab);
    let agents: Vec<&Value> = status["nodes"].as_array().unwrap().iter().map(|node| &node["status"]).collect();
    let guarded = agents.iter().map(|agent| agent["enforcement"]["hostInterfaces"]["guarded"].as_u64().unwrap()).sum();
    let endpoints = agents.iter().flat_map(|agent| agent["endpoints"].as_array().unwrap());
    (guarded, endpoints.filter(|endpoint| endpoint["guarded"] != true).count())
}

#[test]
fn links_of_pods_are_guarded_for_as_long_as_there_are_pods() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("links", &["--nodes", "1"]);
    let before = counts(&lab);
    assert_eq!(before.1, 0, "the lab's own pods");
    lab.nginx("client", "node-1", "app=client");
    lab.nginx("web", "node-1", "app=web");
    lab.ready(&["client", "web"]);
    // Nobody waits for it: a pod that runs is guarded.
    assert_eq!(counts(&lab), (before.0 + 2, 0));
    let web = lab.field("pod/web", ".status.podIP");
    lab.settles("client", &web, true);
    lab.must("delete pod web --grace-period=0");
    eventually("the link that went is no more among those that are guarded", || counts(&lab) == (before.0 + 1, 0));
    lab.down();
}
