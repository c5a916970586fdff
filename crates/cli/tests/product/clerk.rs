//! Problems of a policy are in the API, once, whichever agent lives to write them.

use serde_json::Value;

use super::kit::{Lab, Need, can_run, eventually};
use super::sudden_death::{agents, strike};

/// Reasons of the Events about a NetworkPolicy.
fn reasons(lab: &Lab, policy: &str) -> Vec<String> {
    let events: Value = serde_json::from_str(&lab.must("get events -o json")).unwrap();
    let about = |event: &&Value| {
        let object = &event["involvedObject"];
        object["kind"] == "NetworkPolicy" && object["name"] == policy
    };
    let reason = |event: &Value| event["reason"].as_str().unwrap_or_default().to_owned();
    events["items"].as_array().into_iter().flatten().filter(about).map(reason).collect()
}

/// A policy that names the address of a Service, which never matches.
fn to_service(lab: &Lab, name: &str, address: &str) {
    let object = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, spec: {{podSelector: \
         {{}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: {address}/32}}}}]}}]}}}}"
    );
    lab.must_with("apply -f -", &object);
}

/// A cluster-wide policy about all pods.
fn tiered(name: &str, action: &str) -> String {
    format!(
        "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, \
         spec: {{tier: Admin, priority: 7, subject: {{namespaces: {{}}}}, ingress: [{{action: {action}, from: \
         [{{namespaces: {{matchLabels: {{no: such}}}}}}]}}]}}}}"
    )
}

/// The status of a condition of such a policy.
fn condition(lab: &Lab, policy: &str, name: &str) -> String {
    let object: Value = serde_json::from_str(&lab.must(&format!("get clusternetworkpolicy {policy} -o json"))).unwrap();
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == name);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn problems_of_policies_become_events_once_though_the_agent_that_writes_them_is_killed() {
    if !can_run(&[Need::Root, Need::Kernel, Need::Kubectl]) {
        return;
    }
    let lab = Lab::up("clerk", &["--nodes", "2"]);
    lab.must("create deployment web --image=nginx");
    lab.must("expose deployment web --port=80");
    let address = lab.field("service/web", ".spec.clusterIP");
    to_service(&lab, "one", &address);
    eventually("an Event", || !reasons(&lab, "one").is_empty());
    assert_eq!(reasons(&lab, "one"), ["ServiceAddresses"]);
    lab.must_with("apply -f -", &tiered("first", "Accept"));
    eventually("conditions", || condition(&lab, "first", "Accepted") == "True");
    assert_eq!(condition(&lab, "first", "HasWarnings"), "False");

    let holder = lab.field("lease/ringfence -n kube-system", ".spec.holderIdentity");
    let (node, _) = holder.split_once('_').unwrap();
    let its = agents(&lab).into_iter().find(|(command, _)| command.contains(&format!("--node {node} "))).unwrap();
    strike(its.1);
    to_service(&lab, "two", &address);
    eventually("another agent, or that one's successor, goes on", || reasons(&lab, "two") == ["ServiceAddresses"]);
    lab.must_with("apply -f -", &tiered("second", "Deny"));
    for policy in ["first", "second"] {
        eventually("the tie is told of both", || condition(&lab, policy, "HasWarnings") == "True");
        assert_eq!(condition(&lab, policy, "Accepted"), "True");
    }
    assert_ne!(lab.field("lease/ringfence -n kube-system", ".spec.holderIdentity"), holder);
    assert_eq!(reasons(&lab, "one"), ["ServiceAddresses"], "not told twice");
    lab.down();
}
