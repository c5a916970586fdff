//! Ports of a node that lead to one pod.

use std::net::SocketAddr;

use ringfence_install::verify::report::Outcome;
use serde_json::json;

use super::attempt::{Attempt, outcome};
use super::policy::{blocks, ingress, role};
use super::stage::{PORT, Stage, end, listening};

/// The port of the node.
const ON_NODE: u16 = 28090;

/// Called from the other node, by the pod's own port.
pub(super) async fn host_port(stage: &Stage) -> anyhow::Result<Outcome> {
    if stage.lab {
        return Ok(Outcome::Skipped("the lab has no host ports".into()));
    }
    let name = "ported";
    let mut pod = listening(name, &stage.near.node, PORT);
    pod["metadata"]["labels"] = json!({"role": name});
    for port in [0, 1] {
        pod["spec"]["containers"][0]["ports"][port]["hostPort"] = json!(ON_NODE);
    }
    stage.cluster.run(&pod).await?;
    let attempts = |allowed: bool| -> Vec<Attempt> {
        let targets = stage.near.addresses.iter().map(|address| SocketAddr::new(*address, ON_NODE));
        targets.flat_map(|target| Attempt::both(&stage.far.host, target, allowed)).collect()
    };
    let closed = stage.open(&attempts(true)).await;
    if !closed.is_empty() {
        end(&stage.cluster, name).await?;
        return Ok(if stage.primary {
            outcome(closed)
        } else {
            Outcome::Skipped("the network plugin of this cluster makes no host ports".into())
        });
    }
    let far = blocks(&stage.far.addresses);
    let rule = |port: u16| json!({"from": far, "ports": [{"port": port}, {"protocol": "UDP", "port": port}]});
    let mut wrong = Vec::new();
    for (title, rules, allowed) in [
        ("from nobody", vec![], false),
        ("the other node, to the pod's port", vec![rule(PORT)], true),
        ("the other node, to the node's port", vec![rule(ON_NODE)], false),
    ] {
        wrong.extend(stage.under(title, &[ingress(&role(name), &rules)], &attempts(allowed)).await?);
    }
    end(&stage.cluster, name).await?;
    Ok(outcome(wrong))
}
