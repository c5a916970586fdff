//! Attacks on neighbours with hand-made frames of a pod on a bridge. Each attack succeeds if only netfilter checks
//! packets, and fails if the link is guarded.

use std::collections::BTreeMap;

use ringfence_datapath::{Datapath, PodLink};

use crate::kit::net::{Joint, Net, WORLD, address, address_v6};
use crate::kit::plan::Hand;
use crate::kit::talk::{Echo, reaches};
use crate::kit::wire::{BROADCAST, Ip, Mac, Wire, arp, frame, kind_of, tagged};

/// The pods by number: the attacker with open egress, a pod that denies all ingress, an open pod, and one that may send
/// nothing.
const ATTACKER: usize = 2;
const VICTIM: usize = 3;
const OPEN: usize = 4;
const CAGED: usize = 5;

const MARKER: &[u8] = b"this is a letter from a pod";
/// An unused hardware address.
const NOBODY: Mac = [2, 0, 0, 0, 0, 0x99];
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];

struct Stage {
    net: Net,
    wires: BTreeMap<usize, Wire>,
    router: Mac,
}

struct Attack {
    name: String,
    by: usize,
    frame: Vec<u8>,
    /// The receiver.
    got_by: usize,
}

fn plan() -> Hand {
    let plan = Hand::default().isolated(7, 70).isolated(8, 80);
    [(ATTACKER, 0, 0), (VICTIM, 7, 0), (OPEN, 0, 0), (CAGED, 0, 8)].into_iter().fold(
        plan,
        |plan, (number, ingress, egress)| {
            plan.endpoint(&address(number), ingress, egress).endpoint(&address_v6(number), ingress, egress)
        },
    )
}

impl Stage {
    fn new() -> Option<(Self, Datapath)> {
        if !crate::kit::can_run() {
            return None;
        }
        let net = Net::new(Joint::Bridge, 4);
        let mut datapath = net.open();
        datapath.sync(&plan().plan).unwrap();
        let wires = (2..).zip(&net.pods).map(|(number, pod)| (number, Wire::new(pod, "eth0"))).collect();
        let router = net.gateway(ATTACKER);
        Some((Self { net, wires, router }, datapath))
    }

    fn mac(&self, number: usize) -> Mac {
        self.wires[&number].mac
    }

    /// The link-local address of a pod.
    fn link_local(&self, number: usize) -> String {
        let mac = self.mac(number);
        let word = |one: u8, other: u8| u16::from_be_bytes([one, other]);
        let low = [word(mac[0] ^ 2, mac[1]), word(mac[2], 0xff), word(0xfe, mac[3]), word(mac[4], mac[5])];
        std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, low[0], low[1], low[2], low[3]).to_string()
    }

    /// Frames that netfilter does not see, or sees without the tags, to neighbours and to the router.
    fn tags(&self) -> Vec<Attack> {
        let mut attacks = Vec::new();
        let tags: [(&str, &[(u16, u16)]); 5] = [
            ("VLAN 0", &[(0x8100, 0)]),
            ("VLAN 0, priority 7", &[(0x8100, 0xe000)]),
            ("88a8", &[(0x88a8, 0)]),
            ("two tags", &[(0x8100, 0), (0x8100, 0)]),
            ("VLAN 5", &[(0x8100, 5)]),
        ];
        for (what, tags) in tags {
            for (by, to) in [(ATTACKER, VICTIM), (CAGED, OPEN)] {
                for packet in [letter(&address(by), &address(to)), letter(&address_v6(by), &address_v6(to))] {
                    let frame = tagged(self.mac(to), self.mac(by), tags, kind_of(&packet), &packet);
                    attacks.push(Attack { name: format!("{what}, from {by}"), by, frame, got_by: to });
                }
            }
        }
        // Through the router, as a stranger that the router has to let in.
        let packet = letter(WORLD, &address(OPEN));
        let routed = tagged(self.router, self.mac(CAGED), &[(0x8100, 0)], 0x0800, &packet);
        attacks.push(Attack { name: "VLAN 0 by the router".into(), by: CAGED, frame: routed, got_by: OPEN });
        for kind in [0x8864, 0x88b5, 0x0026, 0x8847] {
            let frame = frame(self.mac(VICTIM), self.mac(ATTACKER), kind, MARKER);
            attacks.push(Attack { name: format!("ethertype {kind:04x}"), by: ATTACKER, frame, got_by: VICTIM });
        }
        attacks
    }

    /// Packets that reach a pod they are not for.
    fn ends(&self) -> Vec<Attack> {
        let mut attacks = Vec::new();
        let mut attack = |name: &str, by: usize, to: Mac, packet: &[u8], got_by: usize| {
            let frame = frame(to, self.mac(by), kind_of(packet), packet);
            attacks.push(Attack { name: name.into(), by, frame, got_by });
        };
        for of in [address, address_v6] {
            let own = letter(&of(CAGED), &of(CAGED));
            attack("its own address, another's frame", CAGED, self.mac(OPEN), &own, OPEN);
            attack("its own address, to all", CAGED, BROADCAST, &own, OPEN);
            let allowed = letter(&of(ATTACKER), &of(OPEN));
            attack("an address it may call, another's frame", ATTACKER, self.mac(VICTIM), &allowed, VICTIM);
            attack("nobody's frame", OPEN, NOBODY, &letter(&of(OPEN), &of(CAGED)), ATTACKER);
        }
        attacks
    }

    /// Attacks that claim addresses of others.
    fn claims(&self) -> Vec<Attack> {
        let (attacker, open) = (self.mac(ATTACKER), self.mac(OPEN));
        let victim = (self.mac(VICTIM), address(VICTIM));
        let mut attacks = Vec::new();
        let mut attack = |name: &str, to: Mac, from: Mac, kind: u16, body: &[u8]| {
            let frame = frame(to, from, kind, body);
            attacks.push(Attack { name: name.into(), by: ATTACKER, frame, got_by: VICTIM });
        };
        let target = (victim.0, victim.1.as_str());
        for (name, body) in [
            ("ARP with another's address", arp(2, (attacker, &address(OPEN)), target)),
            ("ARP with the router's", arp(1, (attacker, "10.1.0.1"), target)),
            ("ARP with another's hardware address", arp(2, (open, &address(ATTACKER)), target)),
            ("ARP that answers without an address", arp(2, (attacker, "0.0.0.0"), target)),
        ] {
            attack(name, victim.0, attacker, 0x0806, &body);
        }
        let long = [arp(1, (attacker, &address(ATTACKER)), target), vec![7; 40]].concat();
        attack("ARP with a letter", victim.0, attacker, 0x0806, &long);
        let (own, own_local) = (address_v6(ATTACKER), self.link_local(ATTACKER));
        let option = |kind: u8, mac: Mac| [&[kind, 1][..], &mac].concat();
        let about =
            |target: &str| [&[0xa0, 0, 0, 0][..], &target.parse::<std::net::Ipv6Addr>().unwrap().octets()].concat();
        let nobody = "fd00:1::77";
        for (name, source, kind, body) in [
            ("router advertisement", &own_local, 134, vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("redirect", &own_local, 137, [about(nobody), about(&own)[4..].to_vec()].concat()),
            ("advertisement of another's address", &own, 136, [about(&address_v6(OPEN)), option(2, attacker)].concat()),
            ("advertisement with another's hardware address", &own, 136, [about(&own), option(2, open)].concat()),
            ("solicitation with another's hardware address", &own, 135, [about(nobody), option(1, open)].concat()),
            ("a question for routers with it", &own_local, 133, [vec![0; 4], option(1, open)].concat()),
            (
                "advertisement under another's address",
                &address_v6(OPEN),
                136,
                [about(&own), option(2, attacker)].concat(),
            ),
            ("solicitation with a letter", &own, 135, [about(nobody), vec![9; 64]].concat()),
            ("advertisement under another's link-local address", &self.link_local(OPEN), 136, about(&own)),
            ("another's address detected", &"::".to_owned(), 135, about(&address_v6(OPEN))),
        ] {
            let packet = Ip { hops: 255, ..Ip::new(source, "ff02::1", 58) };
            let message = packet.icmpv6(kind, &body);
            attack(name, ALL_NODES, attacker, 0x86dd, &packet.around(&message));
            // Behind an empty extension header, or in a fragment that is the whole packet.
            let fragment = Ip { fragment: Some((0, false, 5)), ..packet.clone() };
            attack(&format!("{name}, as a fragment"), ALL_NODES, attacker, 0x86dd, &fragment.around(&message));
            let hidden = Ip { options: vec![58, 0, 1, 4, 0, 0, 0, 0], first: 60, ..packet };
            attack(&format!("{name}, hidden"), ALL_NODES, attacker, 0x86dd, &hidden.around(&message));
        }
        // From this frame the bridge would learn wrong positions.
        attack("another's hardware address", victim.0, open, 0x0806, &arp(1, (open, &address(OPEN)), target));
        attacks
    }

    /// True if the frame of an attack arrives; waits longer for one that is expected.
    fn arrives(&self, attack: &Attack, expected: bool) -> bool {
        self.wires[&attack.got_by].forget();
        self.wires[&attack.by].send(&attack.frame);
        let wire = &self.wires[&attack.got_by];
        // Tags are removed on the way. The bytes behind addresses and ethertype stay.
        let body = &attack.frame[attack.frame.len() - 16..];
        if expected { wire.hears_soon(body) } else { wire.hears(body) }
    }
}

fn letter(from: &str, to: &str) -> Vec<u8> {
    let packet = Ip::new(from, to, 17);
    packet.around(&packet.udp(4000, 4001, MARKER))
}

/// Attacks that succeed first, which proves that they are attacks, and then have to fail. `told`: the same if netfilter
/// knows the pod of each port.
fn closed_by_a_guard(told: bool, attacks: impl Fn(&Stage) -> Vec<Attack>) {
    let Some((stage, mut datapath)) = Stage::new() else { return };
    if told {
        stage.net.tell_interfaces(&mut datapath);
    }
    let attacks = attacks(&stage);
    for attack in &attacks {
        assert!(stage.arrives(attack, true), "no attack: {}", attack.name);
    }
    stage.net.guard(&mut datapath);
    for attack in &attacks {
        assert!(!stage.arrives(attack, false), "{}", attack.name);
    }
    neighbours_talk(&stage);
    stage.net.detach(datapath);
}

/// Permitted traffic works: connections of both families, neighbour solicitations, probes and announcements.
fn neighbours_talk(stage: &Stage) {
    let (attacker, open) = (&stage.net.pods[0], &stage.net.pods[2]);
    for space in [attacker, open, &stage.net.node] {
        space.run("ip neigh flush all");
    }
    for to in [address(OPEN), address_v6(OPEN)] {
        let _server = Echo::new(open, &to, 80);
        assert!(reaches(attacker, &to, 80) && reaches(&stage.net.node, &to, 80), "{to}");
    }
    let mac = stage.mac(ATTACKER);
    let nothing = ([0; 6], "10.1.0.77");
    let own = address(ATTACKER);
    for body in [arp(1, (mac, "0.0.0.0"), nothing), arp(1, (mac, &own), ([0; 6], &own)), arp(2, (mac, &own), nothing)] {
        stage.wires[&ATTACKER].send(&frame(BROADCAST, mac, 0x0806, &body));
        assert!(stage.wires[&OPEN].hears_soon(&body), "a probe, an announcement, an answer");
    }
    for (source, target) in [(address_v6(ATTACKER), address_v6(ATTACKER)), ("::".into(), stage.link_local(ATTACKER))] {
        let packet = Ip { hops: 255, ..Ip::new(&source, "ff02::1", 58) };
        let target = target.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let option: &[u8] = if source == "::" { &[] } else { &[&[2, 1][..], &mac].concat() };
        let kind = if source == "::" { 135 } else { 136 };
        let message = packet.icmpv6(kind, &[&[0x20, 0, 0, 0][..], &target, option].concat());
        stage.wires[&ATTACKER].send(&frame(ALL_NODES, mac, 0x86dd, &packet.around(&message)));
        assert!(stage.wires[&OPEN].hears_soon(&message), "its own address, from {source}");
    }
}

#[test]
fn only_untagged_ip_and_arp_come_from_a_pod_on_a_bridge() {
    closed_by_a_guard(true, Stage::tags);
}

#[test]
fn a_packet_for_a_pod_leaves_by_its_port_only() {
    closed_by_a_guard(false, Stage::ends);
}

#[test]
fn nobody_claims_a_neighbours_address() {
    closed_by_a_guard(true, Stage::claims);
}

#[test]
fn what_a_bridge_floods_reaches_whom_it_is_for() {
    let Some((stage, mut datapath)) = Stage::new() else { return };
    stage.net.guard(&mut datapath);
    // The bridge has forgotten all ports.
    for number in [ATTACKER, VICTIM, OPEN, CAGED] {
        stage.net.node.run(&format!("ip link set pod{number} type bridge_slave learning off"));
    }
    stage.net.node.run("ip link set br0 type bridge fdb_flush");
    let packet = letter(&address(ATTACKER), &address(OPEN));
    stage.wires[&ATTACKER].send(&frame(stage.mac(OPEN), stage.mac(ATTACKER), 0x0800, &packet));
    assert!(stage.wires[&OPEN].hears_soon(MARKER));
    assert!(!stage.wires[&CAGED].hears(MARKER) && !stage.wires[&VICTIM].hears(MARKER));
    assert!(datapath.drop_counters().unwrap().misdirected > 0);
    stage.net.detach(datapath);
}

#[test]
fn a_port_of_a_pod_we_know_nothing_of_is_closed() {
    let Some((stage, mut datapath)) = Stage::new() else { return };
    let mut ports = stage.net.links();
    let unknown = stage.net.node.index(&format!("pod{ATTACKER}"));
    let bridge = ports[&unknown].bridge;
    ports.insert(unknown, PodLink { bridge, mac: None, pod: false, idle: false });
    datapath.sync(&plan().endpoint("10.1.0.66", 0, 0).plan).unwrap();
    datapath.set_interfaces([]).unwrap();
    assert!(stage.net.guard_pod_links(&mut datapath, &ports).failed.is_empty());
    for (by, to) in [(ATTACKER, OPEN), (OPEN, ATTACKER)] {
        let packet = letter(WORLD, &address(to));
        stage.wires[&by].send(&frame(stage.mac(to), stage.mac(by), 0x0800, &packet));
        assert!(!stage.wires[&to].hears(MARKER), "from {by}");
    }
    assert!(datapath.drop_counters().unwrap().not_ready > 0);
    // At last the pod is known.
    stage.net.guard(&mut datapath);
    neighbours_talk(&stage);
    stage.net.detach(datapath);
}
