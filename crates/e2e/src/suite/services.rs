//! Services within the cluster: policy speaks of pods and of the ports that pods have.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use ringfence_e2e::cluster::eventually;
use ringfence_install::exec;
use ringfence_install::verify::report::Outcome;
use serde_json::{Value, json};

use super::attempt::{Attempt, outcome};
use super::policy::{egress as egress_policy, ingress, pods, role, tcp};
use super::stage::{Actor, PORT, SPACE, Stage};

/// The Service's own port, which no pod listens on.
const SERVICE_PORT: u16 = 80;
/// Number of calls of a Service that remembers its callers.
const CALLS: usize = 8;
/// The time that a request may take, with everything around it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Ports of a Service: 80 leads to what the pods call `web` and `dgram`, which is 8080.
fn ports() -> Value {
    json!([
        {"name": "web", "port": SERVICE_PORT, "targetPort": "web"},
        {"name": "dgram", "port": SERVICE_PORT, "targetPort": "dgram", "protocol": "UDP"},
    ])
}

/// Addresses of a Service.
pub(super) fn addresses(service: &Value) -> Vec<IpAddr> {
    let all = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    all.filter_map(|address| address.as_str()?.parse().ok()).collect()
}

/// Attempts from friends and strangers of both nodes, at each address of a Service.
fn callers(stage: &Stage, service: &Value, friends: bool, strangers: bool) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for address in addresses(service) {
        let target = SocketAddr::new(address, SERVICE_PORT);
        for place in stage.places() {
            attempts.extend(Attempt::both(&place.friend, target, friends));
            attempts.extend(Attempt::both(&place.stranger, target, strangers));
        }
    }
    attempts
}

/// A rule that lets friends in, at the port that pods listen on.
fn friends(tcp: impl Into<Value>, udp: impl Into<Value>) -> Value {
    let ports = json!([{"port": tcp.into()}, {"protocol": "UDP", "port": udp.into()}]);
    json!({"from": pods(&role("friend")), "ports": ports})
}

/// Ingress of what is behind a Service: by number and name of the pods' port, not by the Service's.
pub(super) async fn cluster_ip(stage: &Stage) -> anyhow::Result<Outcome> {
    let service = stage.service("web", json!({"selector": {"role": "server"}, "ports": ports()})).await?;
    let mut wrong = stage.open(&callers(stage, &service, true, true)).await;
    let servers = role("server");
    for (title, rules, friend) in [
        ("ports of the pods by number", vec![friends(PORT, PORT)], true),
        ("ports of the pods by name", vec![friends("web", "dgram")], true),
        ("port of the Service", vec![friends(SERVICE_PORT, SERVICE_PORT)], false),
        ("nobody", vec![], false),
    ] {
        let attempts = callers(stage, &service, friend, false);
        wrong.extend(stage.under(title, &[ingress(&servers, &rules)], &attempts).await?);
    }
    stage.cluster.delete(&service).await?;
    Ok(outcome(wrong))
}

/// Egress to what is behind a Service.
pub(super) async fn egress(stage: &Stage) -> anyhow::Result<Outcome> {
    let service = stage.service("web", json!({"selector": {"role": "server"}, "ports": ports()})).await?;
    let mut wrong = stage.open(&callers(stage, &service, true, true)).await;
    let own = |address: &IpAddr| json!({"ipBlock": {"cidr": super::policy::cidr(*address)}});
    let addresses: Value = addresses(&service).iter().map(own).collect();
    let to =
        |peers: &Value, port: Value| json!({"to": peers, "ports": [{"port": port}, {"protocol": "UDP", "port": port}]});
    for (title, rule, friend) in [
        ("to the pods", to(&pods(&role("server")), json!(PORT)), true),
        ("to the port of the Service", to(&pods(&role("server")), json!(SERVICE_PORT)), false),
        ("to other pods", to(&pods(&role("stranger")), json!(PORT)), false),
        ("to the address of the Service", json!({"to": addresses}), false),
    ] {
        let attempts = callers(stage, &service, friend, true);
        wrong.extend(stage.under(title, &[egress_policy(&role("friend"), &[rule])], &attempts).await?);
    }
    stage.cluster.delete(&service).await?;
    Ok(outcome(wrong))
}

/// A pod that reaches itself through its Service: policy is asked in both directions.
pub(super) async fn hairpin(stage: &Stage) -> anyhow::Result<Outcome> {
    let server = &stage.near.server;
    let own = json!({"pod": server.name});
    let service = stage.service("self", json!({"selector": own, "ports": ports()})).await?;
    let attempts = |allowed| -> Vec<Attempt> {
        let targets = addresses(&service).into_iter().map(|address| SocketAddr::new(address, SERVICE_PORT));
        targets.flat_map(|target| Attempt::both(server, target, allowed)).collect()
    };
    let closed = stage.open(&attempts(true)).await;
    if !closed.is_empty() {
        stage.cluster.delete(&service).await?;
        return Ok(if stage.primary || stage.lab {
            outcome(closed)
        } else {
            Outcome::Skipped(format!("a pod does not reach itself through a Service here; {}", closed.join("; ")))
        });
    }
    let (selected, itself) = (role("server"), pods(&json!({"matchLabels": own})));
    let mut wrong = Vec::new();
    for (title, policy, allowed) in [
        ("nothing comes in", ingress(&selected, &[]), false),
        ("nothing goes out", egress_policy(&selected, &[]), false),
        ("itself comes in", ingress(&selected, &[json!({"from": itself})]), true),
        ("goes out to itself", egress_policy(&selected, &[json!({"to": itself})]), true),
    ] {
        wrong.extend(stage.under(title, &[policy], &attempts(allowed)).await?);
    }
    stage.cluster.delete(&service).await?;
    Ok(outcome(wrong))
}

/// Asks for a server's name; none if nobody answers.
async fn ask(stage: &Stage, from: &Actor, url: &str, family: &str) -> anyhow::Result<Option<String>> {
    let command = ["curl", "-s", "-g", family, "--max-time", "2", url];
    let output = exec::run(&stage.cluster.client, &from.container(), &command, REQUEST_TIMEOUT).await?;
    match output.code {
        0 => Ok(Some(output.stdout)),
        // What curl calls a timeout.
        28 => Ok(None),
        code => bail!("{}: curl {url} ended with {code}: {}", from.name, output.said()),
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "-4" } else { "-6" }
}

/// A Service that remembers its callers.
pub(super) async fn affinity(stage: &Stage) -> anyhow::Result<Outcome> {
    let spec = json!({"selector": {"role": "server"}, "ports": ports(), "sessionAffinity": "ClientIP"});
    let service = stage.service("sticky", spec).await?;
    let mut wrong = stage.open(&callers(stage, &service, true, true)).await;
    let written = stage.put(&[ingress(&role("server"), &[friends("web", "dgram")])]).await?;
    for address in addresses(&service) {
        let url = format!("http://{}/hostname", SocketAddr::new(address, SERVICE_PORT));
        for place in stage.places() {
            let mut seen = BTreeSet::new();
            for _ in 0..CALLS {
                seen.insert(ask(stage, &place.friend, &url, family(address)).await?);
            }
            if seen.len() != 1 || seen.contains(&None) {
                wrong.push(format!("{} must get one answer from {url}, and gets {seen:?}", place.friend.name));
            }
            if let Some(answer) = ask(stage, &place.stranger, &url, family(address)).await? {
                wrong.push(format!("{} must be denied at {url}, and is answered by {answer}", place.stranger.name));
            }
        }
    }
    wrong.extend(stage.take(&written).await?);
    stage.cluster.delete(&service).await?;
    Ok(outcome(wrong))
}

/// A Service without an address, by its name.
pub(super) async fn headless(stage: &Stage) -> anyhow::Result<Outcome> {
    let spec = json!({"clusterIP": "None", "selector": {"role": "server"}, "ports": [{"name": "web", "port": PORT}]});
    let service = stage.service("headless", spec).await?;
    let url = format!("http://headless.{SPACE}.svc:{PORT}/hostname");
    let families: BTreeSet<&str> = stage.near.server.addresses.iter().map(|address| family(*address)).collect();
    for family in &families {
        // Names come when the DNS server knows of them.
        eventually(&format!("{url} answers"), || async {
            Ok(ask(stage, &stage.near.friend, &url, family).await.ok().flatten())
        })
        .await?;
    }
    let written =
        stage.put(&[ingress(&role("server"), &[json!({"from": pods(&role("friend")), "ports": tcp("web")})])]).await?;
    let mut wrong = Vec::new();
    for family in families {
        for place in stage.places() {
            if ask(stage, &place.friend, &url, family).await?.is_none() {
                wrong.push(format!("{} must be let through to {url} ({family}), and is not", place.friend.name));
            }
            if ask(stage, &place.stranger, &url, family).await?.is_some() {
                wrong.push(format!("{} must be denied at {url} ({family}), and is let through", place.stranger.name));
            }
        }
    }
    wrong.extend(stage.take(&written).await?);
    stage.cluster.delete(&service).await?;
    Ok(outcome(wrong))
}
