//! A namespace asks for much more than the nodes have room for, while others go on.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::super::stage::{IMAGE, PATIENCE, SPACE, Stage, idle};
use super::{Scenario, everywhere};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hostile-namespace",
    about: "A namespace writes policies that do not fit into the kernel's maps, while others' policies change and pods \
        start",
    obstacle: everywhere,
    run: |stage, _| Box::pin(run(stage)),
};

/// The namespace that asks for too much.
const HOSTILE: &str = "e2e-faults-hostile";
/// So many policies, of so many ports each, that are no neighbours: twice as many intervals as the map has room for.
const POLICIES: u16 = 15;
const PORTS: u16 = 16_000;
/// The time that a change of others may take meanwhile.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

async fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOSTILE}});
    stage.cluster.namespace(HOSTILE, &json!({})).await?;
    let tried = hostile(stage).await;
    stage.cluster.delete(&namespace).await?;
    let told = tried?;
    // There is room again: everything is as before.
    let changed = stage.change(!stage.visit).await?;
    stage.reach(changed, PATIENCE, |_| true).await?;
    Ok(told)
}

async fn hostile(stage: &mut Stage) -> anyhow::Result<String> {
    for (number, node) in (1..).zip(&stage.nodes) {
        stage.cluster.run(&greedy(number, node)).await?;
    }
    let mut slowest = Duration::ZERO;
    for number in 0..POLICIES {
        stage.cluster.apply(&policy(number)).await?;
        let changed = stage.change(!stage.visit).await?;
        slowest = slowest.max(stage.reach(changed, PATIENCE, |_| true).await?);
    }
    // By now there is no room, and it stays so.
    let mut full = Duration::ZERO;
    for _ in 0..4 {
        let changed = stage.change(!stage.visit).await?;
        full = full.max(stage.reach(changed, PATIENCE, |_| true).await?);
    }
    if full > CHANGE_TIMEOUT {
        bail!("while there is no room, a change of others took {} ms", full.as_millis());
    }
    let started = Instant::now();
    for (number, node) in (1..).zip(&stage.nodes) {
        let pod = idle("newcomer", number, node);
        stage.cluster.run(&pod).await?;
        stage.cluster.delete(&pod).await?;
    }
    let start = started.elapsed() / u32::try_from(stage.nodes.len()).unwrap_or(1);
    Ok(format!(
        "{POLICIES} policies of {} ports each on a pod of each node; others' changes were in force after {} ms at most \
         while they came and {} ms at most once they did not fit, and a new pod in `{SPACE}` was ready after {:.1} s",
        2 * PORTS,
        slowest.as_millis(),
        full.as_millis(),
        start.as_secs_f64()
    ))
}

/// A pod for the policies to select.
fn greedy(number: usize, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("greedy-{number}"), "namespace": HOSTILE, "labels": {"app": "greedy"}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "idle", "image": IMAGE, "args": ["pause"], "imagePullPolicy": "IfNotPresent"}],
        },
    })
}

/// Every second port of TCP and UDP, from a range of its own.
fn policy(number: u16) -> Value {
    let every_second =
        |protocol: &'static str| (0..PORTS).map(move |n| json!({"protocol": protocol, "port": 2 * n + 1}));
    let ports: Vec<Value> = every_second("TCP").chain(every_second("UDP")).skip(usize::from(number)).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("big-{number}"), "namespace": HOSTILE},
        "spec": {
            "podSelector": {"matchLabels": {"app": "greedy"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": format!("172.{}.0.0/16", 16 + number)}}], "ports": ports}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_are_different_and_small_enough_for_the_api() {
        let policies: std::collections::BTreeSet<String> = (0..POLICIES).map(|n| policy(n).to_string()).collect();
        assert_eq!(policies.len(), usize::from(POLICIES));
        // etcd takes 1.5 MiB an object.
        assert!(policies.iter().all(|text| text.len() < 1_300_000));
    }
}
