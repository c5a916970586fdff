//! Handovers: an address passes to another pod without the connections of its predecessor, and pods pass to an agent of
//! another version without losing a packet.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringfence_datapath::{Config, Connections, delete_conntrack_entries_of};
use ringfence_engine::Plan;
use ringfence_model::Protocol;

use crate::kit::eventually;
use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6};
use crate::kit::plan::Hand;
use crate::kit::space::small;
use crate::kit::talk::{Datagrams, Echo, Flood, Sink, reaches};
use crate::kit::wire::{Ip, Wire, frame, kind_of};

/// A plan under which the pod may connect to any address, or to none.
fn plan(own: &str, free: bool) -> Plan {
    let hand = Hand::default();
    if free { hand.endpoint(own, 0, 0).plan } else { hand.endpoint(own, 0, 8).isolated(8, 80).plan }
}

#[test]
fn nothing_is_open_any_more_under_an_address_that_was_forgotten() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 2);
    let mut datapath = net.open_with(Config { connections: Connections::Drain, ..net.pins.config() });
    for (own, other, world) in [(address(2), address(3), WORLD), (address_v6(2), address_v6(3), WORLD_V6)] {
        datapath.sync(&plan(&own, true)).unwrap();
        let sink = Sink::new(&net.world, world, 514);
        let log = Datagrams::new(&net.pods[0], &own, world, 514);
        eventually("the addresses can be used", || {
            log.are_dead_at_once();
            sink.receives()
        });
        // Packets that waited for neighbour resolution arrive late.
        while sink.receives() {}
        datapath.sync(&plan(&own, false)).unwrap();
        log.are_dead_at_once();
        assert!(sink.receives(), "what was open before drains");
        let forget = |address: &str| {
            let addresses = [address.parse().unwrap()].into();
            net.node.enter(|| delete_conntrack_entries_of(&addresses)).unwrap()
        };
        assert_eq!(forget(&other), 0, "nobody else's");
        log.are_dead_at_once();
        assert!(sink.receives());
        assert!(forget(&own) > 0);
        log.are_dead_at_once();
        assert!(!sink.receives(), "another pod has the address");
    }
    net.detach(datapath);
}

const ATTACKER: usize = 2;
const VICTIM: usize = 3;
/// The victim accepts this port from the world only; the next one from the attacker only.
const OF_THE_WORLD: u16 = 80;
const OF_THE_ATTACKER: u16 = 81;

/// Of both families.
fn upgraded() -> Plan {
    let of = |[attacker, victim, world]: [&str; 3], hand: Hand, ruleset: u64| {
        let (rule_id, friend, other) = (ruleset * 10, ruleset + 1, ruleset + 2);
        let hand = hand.endpoint(attacker, 0, 0).endpoint(victim, ruleset, 0).isolated(ruleset, rule_id);
        let hand = hand.peer(world, friend).peer(attacker, other);
        let hand = hand.allow(ruleset, friend, &[(Protocol::UDP, OF_THE_WORLD)], rule_id + 1, rule_id);
        hand.allow(ruleset, other, &[(Protocol::UDP, OF_THE_ATTACKER)], rule_id + 2, rule_id)
    };
    let hand = of([&address(ATTACKER), &address(VICTIM), WORLD], Hand::default(), 100);
    of([&address_v6(ATTACKER), &address_v6(VICTIM), WORLD_V6], hand, 200).plan
}

/// Sends packets with the address of the world for as long as it lives.
fn forge(net: &Net, to: &str, from: &str, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let wire = Wire::new(&net.pods[0], "eth0");
    let packet = Ip::new(from, to, 17);
    let packet = packet.around(&packet.udp(4000, OF_THE_WORLD, b"from the world"));
    let next = if net.is_bridged() { Wire::new(&net.pods[1], "eth0").mac } else { net.gateway(ATTACKER) };
    let frame = frame(next, wire.mac, kind_of(&packet), &packet);
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            wire.send(&frame);
            thread::sleep(Duration::from_micros(500));
        }
    })
}

#[test]
fn pods_from_before_an_upgrade_are_taken_in_without_a_gap() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let net = Net::new(joint, 2);
        // Packets that wait for neighbour resolution may be lost.
        for (space, to) in
            [(&net.pods[1], [address(VICTIM), address_v6(VICTIM)]), (&net.world, [WORLD, WORLD_V6].map(str::to_owned))]
        {
            for to in to {
                let _server = Echo::new(space, &to, 80);
                eventually("the addresses can be used", || reaches(&net.pods[0], &to, 80));
            }
        }
        let mut datapath = net.open();
        datapath.sync(&upgraded()).unwrap();
        net.tell_interfaces(&mut datapath);
        drop(datapath);
        // From here on packets are always on their way.
        let [attacker, victim] = [&net.pods[0], &net.pods[1]];
        let mut allowed = Vec::new();
        let mut denied = Vec::new();
        for (victims, world, attackers) in
            [(address(VICTIM), WORLD, address(ATTACKER)), (address_v6(VICTIM), WORLD_V6, address_v6(ATTACKER))]
        {
            // Ports of its own, because each end of a flood is a socket.
            allowed.push(Flood::new(attacker, victim, &victims, OF_THE_ATTACKER));
            allowed.push(Flood::new(attacker, &net.world, world, OF_THE_WORLD));
            allowed.push(Flood::new(&net.world, attacker, &attackers, OF_THE_WORLD));
            denied.push(Flood::new(&net.world, victim, &victims, 82));
        }
        let sockets = [address(VICTIM), address_v6(VICTIM)].map(|own| {
            let socket = victim.enter(|| UdpSocket::bind((&*own, OF_THE_WORLD))).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        let stop = Arc::new(AtomicBool::new(false));
        let mut forging = Vec::new();
        // First one agent with link guards, of another layout; then two agents that take over from such an agent.
        for times in [2, 1, 3] {
            let mut sizes = small();
            sizes.ipcache *= times;
            let mut datapath = net.open_with(Config { sizes, ..net.pins.config() });
            datapath.sync(&upgraded()).unwrap();
            net.guard(&mut datapath);
            if forging.is_empty() {
                forging.push(forge(&net, &address(VICTIM), WORLD, &stop));
                forging.push(forge(&net, &address_v6(VICTIM), WORLD_V6, &stop));
            }
            drop(datapath);
            thread::sleep(Duration::from_millis(200));
        }
        stop.store(true, Ordering::Relaxed);
        for thread in forging {
            thread.join().unwrap();
        }
        for socket in sockets {
            assert!(socket.recv(&mut [0; 64]).is_err(), "{joint:?}: what an attacker forged arrived");
        }
        let allowed: Vec<_> = allowed.into_iter().map(Flood::end).collect();
        assert!(allowed.iter().all(|(sent, received)| *sent > 100 && sent == received), "{joint:?}: {allowed:?}");
        for flood in denied {
            let (sent, received) = flood.end();
            assert!(sent > 100 && received == 0, "{joint:?}: {received} of {sent} denied ones arrived");
        }
        let datapath = net.open();
        net.detach(datapath);
    }
}
