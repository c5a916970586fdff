//! Pods that start, are asked how they are, and give way to others.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use ringfence_e2e::cluster::eventually;
use ringfence_install::connect;
use ringfence_install::verify::report::Outcome;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::attempt::{self, Attempt, outcome};
use super::policy::{egress, ingress, pods, policy, role};
use super::stage::{Actor, PORT, SPACE, Stage, end, listening};

/// The time that a pod under probes is watched: probes come each second.
const WATCH_TIME: Duration = Duration::from_secs(6);
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The number of pods follow each other.
const ROUNDS: usize = 6;
/// The number of pods are made at the same moment as the policy.
const TOGETHER: usize = 4;
/// For how long they are tried once they are ready.
const TRIED: Duration = Duration::from_secs(2);

fn labelled(mut pod: Value, labels: Value) -> Value {
    pod["metadata"]["labels"] = labels;
    pod
}

/// True if a pod is ready, and how often it was started anew.
fn health(pod: &Pod) -> (bool, i32) {
    let status = pod.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    (ready, status.container_statuses.iter().flatten().map(|container| container.restart_count).sum())
}

/// Probes of the kubelet to pods that nobody may call.
pub(super) async fn probes(stage: &Stage) -> anyhow::Result<Outcome> {
    let closed = json!({"policyTypes": ["Ingress", "Egress"]});
    let written = stage.put(&[policy("probed", &role("probed"), &closed)]).await?;
    let own = format!("localhost:{PORT}");
    let kinds = [
        ("http-get", json!({"httpGet": {"path": "/hostname", "port": PORT}})),
        ("tcp-socket", json!({"tcpSocket": {"port": PORT}})),
        ("command", json!({"exec": {"command": ["/agnhost", "connect", own, "--timeout=1s"]}})),
    ];
    for (name, probe) in &kinds {
        let mut pod = labelled(listening(name, &stage.near.node, PORT), json!({"role": "probed"}));
        let mut probe = probe.clone();
        (probe["periodSeconds"], probe["failureThreshold"], probe["timeoutSeconds"]) = (json!(1), json!(2), json!(2));
        let container = &mut pod["spec"]["containers"][0];
        container["readinessProbe"] = probe.clone();
        // What must be alive may take a while to come to life.
        probe["initialDelaySeconds"] = json!(2);
        container["livenessProbe"] = probe;
        stage.cluster.create(&pod).await?;
    }
    let mut wrong = Vec::new();
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    for (name, _) in &kinds {
        stage.cluster.ready(SPACE, name).await?;
    }
    let end_of_watch = Instant::now() + WATCH_TIME;
    while wrong.is_empty() && Instant::now() < end_of_watch {
        for (name, _) in &kinds {
            let (ready, restarts) = health(&api.get(name).await?);
            if !ready || restarts > 0 {
                wrong.push(format!("pod {name} must stay ready, and is {ready}, started anew {restarts} times"));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let pod = Actor::of(&api.get(kinds[0].0).await?);
    let callers = [Attempt::to(&stage.near.friend, &pod, PORT, false), Attempt::to(&stage.far.host, &pod, PORT, false)];
    wrong.extend(attempt::all(&stage.cluster.client, &callers.concat()).await);
    for (name, _) in &kinds {
        end(&stage.cluster, name).await?;
    }
    wrong.extend(stage.take(&written).await?);
    Ok(outcome(wrong))
}

/// A pod that goes, and another that comes at once and may get its address: each has its own policy.
pub(super) async fn address_of_another(stage: &Stage) -> anyhow::Result<Outcome> {
    let friends = json!({"policyTypes": ["Ingress"], "ingress": [{"from": pods(&role("friend"))}]});
    let nobody = json!({"policyTypes": ["Ingress"], "ingress": []});
    let doors = ["open", "closed"];
    let policies = [policy(doors[0], &role(doors[0]), &friends), policy(doors[1], &role(doors[1]), &nobody)];
    let written = stage.put(&policies).await?;
    let mut wrong = Vec::new();
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    let pod = |round: usize| {
        labelled(listening(&format!("door-{round}"), &stage.near.node, PORT), json!({"role": doors[round % 2]}))
    };
    stage.cluster.create(&pod(0)).await?;
    for round in 0..ROUNDS {
        let name = format!("door-{round}");
        let actor = Actor::of(&stage.cluster.ready(SPACE, &name).await?);
        let attempts = [
            Attempt::to(&stage.near.friend, &actor, PORT, round % 2 == 0),
            Attempt::to(&stage.far.friend, &actor, PORT, round % 2 == 0),
            Attempt::to(&stage.far.stranger, &actor, PORT, false),
        ];
        let seen = attempt::all(&stage.cluster.client, &attempts.concat()).await;
        wrong.extend(seen.into_iter().map(|line| format!("{name} ({}): {line}", doors[round % 2])));
        api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        if round + 1 < ROUNDS {
            stage.cluster.create(&pod(round + 1)).await?;
        }
    }
    wrong.extend(stage.take(&written).await?);
    Ok(outcome(wrong))
}

/// Pods that are made in the same moment as a policy that lets nobody in: they never answer.
pub(super) async fn made_together(stage: &Stage) -> anyhow::Result<Outcome> {
    let closed = ingress(&role("together"), &[]);
    let closed = serde_json::to_value(stage.cluster.apply(&closed).await?)?;
    let names: Vec<String> = (0..TOGETHER).map(|number| format!("together-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let node = &stage.places()[number % 2].node;
        stage.cluster.create(&labelled(listening(name, node, PORT), json!({"role": "together"}))).await?;
    }
    let tried = futures::future::try_join_all(names.iter().map(|name| never_answers(stage, name))).await?;
    for name in &names {
        end(&stage.cluster, name).await?;
    }
    stage.cluster.delete(&closed).await?;
    Ok(outcome(tried.into_iter().flatten().collect()))
}

/// Calls a pod from the moment that it has an address until a while after it is ready.
async fn never_answers(stage: &Stage, name: &str) -> anyhow::Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    let actor = eventually(&format!("pod {name} has an address"), || async {
        let actor = Actor::of(&api.get(name).await?);
        Ok((!actor.addresses.is_empty()).then_some(actor))
    })
    .await?;
    let mut last: Option<Instant> = None;
    while last.is_none_or(|last| Instant::now() < last) {
        for address in &actor.addresses {
            let target = SocketAddr::new(*address, PORT).to_string();
            // A refusal is an answer too: then nothing listens yet, and nothing was in the way.
            match connect::once(&stage.cluster.client, &stage.far.friend.container(), &target, "tcp").await {
                Ok(false) => {}
                Ok(true) => return Ok(vec![format!("{name} must never answer, and does at {target}")]),
                Err(error) => return Ok(vec![format!("{name} must never answer: {error:#}")]),
            }
        }
        if last.is_none() && health(&api.get(name).await?).0 {
            last = Some(Instant::now() + TRIED);
        }
    }
    Ok(Vec::new())
}

/// The first thing a pod does is judged, and what it may do is not lost.
pub(super) async fn first_packet(stage: &Stage) -> anyhow::Result<Outcome> {
    let written = stage.put(&[egress(&json!({"matchLabels": {"role": "caller", "may": "no"}}), &[])]).await?;
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    let mut wrong = Vec::new();
    for (place, callee) in [(&stage.near, &stage.far), (&stage.far, &stage.far)] {
        for address in &callee.server.addresses {
            let target = SocketAddr::new(*address, PORT).to_string();
            for (may, wanted) in [("yes", "Succeeded"), ("no", "Failed")] {
                let mut pod = labelled(listening("caller", &place.node, PORT), json!({"role": "caller", "may": may}));
                pod["spec"]["restartPolicy"] = json!("Never");
                pod["spec"]["containers"][0] = json!({
                    "name": "agnhost", "image": ringfence_install::verify::IMAGE,
                    // The node's end of a pod's link has to find out first that no one else has its IPv6 address.
                    "command": ["/agnhost", "connect", target, "--timeout=5s"],
                });
                stage.cluster.create(&pod).await?;
                let phase = eventually("the calling pod ends", || async {
                    let phase = api.get("caller").await?.status.and_then(|status| status.phase).unwrap_or_default();
                    Ok(["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase))
                })
                .await?;
                if phase != wanted {
                    wrong.push(format!("a pod on {} that calls {target} (may: {may}) ends as {phase}", place.node));
                }
                end(&stage.cluster, "caller").await?;
            }
        }
    }
    wrong.extend(stage.take(&written).await?);
    Ok(outcome(wrong))
}
