//! Frames that a pod may not send on a bridge, made by hand: none has an effect, and what is allowed goes on meanwhile.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use ringfence_e2e::pod;
use ringfence_e2e::wire::{ARP, IPV4, Wire, claim, datagram, ethernet};
use ringfence_install::status;
use ringfence_install::verify::report::Outcome;
use ringfence_netns::{HardwareAddress, Namespace};
use serde_json::json;

use super::attempt::outcome;
use super::policy::{ingress, pods, role};
use super::stage::{Actor, PORT, SPACE, Stage};

/// The link of a pod.
const LINK: &str = "eth0";
/// Where tunnels of VXLAN end as a rule.
const VXLAN: u16 = 8472;
/// An address that nobody has (RFC 5737), and a hardware address that nobody has.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NOBODY: HardwareAddress = [0x02, 0, 0x5e, 0x10, 0, 0x99];
/// How long a datagram may take that has to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pod at its link.
struct Party {
    wire: Wire,
    address: Ipv4Addr,
}

/// Who takes part: on one node and, but for the collector, on one bridge.
struct Parties {
    /// Whom nobody but friends may call.
    victim: Party,
    friend: Party,
    attacker: Party,
    /// On the other node.
    collector: Party,
    /// Of the bridge.
    gateway: HardwareAddress,
    node: (Namespace, Ipv4Addr),
}

/// What is sent, and who must not get it.
struct Row<'a> {
    name: &'static str,
    frame: Vec<u8>,
    witness: &'a Party,
    /// How it would be known.
    marker: Vec<u8>,
}

/// From a pod with a packet socket, on the bridge of the node it is on.
pub(super) async fn frames(stage: &Stage) -> anyhow::Result<Outcome> {
    let agents = status::ask(&stage.cluster.client).await?;
    let near = agents.nodes.iter().find(|agent| agent.name == stage.near.node);
    let bridge = near.and_then(|agent| agent.status.as_ref()?.enforcement.bridge);
    if bridge.is_none() {
        return Ok(Outcome::Skipped("pods of this cluster are not on a bridge".into()));
    }
    let parties = match Parties::gather(stage).await {
        Ok(Some(parties)) => parties,
        Ok(None) => return Ok(Outcome::Skipped("pods have no address of IPv4, of which these frames are made".into())),
        Err(error) => return Ok(Outcome::Skipped(format!("pods are not on this machine: {error:#}"))),
    };
    let written = stage.put(&[ingress(&role("server"), &[json!({"from": pods(&role("friend"))})])]).await?;
    let mut wrong = parties.try_all()?;
    wrong.extend(parties.wrapped()?);
    wrong.extend(stage.take(&written).await?);
    Ok(outcome(wrong))
}

async fn namespace(stage: &Stage, actor: &Actor) -> anyhow::Result<Namespace> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    pod::network(&api.get(&actor.name).await?)
}

fn ipv4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

async fn party(stage: &Stage, actor: &Actor) -> anyhow::Result<Option<Party>> {
    let Some(address) = ipv4(&actor.addresses) else { return Ok(None) };
    Ok(Some(Party { wire: Wire::at(&namespace(stage, actor).await?, LINK)?, address }))
}

impl Parties {
    async fn gather(stage: &Stage) -> anyhow::Result<Option<Self>> {
        let near = &stage.near;
        let (victim, friend) = (party(stage, &near.server).await?, party(stage, &near.friend).await?);
        let (attacker, collector) = (party(stage, &near.stranger).await?, party(stage, &stage.far.friend).await?);
        let (Some(victim), Some(friend), Some(attacker), Some(collector), Some(address)) =
            (victim, friend, attacker, collector, ipv4(&near.addresses))
        else {
            return Ok(None);
        };
        let node = namespace(stage, &near.host).await?;
        let gateway = bridge(&node, &namespace(stage, &near.stranger).await?)?;
        Ok(Some(Self { victim, friend, attacker, collector, gateway, node: (node, address) }))
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let Self { victim, friend, attacker, collector, gateway, .. } = self;
        let (own, other) = (attacker.wire.hardware_address, victim.wire.hardware_address);
        let row = |name: &'static str, witness, to, from, tags, packet: &dyn Fn(&[u8]) -> Vec<u8>| {
            let marker = format!("forged: {name}").into_bytes();
            Row { name, frame: ethernet(to, from, tags, IPV4, &packet(&marker)), witness, marker }
        };
        let to_victim = |from: Ipv4Addr| move |marker: &[u8]| datagram(from, (victim.address, PORT), 64, marker);
        let to_friend = |from: Ipv4Addr| move |marker: &[u8]| datagram(from, (friend.address, PORT), 64, marker);
        let arp = claim(own, victim.address, (friend.wire.hardware_address, friend.address));
        let own_address = move |marker: &[u8]| datagram(attacker.address, (attacker.address, PORT), 64, marker);
        let dying = move |marker: &[u8]| datagram(collector.address, (NOWHERE, PORT), 1, marker);
        vec![
            row("a tag for VLAN 0", victim, other, own, 1, &to_victim(attacker.address)),
            row("two tags for VLAN 0", victim, other, own, 2, &to_victim(attacker.address)),
            row("a tag, and a friend's address", victim, other, own, 1, &to_victim(friend.address)),
            row("a tag, to the node, and a friend's address", victim, *gateway, own, 1, &to_victim(friend.address)),
            row("a friend's address", victim, other, own, 0, &to_victim(friend.address)),
            row("one's own address, to another's hardware address", victim, other, own, 0, &own_address),
            row(
                "an address one may call, to another's hardware address",
                victim,
                other,
                own,
                0,
                &to_friend(attacker.address),
            ),
            row(
                "an address one may call, to a hardware address nobody has",
                victim,
                NOBODY,
                own,
                0,
                &to_friend(attacker.address),
            ),
            row(
                "another's hardware address",
                friend,
                friend.wire.hardware_address,
                other,
                0,
                &to_friend(attacker.address),
            ),
            row("a packet that the node answers to whom it names", collector, *gateway, own, 0, &dying),
            Row {
                name: "another's address in ARP",
                marker: arp[8..18].to_vec(),
                frame: ethernet(friend.wire.hardware_address, own, 0, ARP, &arp),
                witness: friend,
            },
        ]
    }

    /// Tries each row: sends it, then something that is allowed to the same pod, and sees whether only that arrives.
    fn try_all(&self) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (number, row) in self.rows().into_iter().enumerate() {
            self.attacker.wire.send(&row.frame)?;
            let last = format!("allowed, after row {number}").into_bytes();
            self.send_allowed(row.witness, &last)?;
            if row.witness.wire.hears_before(&row.marker, &last).with_context(|| row.name.to_owned())? {
                wrong.push(format!("a frame with {} arrived", row.name));
            }
        }
        Ok(wrong)
    }

    /// From the friend, and to him from the victim.
    fn send_allowed(&self, to: &Party, payload: &[u8]) -> anyhow::Result<()> {
        let from = if to.address == self.friend.address { &self.victim } else { &self.friend };
        let packet = datagram(from.address, (to.address, PORT), 64, payload);
        let next = if to.address == self.collector.address { self.gateway } else { to.wire.hardware_address };
        from.wire.send(&ethernet(next, from.wire.hardware_address, 0, IPV4, &packet))
    }

    /// What is wrapped up for a tunnel of a node does not reach it, and what a node itself sends there does.
    fn wrapped(&self) -> anyhow::Result<Option<String>> {
        let (node, address) = (&self.node.0, self.node.1);
        let Ok(tunnel) = node.run(|| UdpSocket::bind((address, VXLAN)))? else { return Ok(None) };
        tunnel.set_read_timeout(Some(PATIENCE))?;
        let packet = datagram(self.attacker.address, (address, VXLAN), 64, b"forged");
        self.attacker.wire.send(&ethernet(self.gateway, self.attacker.wire.hardware_address, 0, IPV4, &packet))?;
        let own = node.run(|| UdpSocket::bind((address, 0)))??;
        own.send_to(b"the node's own", (address, VXLAN))?;
        let (end, mut buffer) = (Instant::now() + PATIENCE, [0; 64]);
        let mut heard = false;
        while Instant::now() < end {
            let length = tunnel.recv(&mut buffer).context("what a node sends to a tunnel has to arrive")?;
            match &buffer[..length] {
                b"forged" => heard = true,
                b"the node's own" => break,
                _ => {}
            }
        }
        Ok(heard.then(|| "what a pod sent to the end of a tunnel arrived".to_owned()))
    }
}

/// The hardware address of the bridge that a pod's link is a port of.
fn bridge(node: &Namespace, pod: &Namespace) -> anyhow::Result<HardwareAddress> {
    let link = pod.netlink()?.find_link(LINK)?.with_context(|| format!("a pod has no link {LINK}"))?;
    let peer = link.peer.context("the pod's link has no other end")?;
    let mut netlink = node.netlink()?;
    let port = netlink.find_index(peer)?.context("the other end of the pod's link is not on its node")?;
    let bridge = port.controller.context("the pod's link is no port of a bridge")?;
    let bridge = netlink.find_index(bridge)?.context("the bridge has gone")?;
    bridge.hardware_address.try_into().ok().context("the bridge has no hardware address")
}
