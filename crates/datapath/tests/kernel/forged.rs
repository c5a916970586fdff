//! Forged packets cannot affect connections of others, and the node's own encapsulation does not count as forged.

use ringfence_datapath::Datapath;

use crate::kit::eventually;
use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6};
use crate::kit::plan::Hand;
use crate::kit::talk::{Connection, Echo, Flood};
use crate::kit::wire::{Ip, Wire, frame, kind_of};
use ringfence_model::Protocol;

const ATTACKER: usize = 2;
const FRIEND: usize = 3;
const VICTIM: usize = 4;
const MARKER: &[u8] = b"from somebody else";

/// Three pods; the last one lets only the second in.
fn stage(joint: Joint) -> (Net, Datapath) {
    let net = Net::new(joint, 3);
    let mut datapath = net.open();
    let mut plan = Hand::default().isolated(7, 70);
    for of in [address, address_v6] {
        plan = plan.endpoint(&of(ATTACKER), 0, 0).endpoint(&of(FRIEND), 0, 0).endpoint(&of(VICTIM), 7, 0);
        plan = plan.peer(&of(FRIEND), 103).peer(&of(ATTACKER), 102);
    }
    let ports = [(Protocol::TCP, 80), (Protocol::UDP, 80)];
    datapath.sync(&plan.allow(7, 103, &ports, 71, 70).plan).unwrap();
    net.tell_interfaces(&mut datapath);
    (net, datapath)
}

#[test]
fn a_false_fragment_joins_no_datagram() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let (net, mut datapath) = stage(joint);
        let wire = |number: usize| Wire::new(&net.pods[number - 2], "eth0");
        let (attacker, friend, victim) = (wire(ATTACKER), wire(FRIEND), wire(VICTIM));
        let mut identification = 100;
        let mut is_joined = |of: fn(usize) -> String, false_first: bool, expected: bool| {
            identification += 1;
            victim.forget();
            let whole = Ip::new(&of(FRIEND), &of(VICTIM), 17);
            let bytes = whole.udp(4000, 80, &[&[1; 24], MARKER].concat());
            let part = |from: usize, to: usize, more: bool| {
                let offset = u16::try_from(from).unwrap();
                Ip { fragment: Some((offset, more, identification)), ..whole.clone() }.around(&bytes[from..to])
            };
            let send = |wire: &Wire, number: usize, packet: &[u8]| {
                let to = if joint == Joint::Bridge { victim.mac } else { net.gateway(number) };
                wire.send(&frame(to, wire.mac, kind_of(packet), packet));
            };
            let forged = part(32, bytes.len(), false);
            if false_first {
                send(&attacker, ATTACKER, &forged);
            }
            send(&friend, FRIEND, &part(0, 32, true));
            if !false_first {
                send(&attacker, ATTACKER, &forged);
            }
            if expected { victim.hears_soon(MARKER) } else { victim.hears(MARKER) }
        };
        let families: [fn(usize) -> String; 2] = [address, address_v6];
        // On a link of its own, a forged first fragment gives the whole packet its interface, and netfilter drops that.
        for of in families {
            assert!(is_joined(of, false, true), "{joint:?}: no attack without a guard");
        }
        net.guard(&mut datapath);
        for of in families {
            assert!(!is_joined(of, false, false) && !is_joined(of, true, false), "{joint:?}");
        }
        net.detach(datapath);
    }
}

#[test]
fn a_forged_reset_leaves_connection_tracking_alone() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let (net, mut datapath) = stage(joint);
        // With this setting any sequence number is accepted.
        net.node.run("echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal");
        let _server = Echo::new(&net.pods[2], &address(VICTIM), 80);
        let attacker = Wire::new(&net.pods[0], "eth0");
        let router = net.gateway(ATTACKER);
        // Seconds until the connection is forgotten: days, or minutes where connection tracking saw a reset.
        let left = |port: u16| {
            let all = net.node.run("cat /proc/net/nf_conntrack");
            let entry = all.lines().find(|line| line.contains(&format!("sport={port}")));
            entry.and_then(|entry| entry.split_whitespace().nth(4)?.parse::<u64>().ok()).unwrap_or(0)
        };
        // One reset in each quarter of the sequence numbers, so that some come after the acknowledged ones.
        let reset = |port: u16| {
            for quarter in 0..4 {
                let packet = Ip::new(&address(FRIEND), &address(VICTIM), 6);
                let segment = packet.tcp((port, 80), quarter << 30, 4);
                attacker.send(&frame(router, attacker.mac, 0x0800, &packet.around(&segment)));
            }
        };
        let first = Connection::new(&net.pods[1], &address(VICTIM), 80);
        assert!(left(first.port()) > 10_000);
        reset(first.port());
        eventually("connection tracking believes it without a guard", || left(first.port()) < 1000);
        net.guard(&mut datapath);
        let mut second = Connection::new(&net.pods[1], &address(VICTIM), 80);
        let spoofed = datapath.drop_counters().unwrap().spoofed;
        reset(second.port());
        eventually("it is dropped", || datapath.drop_counters().unwrap().spoofed == spoofed + 4);
        assert!(left(second.port()) > 10_000);
        assert!(second.lives());
        net.detach(datapath);
    }
}

#[test]
fn what_the_node_encapsulates_in_place_is_judged_as_its_pods() {
    if !crate::kit::can_run() {
        return;
    }
    let (net, mut datapath) = stage(Joint::Routes);
    let encapsulate = "ip sr tunsrc set fd00:50::1 && \
                       ip -6 route add fd00:77::/64 encap seg6 mode encap segs fd00:50::2 dev up0";
    if !net.node.try_run(encapsulate).status.success() {
        assert!(std::env::var_os("CI").is_none(), "in CI this has to run");
        println!("skipped: no segment routing here");
        return net.detach(datapath);
    }
    let (pod, world) = (Wire::new(&net.pods[0], "eth0"), Wire::new(&net.world, "eth0"));
    let send = || {
        let packet = Ip::new(&address_v6(ATTACKER), "fd00:77::1", 17);
        pod.send(&frame(net.gateway(ATTACKER), pod.mac, 0x86dd, &packet.around(&packet.udp(4000, 4001, MARKER))));
    };
    let spoofed = datapath.drop_counters().unwrap().spoofed;
    send();
    assert!(!world.hears(MARKER), "without a guard nobody knows who forged it");
    assert!(datapath.drop_counters().unwrap().spoofed > spoofed);
    net.guard(&mut datapath);
    // Both sides need a route to the addresses beyond.
    datapath.set_infra_addresses(["fd00:50::1", "fd00:50::2"].map(|node| node.parse().unwrap()), []).unwrap();
    datapath.set_tunnels(&[(41, 0)].into()).unwrap();
    send();
    assert!(world.hears_soon(MARKER));
    world.forget();
    // The pod still sends, so its policy decides.
    let mut plan = Hand::default().isolated(8, 80);
    plan = plan.endpoint(&address(ATTACKER), 0, 8).endpoint(&address_v6(ATTACKER), 0, 8);
    datapath.sync(&plan.plan).unwrap();
    let policy = datapath.drop_counters().unwrap().policy;
    send();
    assert!(!world.hears(MARKER));
    assert_eq!(datapath.drop_counters().unwrap().policy, policy + 1);
    net.detach(datapath);
}

#[test]
fn pods_that_talk_are_taken_in_without_a_gap() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let (net, mut datapath) = stage(joint);
        let floods = [
            Flood::new(&net.pods[1], &net.pods[2], &address(VICTIM), 80),
            Flood::new(&net.pods[2], &net.pods[1], &address(FRIEND), 80),
            Flood::new(&net.pods[1], &net.world, WORLD, 80),
        ];
        let _both = [Echo::new(&net.world, WORLD_V6, 80)];
        net.guard(&mut datapath);
        // An agent of another version with other maps: its programs replace those that are attached.
        drop(datapath);
        let mut config = net.pins.config();
        config.sizes.ipcache *= 2;
        let mut datapath = net.open_with(config);
        let mut plan = Hand::default().isolated(7, 70);
        for of in [address, address_v6] {
            plan = plan.endpoint(&of(ATTACKER), 0, 0).endpoint(&of(FRIEND), 0, 0).endpoint(&of(VICTIM), 7, 0);
            plan = plan.peer(&of(FRIEND), 103).peer(&of(ATTACKER), 102);
        }
        datapath.sync(&plan.allow(7, 103, &[(Protocol::UDP, 80)], 71, 70).plan).unwrap();
        net.guard(&mut datapath);
        for flood in floods {
            let (sent, received) = flood.end();
            assert!(sent > 20 && sent == received, "{joint:?}: {received} of {sent} arrived");
        }
        net.detach(datapath);
    }
}
