//! Frames that a pod may not send, made by hand: none has an effect, and what is allowed goes on meanwhile. Where pods
//! are on a bridge most of them would reach their neighbours; where packets are routed to them, some.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use ringfence_e2e::pod;
use ringfence_e2e::wire::{ARP, Wire, advertisement, claim, datagram, ethernet, kind_of, router_advertisement};
use ringfence_install::verify::report::Outcome;
use ringfence_netns::{HardwareAddress, Namespace};
use serde_json::json;

use super::attempt::outcome;
use super::policy::{ingress, pods, role};
use super::stage::{Actor, PORT, Place, SPACE, Stage};

/// The link of a pod.
const LINK: &str = "eth0";
/// Usual port of VXLAN.
const VXLAN: u16 = 8472;
/// Addresses that nobody has (RFC 5737, RFC 3849), and a hardware address that nobody has.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NOWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// A range of which a pod would have others take addresses.
const RANGE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0x77, 0, 0, 0, 0);
const NOBODY: HardwareAddress = [0x02, 0, 0x5e, 0x10, 0, 0x99];
/// The time that a datagram may take that has to arrive.
const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(10);

/// A pod at its link.
struct Party {
    wire: Wire,
    /// Of the family that is tried.
    address: IpAddr,
    /// Hardware address of what is at the other end: of the bridge, or of the node's end of the link.
    gateway: HardwareAddress,
    /// True if it shares a bridge with others.
    bridged: bool,
}

/// Participants: on one node, but for the collector.
struct Parties {
    /// Whom nobody but friends may call.
    victim: Party,
    friend: Party,
    attacker: Party,
    /// On the other node.
    collector: Party,
    node: (Namespace, IpAddr),
}

/// A frame, and who must not get it.
struct Row<'a> {
    name: &'static str,
    frame: Vec<u8>,
    witness: &'a Party,
    /// Marker by which it is known.
    marker: Vec<u8>,
}

/// From a pod with a packet socket.
pub(super) async fn frames(stage: &Stage) -> anyhow::Result<Outcome> {
    let mut families = Vec::new();
    for of_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        match Parties::gather(stage, of_family).await {
            Ok(parties) => families.extend(parties),
            Err(error) => return Ok(Outcome::Skipped(format!("pods are not on this machine: {error:#}"))),
        }
    }
    let written = stage.put(&[ingress(&role("server"), &[json!({"from": pods(&role("friend"))})])]).await?;
    let mut wrong = Vec::new();
    for parties in families {
        wrong.extend(parties.try_all()?);
        wrong.extend(parties.wrapped()?);
    }
    wrong.extend(stage.take(&written).await?);
    Ok(outcome(wrong))
}

async fn namespace(stage: &Stage, actor: &Actor) -> anyhow::Result<Namespace> {
    let api: Api<Pod> = Api::namespaced(stage.cluster.client.clone(), SPACE);
    pod::network(&api.get(&actor.name).await?)
}

async fn party(
    stage: &Stage,
    place: &Place,
    actor: &Actor,
    of_family: fn(&IpAddr) -> bool,
) -> anyhow::Result<Option<Party>> {
    let Some(address) = actor.addresses.iter().copied().find(of_family) else { return Ok(None) };
    let pod = namespace(stage, actor).await?;
    let (gateway, bridged) = far_end(&namespace(stage, &place.host).await?, &pod)?;
    Ok(Some(Party { wire: Wire::at(&pod, LINK)?, address, gateway, bridged }))
}

impl Parties {
    /// None where pods or nodes have no address of the family.
    async fn gather(stage: &Stage, of_family: fn(&IpAddr) -> bool) -> anyhow::Result<Option<Self>> {
        let (near, far) = (&stage.near, &stage.far);
        let (victim, friend) =
            (party(stage, near, &near.server, of_family).await?, party(stage, near, &near.friend, of_family).await?);
        let (attacker, collector) =
            (party(stage, near, &near.stranger, of_family).await?, party(stage, far, &far.friend, of_family).await?);
        let (Some(victim), Some(friend), Some(attacker), Some(collector), Some(address)) =
            (victim, friend, attacker, collector, near.addresses.iter().copied().find(of_family))
        else {
            return Ok(None);
        };
        Ok(Some(Self { victim, friend, attacker, collector, node: (namespace(stage, &near.host).await?, address) }))
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let Self { victim, friend, attacker, collector, .. } = self;
        let gateway = &attacker.gateway;
        let (own, other) = (attacker.wire.hardware_address, victim.wire.hardware_address);
        let family = if victim.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let row = |name: &'static str, witness, to, from, tags, packet: &dyn Fn(&[u8]) -> Vec<u8>| {
            let marker = format!("forged, {family}: {name}").into_bytes();
            let packet = packet(&marker);
            Row { name, frame: ethernet(to, from, tags, kind_of(&packet), &packet), witness, marker }
        };
        let to_victim = |from: IpAddr| move |marker: &[u8]| datagram(from, (victim.address, PORT), 64, marker);
        let to_friend = |from: IpAddr| move |marker: &[u8]| datagram(from, (friend.address, PORT), 64, marker);
        let own_address = move |marker: &[u8]| datagram(attacker.address, (attacker.address, PORT), 64, marker);
        let nowhere = if victim.address.is_ipv4() { NOWHERE.into() } else { NOWHERE_V6.into() };
        let dying = move |marker: &[u8]| datagram(collector.address, (nowhere, PORT), 1, marker);
        let mut rows = vec![
            row("a tag for VLAN 0", victim, other, own, 1, &to_victim(attacker.address)),
            row("two tags for VLAN 0", victim, other, own, 2, &to_victim(attacker.address)),
            row("a tag, and a friend's address", victim, other, own, 1, &to_victim(friend.address)),
            row("a tag, to the node, and a friend's address", victim, *gateway, own, 1, &to_victim(friend.address)),
            row("a friend's address", victim, other, own, 0, &to_victim(friend.address)),
            row("a friend's address, to the node", victim, *gateway, own, 0, &to_victim(friend.address)),
            row("the other node's pod's address, to the node", victim, *gateway, own, 0, &to_victim(collector.address)),
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
        ];
        rows.extend(self.claims());
        rows
    }

    /// Frames that would make the friend send to the attacker, or to whom it names.
    fn claims(&self) -> Vec<Row<'_>> {
        let Self { victim, friend, attacker, .. } = self;
        let (own, to) = (attacker.wire.hardware_address, friend.wire.hardware_address);
        match (attacker.address, victim.address, friend.address) {
            (_, IpAddr::V4(of), IpAddr::V4(told)) => {
                let arp = claim(own, of, (to, told));
                let (frame, marker) = (ethernet(to, own, 0, ARP, &arp), arp[8..18].to_vec());
                vec![Row { name: "another's address in ARP", frame, witness: friend, marker }]
            }
            (IpAddr::V6(from), IpAddr::V6(of), IpAddr::V6(told)) => {
                let claim = advertisement(from, told, own, of);
                let (router, range) = (router_advertisement(from, told, RANGE), RANGE.octets().to_vec());
                [
                    ("another's address in an advertisement", claim.clone(), claim[48..].to_vec()),
                    ("a router's", router, range),
                ]
                .map(|(name, packet, marker)| {
                    let frame = ethernet(to, own, 0, kind_of(&packet), &packet);
                    Row { name, frame, witness: friend, marker }
                })
                .into()
            }
            _ => Vec::new(),
        }
    }

    /// Tries each row: sends it, then something that is allowed to the same pod, and sees whether only that arrives.
    fn try_all(&self) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (number, row) in self.rows().into_iter().enumerate() {
            self.attacker.wire.send(&row.frame)?;
            // Those who try another family hear it too.
            let last = format!("allowed, after row {number}, to {}", row.witness.address).into_bytes();
            self.send_allowed(row.witness, &last)?;
            if row.witness.wire.hears_before(&row.marker, &last).with_context(|| row.name.to_owned())? {
                wrong.push(format!("a frame with {} arrived at {}", row.name, row.witness.address));
            }
        }
        Ok(wrong)
    }

    /// From the friend, and to him from the victim.
    fn send_allowed(&self, to: &Party, payload: &[u8]) -> anyhow::Result<()> {
        let from = if to.address == self.friend.address { &self.victim } else { &self.friend };
        let packet = datagram(from.address, (to.address, PORT), 64, payload);
        let near = from.bridged && to.address != self.collector.address;
        let next = if near { to.wire.hardware_address } else { from.gateway };
        from.wire.send(&ethernet(next, from.wire.hardware_address, 0, kind_of(&packet), &packet))
    }

    /// Checks that packets which pods wrap for a tunnel of a node do not reach it, and that packets of nodes do.
    fn wrapped(&self) -> anyhow::Result<Option<String>> {
        let (node, address) = (&self.node.0, self.node.1);
        let Ok(tunnel) = node.run(|| UdpSocket::bind((address, VXLAN)))? else { return Ok(None) };
        tunnel.set_read_timeout(Some(DATAGRAM_TIMEOUT))?;
        let packet = datagram(self.attacker.address, (address, VXLAN), 64, b"forged");
        let attacker = &self.attacker.wire;
        attacker.send(&ethernet(self.attacker.gateway, attacker.hardware_address, 0, kind_of(&packet), &packet))?;
        let own = node.run(|| UdpSocket::bind((address, 0)))??;
        own.send_to(b"the node's own", (address, VXLAN))?;
        let (end, mut buffer) = (Instant::now() + DATAGRAM_TIMEOUT, [0; 64]);
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

/// The hardware address to which a pod sends what is for others, and whether that is a bridge's.
fn far_end(node: &Namespace, pod: &Namespace) -> anyhow::Result<(HardwareAddress, bool)> {
    let link = pod.netlink()?.find_link(LINK)?.with_context(|| format!("a pod has no link {LINK}"))?;
    let peer = link.peer.context("the pod's link has no other end")?;
    let mut netlink = node.netlink()?;
    let port = netlink.find_index(peer)?.context("the other end of the pod's link is not on its node")?;
    let bridge =
        port.controller.map(|bridge| netlink.find_index(bridge)?.context("the bridge has gone")).transpose()?;
    let bridged = bridge.is_some();
    let end = bridge.unwrap_or(port).hardware_address.try_into().ok().context("no hardware address")?;
    Ok((end, bridged))
}
