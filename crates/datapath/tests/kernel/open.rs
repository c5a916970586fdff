//! Connections that are open when a change of policy denies them: cut, or left to end by themselves.

use ringfence_datapath::{Connections, Conntrack, DropReason, PacketContext};
use ringfence_engine::RuleId;
use ringfence_model::Protocol;

use crate::kit::fixture::{Fixture, NEW};
use crate::kit::net::{Joint, Net, WORLD, address};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;
use crate::kit::talk::{Datagrams, Sink, unreachable};
use ringfence_datapath::Config;

const STATES: [(Conntrack, bool); 5] = [
    (Conntrack::None, false),
    (Conntrack::New, false),
    (Conntrack::Unanswered, true),
    (Conntrack::Established, true),
    (Conntrack::Reply, true),
];

#[test]
fn those_of_which_a_packet_was_let_through_are_cut_or_drain() {
    for connections in [Connections::Cut, Connections::Drain] {
        let Some(fixture) = Fixture::with(|config| config.connections = connections, &Hand::web()) else { return };
        for flows in [false, true] {
            for (state, open) in STATES {
                let packet = Packet::new("10.0.1.5", "10.0.0.2", Protocol::UDP, 81);
                let packet = if state == Conntrack::Reply { packet.reply() } else { packet };
                let before = fixture.datapath.drop_counters().unwrap();
                let given = PacketContext { conntrack: state, flows, notify: true, ..NEW };
                let verdict = fixture.run(&packet, &given);
                let passes = open && connections == Connections::Drain;
                assert_eq!(verdict.accepted, passes, "{connections:?} {state:?}: {verdict:?}");
                let drops = fixture.datapath.drop_counters().unwrap();
                assert_eq!(drops.policy - before.policy, u64::from(!passes), "{connections:?} {state:?}");
                assert_eq!(drops.cut - before.cut, u64::from(open && !passes), "{connections:?} {state:?}");
            }
        }
        fixture.close();
    }
}

/// Packets are dropped for other reasons than policy even while connections drain.
#[test]
fn draining_is_about_policy_only() {
    let plan = Hand::web().cidr("10.0.0.0/24");
    let Some(fixture) = Fixture::with(|config| config.connections = Connections::Drain, &plan) else { return };
    let open = PacketContext { conntrack: Conntrack::Established, ..NEW };
    let piece = Packet { fragment: Some(9), ..Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 80) };
    assert_eq!(fixture.run(&piece, &open).dropped, Some(DropReason::Unparseable));
    let gone = Packet::new("10.0.1.5", "10.0.0.7", Protocol::TCP, 80);
    assert_eq!(fixture.run(&gone, &open).dropped, Some(DropReason::EndpointNotReady));
    fixture.close();
}

/// Copies of one packet share a conntrack entry, so one allowed copy proves nothing about the others.
#[test]
fn what_is_for_many_is_never_open() {
    for connections in [Connections::Cut, Connections::Drain] {
        let plan = Hand::web().endpoint("fd00::2", 7, 0);
        let Some(mut fixture) = Fixture::with(|config| config.connections = connections, &plan) else { return };
        let interface = ringfence_datapath::Interface { index: 10, bridge: None };
        fixture.datapath.set_interfaces([("10.0.0.2".parse().unwrap(), interface)]).unwrap();
        let to_the_pod = PacketContext { out_interface: Some(10), notify: true, ..NEW };
        for (from, to) in [
            ("10.0.1.5", "10.0.0.255"),
            ("10.0.1.5", "255.255.255.255"),
            ("10.0.1.5", "239.1.1.1"),
            ("fd00:1::5", "ff02::1"),
            ("fd00:1::5", "ff3e::8000:1"),
        ] {
            for conntrack in [Conntrack::New, Conntrack::Unanswered, Conntrack::Established] {
                let packet = Packet::new(from, to, Protocol::UDP, 81);
                let verdict = fixture.run(&packet, &PacketContext { conntrack, ..to_the_pod });
                assert_eq!(
                    verdict.dropped,
                    Some(DropReason::Policy { rule_id: RuleId(70), cut: false }),
                    "{to} {conntrack:?}"
                );
            }
        }
        assert_eq!(fixture.datapath.drop_counters().unwrap().cut, 0, "nor is it cut");
        // Packets to a single receiver, identified by its interface or not, are allowed.
        let neighbour = Packet::new("fe80::5", "fe80::2", Protocol::UDP, 81);
        let verdict = fixture.run(&neighbour, &PacketContext { conntrack: Conntrack::Established, ..to_the_pod });
        assert_eq!(verdict.accepted, connections == Connections::Drain, "{verdict:?}");
        fixture.close();
    }
}

fn free() -> Hand {
    Hand::default().endpoint(&address(2), 0, 0)
}

/// The pod may connect to no address.
fn silenced() -> Hand {
    Hand::default().endpoint(&address(2), 0, 8).isolated(8, 80)
}

#[test]
fn one_way_datagrams_are_cut() {
    one_way_datagrams(Connections::Cut);
}

#[test]
fn or_drain_though_never_answered() {
    one_way_datagrams(Connections::Drain);
}

fn one_way_datagrams(connections: Connections) {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open_with(Config { connections, ..net.pins.config() });
    datapath.sync(&free().plan).unwrap();
    let sink = Sink::new(&net.world, WORLD, 514);
    let log = Datagrams::new(&net.pods[0], &address(2), WORLD, 514);
    log.are_dead_at_once();
    assert!(sink.receives());
    datapath.sync(&silenced().plan).unwrap();
    log.are_dead_at_once();
    assert_eq!(sink.receives(), connections == Connections::Drain);
    let another = Datagrams::new(&net.pods[0], &address(2), WORLD, 514);
    another.are_dead_at_once();
    assert!(!sink.receives(), "a new one");
    let drops = datapath.drop_counters().unwrap();
    assert_eq!(drops.cut, u64::from(connections == Connections::Cut));
    net.detach(datapath);
}

#[test]
fn no_error_about_a_connection_that_was_cut_comes_through() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open();
    datapath.sync(&free().plan).unwrap();
    let sink = Sink::new(&net.world, WORLD, 514);
    let log = Datagrams::new(&net.pods[0], &address(2), WORLD, 514);
    log.are_dead_at_once();
    assert!(sink.receives());
    let error = || unreachable(&net.world, WORLD, &log, (&address(2), WORLD, 514));
    error();
    assert!(log.are_refused(), "the error came");
    datapath.sync(&silenced().plan).unwrap();
    let before = datapath.drop_counters().unwrap();
    error();
    assert!(!log.are_refused());
    let drops = datapath.drop_counters().unwrap();
    assert_eq!((drops.policy - before.policy, drops.cut - before.cut), (1, 1));
    assert_eq!(datapath.rule_counters().unwrap()[&RuleId(80)].dropped, 1);
    net.detach(datapath);
}
