//! Services on ports of nodes, called from nodes and from outside.
//!
//! What comes in at the node of the pod is judged before its address is hidden; what comes in at another node arrives
//! under that node's address, unless the Service keeps to the pods of the node.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Context as _;
use ringfence_install::verify::report::Outcome;
use serde_json::{Value, json};

use super::attempt::{Attempt, Protocol, outcome};
use super::policy::{blocks, ingress, role, tcp};
use super::stage::{PORT, Place, Stage};

/// A Service of the server near by, on a port of every node; returns it and the port.
async fn service(stage: &Stage, name: &str, keeps: &str) -> anyhow::Result<(Value, u16)> {
    let spec = json!({
        "type": "NodePort", "externalTrafficPolicy": keeps, "selector": {"pod": stage.near.server.name},
        "ports": [{"name": "web", "port": 80, "targetPort": "web"}],
    });
    let service = stage.service(name, spec).await?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
    Ok((service, port.context("the Service has no port of nodes")?))
}

/// The port at each address of a node that the Service has a family of.
fn at(place: &Place, service: &Value, port: u16) -> Vec<SocketAddr> {
    let families: Vec<&str> =
        service["spec"]["ipFamilies"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let served = |address: &&IpAddr| families.contains(if address.is_ipv4() { &"IPv4" } else { &"IPv6" });
    place.addresses.iter().filter(served).map(|address| SocketAddr::new(*address, port)).collect()
}

/// Under which address this machine calls a node; none where it has no way to it.
fn own_address(target: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Addresses of this machine, if it reaches the port at all of these.
async fn outside(stage: &Stage, targets: &[SocketAddr]) -> Option<Vec<IpAddr>> {
    let own: Option<Vec<IpAddr>> = targets.iter().map(|target| own_address(*target)).collect();
    let own = own.filter(|_| !stage.lab)?;
    let attempts: Vec<Attempt> = targets.iter().map(|target| Attempt::from_here(*target, true)).collect();
    stage.open(&attempts).await.is_empty().then_some(own)
}

/// Whoever comes from here may use the pods' port.
fn from(addresses: &[IpAddr]) -> Vec<Value> {
    vec![json!({"from": blocks(addresses), "ports": tcp(PORT)})]
}

/// Whom a policy of the servers lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    OtherNode,
    Machine,
}

/// Makes attempts while a policy is in force, those from this machine if it reaches the nodes: then its addresses are
/// told.
async fn under(
    stage: &Stage,
    machine: Option<&[IpAddr]>,
    who: Who,
    mut attempts: Vec<Attempt>,
    from_here: Vec<Attempt>,
) -> anyhow::Result<Vec<String>> {
    let (title, rules) = match (who, machine) {
        (Who::Nobody, _) => ("from nobody", Vec::new()),
        (Who::OtherNode, _) => ("from the other node", from(&stage.far.addresses)),
        (Who::Machine, Some(own)) => ("from this machine", from(own)),
        (Who::Machine, None) => return Ok(Vec::new()),
    };
    if machine.is_some() {
        attempts.extend(from_here);
    }
    stage.under(title, &[ingress(&role("server"), &rules)], &attempts).await
}

/// The Service sends on to pods of any node.
pub(super) async fn cluster(stage: &Stage) -> anyhow::Result<Outcome> {
    let (service, port) = service(stage, "any-node", "Cluster").await?;
    let (near, far) = (at(&stage.near, &service, port), at(&stage.far, &service, port));
    let pods = |far_allowed: bool| -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for target in &near {
            // The pod's own node may always.
            attempts.push(Attempt::of(&stage.near.host, *target, Protocol::Tcp, true));
            attempts.push(Attempt::of(&stage.far.host, *target, Protocol::Tcp, far_allowed));
        }
        for target in &far {
            for host in [&stage.near.host, &stage.far.host] {
                attempts.push(Attempt::of(host, *target, Protocol::Tcp, far_allowed));
            }
        }
        attempts
    };
    let mut wrong = stage.open(&pods(true)).await;
    let machine = outside(stage, &[near.as_slice(), &far].concat()).await;
    for (who, far_allowed, near_from_here, far_from_here) in
        [(Who::Nobody, false, false, false), (Who::OtherNode, true, false, true), (Who::Machine, false, true, false)]
    {
        let here = |targets: &[SocketAddr], allowed: bool| -> Vec<Attempt> {
            targets.iter().map(|target| Attempt::from_here(*target, allowed)).collect()
        };
        let from_here = [here(&near, near_from_here), here(&far, far_from_here)].concat();
        wrong.extend(under(stage, machine.as_deref(), who, pods(far_allowed), from_here).await?);
    }
    stage.cluster.delete(&service).await?;
    note(machine.is_some());
    Ok(outcome(wrong))
}

/// The Service keeps to the pods of the node that is called, and callers keep their addresses.
pub(super) async fn local(stage: &Stage) -> anyhow::Result<Outcome> {
    if stage.lab {
        return Ok(Outcome::Skipped("Services of the lab do not know externalTrafficPolicy: Local".into()));
    }
    let (service, port) = service(stage, "own-node", "Local").await?;
    let near = at(&stage.near, &service, port);
    let pods = |far_allowed: bool| -> Vec<Attempt> {
        let both = |target: &SocketAddr| {
            [(&stage.near.host, true), (&stage.far.host, far_allowed)]
                .map(|(host, allowed)| Attempt::of(host, *target, Protocol::Tcp, allowed))
        };
        near.iter().flat_map(both).collect()
    };
    let mut wrong = stage.open(&pods(true)).await;
    let machine = outside(stage, &near).await;
    for (who, far_allowed, allowed_from_here) in
        [(Who::Nobody, false, false), (Who::OtherNode, true, false), (Who::Machine, false, true)]
    {
        let from_here = near.iter().map(|target| Attempt::from_here(*target, allowed_from_here)).collect();
        wrong.extend(under(stage, machine.as_deref(), who, pods(far_allowed), from_here).await?);
    }
    stage.cluster.delete(&service).await?;
    note(machine.is_some());
    Ok(outcome(wrong))
}

fn note(from_outside: bool) {
    if !from_outside {
        println!("        not tried from outside: this machine does not reach the nodes");
    }
}
