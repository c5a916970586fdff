//! The flow table is a cache: its entries agree with the policy check, and lost ones are checked again.

use libbpf_rs::MapCore as _;
use ringfence_datapath::{Conntrack, DropReason, PacketContext, PolicyResult};
use ringfence_engine::RuleId;
use ringfence_model::Protocol;

use crate::kit::fixture::{Fixture, NEW, clear, spoil};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;

const OPENING: PacketContext = PacketContext { flows: true, notify: true, ..NEW };
const OPEN: PacketContext = PacketContext { conntrack: Conntrack::Established, ..OPENING };
const REPLY: PacketContext = PacketContext { conntrack: Conntrack::Reply, ..OPENING };

fn web(port: u16) -> Packet {
    Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, port)
}

#[test]
fn each_direction_is_remembered_by_itself_and_by_where_it_came_from() {
    let Some(fixture) = Fixture::new(&Hand::web()) else { return };
    let hit = |packet: &Packet, given: &PacketContext| {
        let verdict = fixture.run(packet, given);
        assert!(verdict.accepted, "{verdict:?}");
        verdict.hit
    };
    assert!(!hit(&web(80), &OPENING));
    assert!(hit(&web(80), &OPENING) && hit(&web(80), &OPEN));
    assert!(!hit(&web(80).reply(), &REPLY), "an answer is judged for itself");
    assert!(hit(&web(80).reply(), &REPLY) && hit(&web(80), &OPEN));
    assert!(!hit(&Packet { source_port: 40_001, ..web(80) }, &OPEN), "another connection");
    assert!(!hit(&web(80), &PacketContext { interface: Some(1001), ..OPEN }), "from elsewhere");
    assert!(!hit(&web(80), &PacketContext { out_interface: Some(1002), ..OPEN }), "to elsewhere");
    assert!(hit(&web(80).reply(), &REPLY));
    let flows = fixture.datapath.flows().unwrap();
    let flow = flows.iter().find(|flow| flow.source_port == 40_000).unwrap();
    assert_eq!((flows.len(), flow.remembered), (2, [true; 2]));
    fixture.close();
}

#[test]
fn a_change_of_policy_is_asked_for_in_both_directions() {
    let Some(mut fixture) = Fixture::new(&Hand::web()) else { return };
    for (packet, given) in [(web(80).reply(), REPLY), (web(80), OPEN)] {
        for _ in 0..2 {
            assert!(fixture.run(&web(80), &OPENING).accepted && fixture.run(&web(80).reply(), &REPLY).accepted);
        }
        fixture.datapath.sync(&Hand::web().allow(7, 9, &[(Protocol::TCP, 81)], 91, 70).plan).unwrap();
        let dropped = fixture.run(&packet, &given).dropped;
        assert!(matches!(dropped, Some(DropReason::Policy { rule_id: RuleId(70), .. })), "{dropped:?}");
        assert!(fixture.datapath.flows().unwrap().is_empty(), "what was cut is no flow");
        fixture.datapath.sync(&Hand::web().plan).unwrap();
        let verdict = fixture.run(&packet, &given);
        assert!(verdict.accepted && !verdict.hit, "{verdict:?}");
    }
    fixture.close();
}

#[test]
fn what_the_node_may_do_is_not_remembered_for_others() {
    let Some(fixture) = Fixture::new(&Hand::web()) else { return };
    let here = PacketContext { interface: None, ..OPENING };
    assert_eq!(fixture.run(&web(81), &here).ingress, PolicyResult::LocalNode);
    assert!(fixture.run(&web(81), &here).hit);
    assert!(!fixture.run(&web(81), &OPENING).accepted, "the same from elsewhere");
    assert!(fixture.run(&web(81).reply(), &PacketContext { local_in: true, ..REPLY }).accepted);
    assert!(!fixture.run(&web(81).reply(), &REPLY).accepted, "the same to elsewhere");
    // Packets through the loopback device come from this node too; forwarded packets never use it.
    let looped = PacketContext { interface: Some(1), local_in: true, ..NEW };
    assert_eq!(fixture.run(&web(81), &looped).ingress, PolicyResult::LocalNode);
    assert!(!fixture.run(&web(81), &PacketContext { local_in: false, ..looped }).accepted);
    // A pod's own address through a Service is another connection than the same address without one.
    let itself = Packet::new("10.0.0.2", "10.0.0.2", Protocol::TCP, 81);
    for _ in 0..2 {
        assert!(fixture.run(&itself, &OPENING).accepted);
        assert!(!fixture.run(&itself, &PacketContext { translated: true, ..OPENING }).accepted);
    }
    fixture.close();
}

#[test]
fn a_lost_flow_is_no_lost_connection_and_no_new_one() {
    let Some(fixture) = Fixture::new(&Hand::web()) else { return };
    assert!(fixture.run(&web(80), &OPENING).accepted);
    for given in [PacketContext { conntrack: Conntrack::Unanswered, ..OPENING }, OPEN, REPLY] {
        clear(&fixture.map("flows"));
        let packet = if given == REPLY { web(80).reply() } else { web(80) };
        let verdict = fixture.run(&packet, &given);
        assert!(verdict.accepted && !verdict.hit, "{given:?}");
    }
    let counter = fixture.datapath.rule_counters().unwrap()[&RuleId(90)];
    assert_eq!((counter.accepted, counter.dropped), (1, 0));
    fixture.close();
}

/// The kernel reuses the memory of elements, so a lookup may find the value of another key.
#[test]
fn a_value_that_is_not_its_keys_is_not_believed() {
    let plan = Hand::web().peer("10.0.1.5", 9).endpoint("10.0.0.3", 0, 0);
    let Some(mut fixture) = Fixture::new(&plan) else { return };
    let interface = ringfence_datapath::Interface { index: 10, bridge: None };
    fixture.datapath.set_interfaces([("10.0.0.3".parse().unwrap(), interface)]).unwrap();
    let anonymous = Packet::new("fe80::3", "fd00::9", Protocol::TCP, 80);
    let by_interface = PacketContext { interface: Some(10), ..NEW };
    // Neither is a value believed that consists of parts of two values of one key.
    let (checksum, within, last) = (0, 8, |size: usize| size - 1);
    for (name, size) in [("endpoints", 32), ("ipcache", 32), ("policy", 16), ("interfaces", 24)] {
        let (packet, given) = if name == "interfaces" { (&anonymous, by_interface) } else { (&web(80), NEW) };
        for byte in [checksum, within, last(size)] {
            assert!(fixture.run(packet, &given).accepted, "{name}");
            spoil(&fixture.map(name), byte);
            assert_eq!(fixture.run(packet, &given).dropped, Some(DropReason::Incomplete), "{name}, byte {byte}");
            spoil(&fixture.map(name), byte);
        }
    }
    assert!(fixture.run(&web(80), &OPENING).accepted && fixture.run(&web(80), &OPENING).hit);
    for byte in [checksum, within, last(40)] {
        spoil(&fixture.map("flows"), byte);
        let verdict = fixture.run(&web(80), &OPENING);
        assert!(verdict.accepted && !verdict.hit, "byte {byte}");
        assert!(fixture.run(&web(80), &OPENING).hit, "it was written anew");
    }
    fixture.close();
}

#[test]
fn what_makes_no_sense_is_written_anew_or_goes() {
    let plan = Hand::web().peer("10.0.1.5", 9);
    let Some(mut fixture) = Fixture::new(&plan) else { return };
    let size = |fixture: &Fixture, name| fixture.map(name).keys().count();
    for wanted in [&plan, &Hand::default()] {
        for name in ["endpoints", "ipcache", "policy"] {
            fixture.datapath.sync(&plan.plan).unwrap();
            let elements = size(&fixture, name);
            spoil(&fixture.map(name), 0);
            assert_eq!(fixture.run(&web(80), &NEW).dropped, Some(DropReason::Incomplete), "{name}");
            fixture.datapath.sync(&wanted.plan).unwrap();
            assert!(fixture.run(&web(80), &NEW).accepted, "{name}");
            let expected = if wanted.plan.endpoints.is_empty() { 0 } else { elements };
            assert_eq!(size(&fixture, name), expected, "{name}");
            let told = fixture.datapath.map_usage().into_iter().find(|capacity| capacity.map == name).unwrap();
            assert_eq!(told.used, expected, "{name}");
        }
    }
    fixture.close();
}
