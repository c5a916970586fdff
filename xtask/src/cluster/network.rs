//! The network between nodes: a bridge in the control plane's namespace, a veth pair to each node.

use std::process::Command;

use anyhow::Context as _;

use super::addresses::Addresses;
use super::process::{ip, output};
use super::{Local, Node};

/// Settings of a node's network: nodes forward, and netfilter sees what bridges forward.
const SETTINGS: [&str; 4] = [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.bridge.bridge-nf-call-iptables=1",
    "net.bridge.bridge-nf-call-ip6tables=1",
];

impl Local {
    fn bridge(&self) -> String {
        format!("{}-br", self.name)
    }
}

/// Makes the namespace of the control plane, with the bridge.
pub(super) fn prepare(cluster: &Local, addresses: &Addresses) -> anyhow::Result<()> {
    let (name, bridge) = (&cluster.name, cluster.bridge());
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("-n {name} link add {bridge} type bridge"))?;
    ip(&format!("-n {name} link set {bridge} up"))?;
    for address in addresses.on_link(&addresses.control_plane()) {
        ip(&format!("-n {name} address add {address} dev {bridge}{}", undetected(&address)))?;
    }
    let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    output(cluster.command("sysctl").arg("--quiet").arg("--write").args(forward)).map(drop)
}

/// Joins a node.
pub(super) fn join(node: &Node<'_>, addresses: &Addresses) -> anyhow::Result<()> {
    let (name, own, bridge) = (node.name(), &node.cluster.name, node.cluster.bridge());
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {own} link add {name} type veth peer name eth0 netns {name}"))?;
    ip(&format!("-n {own} link set {name} master {bridge} up"))?;
    for link in ["lo", "eth0"] {
        ip(&format!("-n {name} link set {link} up"))?;
    }
    for address in addresses.on_link(&addresses.node(node.number)) {
        ip(&format!("-n {name} address add {address} dev eth0{}", undetected(&address)))?;
    }
    for gateway in addresses.control_plane() {
        ip(&format!("-n {name} route add default via {gateway} dev eth0"))?;
    }
    output(Command::new("ip").args(["netns", "exec", &name, "sysctl", "--quiet", "--write"]).args(SETTINGS)).map(drop)
}

/// IPv6 addresses are used at once: nobody else is there who could have them.
fn undetected(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// Lets the control plane and all nodes reach the pods of each node, as a network plugin would.
pub(super) fn route(cluster: &Local, nodes: u8, addresses: &Addresses) -> anyhow::Result<()> {
    let nodes: Vec<Node<'_>> = (1..=nodes).map(|number| Node { cluster, number }).collect();
    for to in &nodes {
        let vias = addresses.node(to.number);
        for range in to.pod_ranges()? {
            let same = |via: &&String| via.contains(':') == range.contains(':');
            let via = vias.iter().find(same).with_context(|| format!("{range} is of another family than its node"))?;
            let others = nodes.iter().filter(|from| from.number != to.number).map(Node::name);
            for from in others.chain([cluster.name.clone()]) {
                ip(&format!("-n {from} route add {range} via {via}"))?;
            }
        }
    }
    Ok(())
}

/// Removes the control plane's namespace, and with it the bridge.
pub(super) fn remove(cluster: &Local) -> anyhow::Result<()> {
    remove_namespace(&cluster.name)
}

/// Removes a namespace, if it is there.
pub(super) fn remove_namespace(name: &str) -> anyhow::Result<()> {
    let there = std::path::Path::new("/run/netns").join(name).exists();
    if there { ip(&format!("netns delete {name}")).map(drop) } else { Ok(()) }
}
