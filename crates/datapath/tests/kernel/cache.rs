//! The flow table is a cache: what it knows is what would be judged, and what it has lost is judged again.

use libbpf_rs::MapCore as _;
use ringfence_datapath::{Circumstances, Conntrack, Drop, Ground};
use ringfence_engine::CauseId;
use ringfence_model::Protocol;

use crate::kit::court::{Court, NEW, clear, spoil};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;

const OPENING: Circumstances = Circumstances { flows: true, tell: true, ..NEW };
const OPEN: Circumstances = Circumstances { conntrack: Conntrack::Established, ..OPENING };
const REPLY: Circumstances = Circumstances { conntrack: Conntrack::Reply, ..OPENING };

fn web(port: u16) -> Packet {
    Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, port)
}

#[test]
fn each_direction_is_remembered_by_itself_and_by_where_it_came_from() {
    let Some(court) = Court::new(&Hand::web()) else { return };
    let hit = |packet: &Packet, given: &Circumstances| {
        let said = court.ask(packet, given);
        assert!(said.accepted, "{said:?}");
        said.hit
    };
    assert!(!hit(&web(80), &OPENING));
    assert!(hit(&web(80), &OPENING) && hit(&web(80), &OPEN));
    assert!(!hit(&web(80).reply(), &REPLY), "an answer is judged for itself");
    assert!(hit(&web(80).reply(), &REPLY) && hit(&web(80), &OPEN));
    assert!(!hit(&Packet { source_port: 40_001, ..web(80) }, &OPEN), "another connection");
    assert!(!hit(&web(80), &Circumstances { interface: Some(1001), ..OPEN }), "from elsewhere");
    assert!(!hit(&web(80), &Circumstances { out_interface: Some(1002), ..OPEN }), "to elsewhere");
    assert!(hit(&web(80).reply(), &REPLY));
    let flows = court.datapath.flows().unwrap();
    let flow = flows.iter().find(|flow| flow.source_port == 40_000).unwrap();
    assert_eq!((flows.len(), flow.remembered), (2, [true; 2]));
    court.close();
}

#[test]
fn a_change_of_policy_is_asked_for_in_both_directions() {
    let Some(mut court) = Court::new(&Hand::web()) else { return };
    for (packet, given) in [(web(80).reply(), REPLY), (web(80), OPEN)] {
        for _ in 0..2 {
            assert!(court.ask(&web(80), &OPENING).accepted && court.ask(&web(80).reply(), &REPLY).accepted);
        }
        court.datapath.sync(&Hand::web().allow(7, 9, &[(Protocol::TCP, 81)], 91, 70).plan).unwrap();
        let dropped = court.ask(&packet, &given).dropped;
        assert!(matches!(dropped, Some(Drop::Policy { cause: CauseId(70), .. })), "{dropped:?}");
        assert!(court.datapath.flows().unwrap().is_empty(), "what was cut is no flow");
        court.datapath.sync(&Hand::web().plan).unwrap();
        let said = court.ask(&packet, &given);
        assert!(said.accepted && !said.hit, "{said:?}");
    }
    court.close();
}

#[test]
fn what_the_node_may_do_is_not_remembered_for_others() {
    let Some(court) = Court::new(&Hand::web()) else { return };
    let here = Circumstances { interface: None, ..OPENING };
    assert_eq!(court.ask(&web(81), &here).ingress, Ground::LocalNode);
    assert!(court.ask(&web(81), &here).hit);
    assert!(!court.ask(&web(81), &OPENING).accepted, "the same from elsewhere");
    assert!(court.ask(&web(81).reply(), &Circumstances { local_in: true, ..REPLY }).accepted);
    assert!(!court.ask(&web(81).reply(), &REPLY).accepted, "the same to elsewhere");
    // What comes back by the loopback device was made here too, what is forwarded never does.
    let looped = Circumstances { interface: Some(1), local_in: true, ..NEW };
    assert_eq!(court.ask(&web(81), &looped).ingress, Ground::LocalNode);
    assert!(!court.ask(&web(81), &Circumstances { local_in: false, ..looped }).accepted);
    // Nor what a pod may say to itself for what it says to itself through a Service.
    let itself = Packet::new("10.0.0.2", "10.0.0.2", Protocol::TCP, 81);
    for _ in 0..2 {
        assert!(court.ask(&itself, &OPENING).accepted);
        assert!(!court.ask(&itself, &Circumstances { translated: true, ..OPENING }).accepted);
    }
    court.close();
}

#[test]
fn a_lost_flow_is_no_lost_connection_and_no_new_one() {
    let Some(court) = Court::new(&Hand::web()) else { return };
    assert!(court.ask(&web(80), &OPENING).accepted);
    for given in [Circumstances { conntrack: Conntrack::Unanswered, ..OPENING }, OPEN, REPLY] {
        clear(&court.map("flows"));
        let packet = if given == REPLY { web(80).reply() } else { web(80) };
        let said = court.ask(&packet, &given);
        assert!(said.accepted && !said.hit, "{given:?}");
    }
    let counter = court.datapath.rule_counters().unwrap()[&CauseId(90)];
    assert_eq!((counter.accepted, counter.dropped), (1, 0));
    court.close();
}

/// The kernel reuses the memory of elements: what is found under a key may be another key's.
#[test]
fn a_value_that_is_not_its_keys_is_not_believed() {
    let plan = Hand::web().peer("10.0.1.5", 9).endpoint("10.0.0.3", 0, 0);
    let Some(mut court) = Court::new(&plan) else { return };
    let interface = ringfence_datapath::Interface { index: 10, bridge: None };
    court.datapath.set_interfaces([("10.0.0.3".parse().unwrap(), interface)]).unwrap();
    let anonymous = Packet::new("fe80::3", "fd00::9", Protocol::TCP, 80);
    let by_interface = Circumstances { interface: Some(10), ..NEW };
    // Nor one that was put together of two values of one key.
    let (seal, within, last) = (0, 8, |size: usize| size - 1);
    for (name, size) in [("endpoints", 32), ("peers", 32), ("entries", 16), ("interfaces", 24)] {
        let (packet, given) = if name == "interfaces" { (&anonymous, by_interface) } else { (&web(80), NEW) };
        for byte in [seal, within, last(size)] {
            assert!(court.ask(packet, &given).accepted, "{name}");
            spoil(&court.map(name), byte);
            assert_eq!(court.ask(packet, &given).dropped, Some(Drop::Incomplete), "{name}, byte {byte}");
            spoil(&court.map(name), byte);
        }
    }
    assert!(court.ask(&web(80), &OPENING).accepted && court.ask(&web(80), &OPENING).hit);
    for byte in [seal, within, last(40)] {
        spoil(&court.map("flows"), byte);
        let said = court.ask(&web(80), &OPENING);
        assert!(said.accepted && !said.hit, "byte {byte}");
        assert!(court.ask(&web(80), &OPENING).hit, "it was written anew");
    }
    court.close();
}

#[test]
fn what_makes_no_sense_is_written_anew_or_goes() {
    let plan = Hand::web().peer("10.0.1.5", 9);
    let Some(mut court) = Court::new(&plan) else { return };
    let size = |court: &Court, name| court.map(name).keys().count();
    for wanted in [&plan, &Hand::default()] {
        for name in ["endpoints", "peers", "entries"] {
            court.datapath.sync(&plan.plan).unwrap();
            let elements = size(&court, name);
            spoil(&court.map(name), 0);
            assert_eq!(court.ask(&web(80), &NEW).dropped, Some(Drop::Incomplete), "{name}");
            court.datapath.sync(&wanted.plan).unwrap();
            assert!(court.ask(&web(80), &NEW).accepted, "{name}");
            let expected = if wanted.plan.endpoints.is_empty() { 0 } else { elements };
            assert_eq!(size(&court, name), expected, "{name}");
            let told = court.datapath.capacity().into_iter().find(|capacity| capacity.map == name).unwrap();
            assert_eq!(told.used, expected, "{name}");
        }
    }
    court.close();
}
