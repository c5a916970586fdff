//! Counters are exact, whatever the number of events.

use std::time::Duration;

use ringfence_datapath::{Conntrack, DropReason, EventVerdict, PacketContext};
use ringfence_engine::RuleId;
use ringfence_model::{Direction, Protocol};

use crate::kit::eventually;
use crate::kit::fixture::{Fixture, NEW};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;

const NOTIFY: PacketContext = PacketContext { notify: true, ..NEW };

fn web(port: u16) -> Packet {
    Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, port)
}

#[test]
fn denials_that_are_not_reported_are_counted_in_the_next_report() {
    const TIMES: u32 = 10_000;
    let Some(fixture) = Fixture::new(&Hand::web()) else { return };
    let mut events = fixture.datapath.events().unwrap();
    fixture.run_repeatedly(&web(81), &NOTIFY, TIMES);
    let (mut asked, mut told, mut seen) = (u64::from(TIMES), 0, Vec::new());
    eventually("a report that stands for all", || {
        fixture.run(&web(81), &NOTIFY);
        asked += 1;
        for event in events.poll(Duration::from_millis(20)).unwrap() {
            told += 1 + event.repeated;
            seen.push(event);
        }
        told == asked
    });
    assert!(seen.len() < 100, "{} reports of {asked} denials", seen.len());
    let drops = fixture.datapath.drop_counters().unwrap();
    assert_eq!((drops.policy, drops.total(), drops.events_lost), (asked, asked, 0));
    assert_eq!(fixture.datapath.rule_counters().unwrap()[&RuleId(70)].dropped, asked);
    let last = seen.last().unwrap();
    assert_eq!(last.verdict, EventVerdict::Denied(DropReason::Policy { rule_id: RuleId(70), cut: false }));
    assert_eq!((last.direction, last.destination_port, last.interface), (Some(Direction::Ingress), 81, 1000));
    fixture.close();
}

#[test]
fn who_is_denied_in_many_ways_leaves_room_for_reports_about_others() {
    const UNLIKE: u16 = 20_000;
    const A_SECOND: u64 = 1000;
    // The ring buffer has room for so many reports.
    let small = |config: &mut ringfence_datapath::Config| config.sizes.events = 1 << 19;
    let Some(fixture) = Fixture::with(small, &Hand::web()) else { return };
    let mut events = fixture.datapath.events().unwrap();
    let started = std::time::Instant::now();
    for port in 1000..1000 + UNLIKE {
        assert!(!fixture.run(&web(port), &NOTIFY).accepted);
    }
    let seconds = started.elapsed().as_secs() + 1;
    let other = Packet::new("10.0.1.6", "10.0.0.2", Protocol::TCP, 81);
    assert!(!fixture.run(&other, &NOTIFY).accepted);
    let mut seen = Vec::new();
    eventually("a report about the other", || {
        seen.extend(events.poll(Duration::from_millis(20)).unwrap());
        seen.iter().any(|event| event.source.to_string() == "10.0.1.6")
    });
    let drops = fixture.datapath.drop_counters().unwrap();
    assert_eq!(drops.policy, u64::from(UNLIKE) + 1, "all are counted");
    assert_eq!(seen.len() as u64 + drops.events_lost, drops.policy, "and so are reports that are not made");
    let told = seen.len() as u64 - 1;
    assert!((A_SECOND..=A_SECOND * (seconds + 1)).contains(&told), "{told} reports in {seconds} s");
    fixture.close();
}

#[test]
fn a_report_is_about_the_connection_as_it_was_opened() {
    let Some(fixture) = Fixture::new(&Hand::web()) else { return };
    let mut events = fixture.datapath.events().unwrap();
    fixture.run(&web(81).reply(), &PacketContext { conntrack: Conntrack::Reply, ..NOTIFY });
    let event = events.poll(Duration::from_secs(1)).unwrap().pop().unwrap();
    assert_eq!(event.verdict, EventVerdict::Denied(DropReason::Policy { rule_id: RuleId(70), cut: true }));
    assert_eq!((event.source.to_string(), event.destination.to_string()), ("10.0.1.5".into(), "10.0.0.2".into()));
    assert_eq!((event.source_port, event.destination_port), (40_000, 81));
    assert!(event.reply && !event.from_node);
    fixture.close();
}

#[test]
fn every_reason_has_its_own_count() {
    let plan = Hand::web().cidr("10.0.0.0/24");
    let Some(mut fixture) = Fixture::new(&plan) else { return };
    let interface = ringfence_datapath::Interface { index: 10, bridge: None };
    fixture.datapath.set_interfaces([("10.0.0.2".parse().unwrap(), interface)]).unwrap();
    let from_pod = PacketContext { interface: Some(10), ..NOTIFY };
    for (times, packet, given) in [
        (1, web(81), NOTIFY),
        (2, Packet::new("10.7.7.7", "10.9.9.9", Protocol::TCP, 80), from_pod),
        (3, Packet::new("10.0.1.5", "10.0.0.9", Protocol::TCP, 80), NOTIFY),
        (4, Packet { fragment: Some(1), ..web(80) }, NOTIFY),
        (5, web(81), PacketContext { conntrack: Conntrack::Unanswered, ..NOTIFY }),
    ] {
        assert!(!fixture.run_repeatedly(&packet, &given, times).accepted);
    }
    let drops = fixture.datapath.drop_counters().unwrap();
    assert_eq!((drops.policy, drops.spoofed, drops.not_ready, drops.unparseable, drops.cut), (6, 2, 3, 4, 5));
    assert_eq!((drops.total(), drops.incomplete), (15, 0));
    fixture.close();
}

#[test]
fn connections_are_counted_once_by_both_rules_that_let_them_through() {
    let plan = Hand::web().endpoint("10.0.1.5", 0, 8).isolated(8, 80).peer("10.0.0.2", 20);
    let plan = plan.allow(8, 20, &[(Protocol::TCP, 80), (Protocol::TCP, 81)], 82, 80);
    let Some(fixture) = Fixture::with(|config| config.report_allowed = true, &plan) else { return };
    let mut events = fixture.datapath.events().unwrap();
    let given = PacketContext { flows: true, ..NOTIFY };
    assert!(fixture.run_repeatedly(&web(80), &given, 7).accepted);
    assert!(!fixture.run(&web(81), &given).accepted, "let out, not in");
    assert!(!fixture.run(&web(82), &given).accepted, "not let out");
    let counters = fixture.datapath.rule_counters().unwrap();
    let count = |rule_id| (counters[&RuleId(rule_id)].accepted, counters[&RuleId(rule_id)].dropped);
    assert_eq!([82, 80, 90, 70].map(count), [(1, 0), (0, 1), (1, 0), (0, 1)]);
    let outcomes: Vec<_> = events.poll(Duration::from_secs(1)).unwrap().into_iter().map(|e| e.verdict).collect();
    assert_eq!(outcomes.iter().filter(|verdict| **verdict == EventVerdict::Allowed(RuleId(90))).count(), 1);
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
    fixture.close();
}
