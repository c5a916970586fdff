//! Nodes, and pods in their network: policy knows them by their addresses only, and lets a pod's own node in.

use std::net::SocketAddr;

use ringfence_install::verify::report::Outcome;
use serde_json::json;

use super::attempt::{Attempt, Protocol, outcome};
use super::policy::{blocks, egress as egress_policy, ingress, pods, role};
use super::stage::{Actor, HOST_PORT, PORT, Place, Stage};

/// From a pod to its own node. By TCP only: what answers by UDP without saying from which address, as agnhost does,
/// answers a pod of its node from the address of the link between them.
fn to_own(caller: &Actor, place: &Place, allowed: bool) -> Vec<Attempt> {
    let targets = place.host.addresses.iter().map(|address| SocketAddr::new(*address, HOST_PORT));
    targets.map(|target| Attempt::of(caller, target, Protocol::Tcp, allowed)).collect()
}

/// They call pods.
pub(super) async fn source(stage: &Stage) -> anyhow::Result<Outcome> {
    let server = &stage.near.server;
    let attempts = |host_far: bool, friend_far: bool| {
        [
            Attempt::to(&stage.near.host, server, PORT, true),
            Attempt::to(&stage.far.host, server, PORT, host_far),
            Attempt::to(&stage.far.friend, server, PORT, friend_far),
        ]
        .concat()
    };
    let mut wrong = stage.open(&attempts(true, true)).await;
    for (title, rules, host, friend) in [
        ("from nobody", vec![], false, false),
        ("from every pod", vec![json!({"from": [{"namespaceSelector": {}}]})], false, true),
        ("from the pods that are in the network of a node", vec![json!({"from": pods(&role("host"))})], false, false),
        ("from the other node", vec![json!({"from": blocks(&stage.far.addresses)})], true, false),
    ] {
        let policies = [ingress(&role("server"), &rules)];
        wrong.extend(stage.under(title, &policies, &attempts(host, friend)).await?);
    }
    Ok(outcome(wrong))
}

/// Pods call them.
pub(super) async fn destination(stage: &Stage) -> anyhow::Result<Outcome> {
    let attempts = |hosts: bool, server: bool| {
        let caller = &stage.near.friend;
        [
            to_own(caller, &stage.near, hosts),
            Attempt::to(caller, &stage.far.host, HOST_PORT, hosts),
            Attempt::to(caller, &stage.far.server, PORT, server),
        ]
        .concat()
    };
    let mut wrong = stage.open(&attempts(true, true)).await;
    let nodes = [stage.near.addresses.as_slice(), &stage.far.addresses].concat();
    for (title, rules, hosts, server) in [
        ("to nobody", vec![], false, false),
        ("to every pod", vec![json!({"to": [{"namespaceSelector": {}}]})], false, true),
        ("to the pods that are in the network of a node", vec![json!({"to": pods(&role("host"))})], false, false),
        ("to the nodes", vec![json!({"to": blocks(&nodes)})], true, false),
    ] {
        let policies = [egress_policy(&role("friend"), &rules)];
        wrong.extend(stage.under(title, &policies, &attempts(hosts, server)).await?);
    }
    Ok(outcome(wrong))
}

/// A policy that selects them means nothing to them.
pub(super) async fn subject(stage: &Stage) -> anyhow::Result<Outcome> {
    let attempts = [
        Attempt::to(&stage.near.host, &stage.far.host, HOST_PORT, true),
        Attempt::to(&stage.far.host, &stage.near.server, PORT, true),
        to_own(&stage.near.friend, &stage.near, true),
        Attempt::to(&stage.near.friend, &stage.far.host, HOST_PORT, true),
    ]
    .concat();
    let hosts = role("host");
    Ok(outcome(
        stage.under("nothing goes in or out", &[ingress(&hosts, &[]), egress_policy(&hosts, &[])], &attempts).await?,
    ))
}

/// Pods call their own node, and the other.
pub(super) async fn egress(stage: &Stage) -> anyhow::Result<Outcome> {
    let attempts = |to_near: bool, to_far: bool| -> Vec<Attempt> {
        let (near, far) = (&stage.near, &stage.far);
        [
            to_own(&near.friend, near, to_near),
            to_own(&far.friend, far, to_far),
            Attempt::to(&near.friend, &far.host, HOST_PORT, to_far),
            Attempt::to(&far.friend, &near.host, HOST_PORT, to_near),
        ]
        .concat()
    };
    let mut wrong = stage.open(&attempts(true, true)).await;
    for (title, addresses, to_near, to_far) in
        [("to the one", &stage.near.addresses, true, false), ("to the other", &stage.far.addresses, false, true)]
    {
        let rule =
            json!({"to": blocks(addresses), "ports": [{"port": HOST_PORT}, {"protocol": "UDP", "port": HOST_PORT}]});
        let policies = [egress_policy(&role("friend"), &[rule])];
        wrong.extend(stage.under(title, &policies, &attempts(to_near, to_far)).await?);
    }
    Ok(outcome(wrong))
}
