//! What is counted is exact, however much is reported.

use std::time::Duration;

use ringfence_datapath::{Circumstances, Conntrack, Drop, Outcome};
use ringfence_engine::CauseId;
use ringfence_model::{Direction, Protocol};

use crate::kit::court::{Court, NEW};
use crate::kit::eventually;
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;

const TELL: Circumstances = Circumstances { tell: true, ..NEW };

fn web(port: u16) -> Packet {
    Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, port)
}

#[test]
fn denials_that_are_not_reported_are_counted_in_the_next_report() {
    const TIMES: u32 = 10_000;
    let Some(court) = Court::new(&Hand::web()) else { return };
    let mut events = court.datapath.events().unwrap();
    court.ask_often(&web(81), &TELL, TIMES);
    let (mut asked, mut told, mut seen) = (u64::from(TIMES), 0, Vec::new());
    eventually("a report that stands for all", || {
        court.ask(&web(81), &TELL);
        asked += 1;
        for event in events.poll(Duration::from_millis(20)).unwrap() {
            told += 1 + event.repeated;
            seen.push(event);
        }
        told == asked
    });
    assert!(seen.len() < 100, "{} reports of {asked} denials", seen.len());
    let drops = court.datapath.drop_counters().unwrap();
    assert_eq!((drops.policy, drops.total(), drops.events_lost), (asked, asked, 0));
    assert_eq!(court.datapath.rule_counters().unwrap()[&CauseId(70)].dropped, asked);
    let last = seen.last().unwrap();
    assert_eq!(last.outcome, Outcome::Denied(Drop::Policy { cause: CauseId(70), cut: false }));
    assert_eq!((last.direction, last.destination_port, last.interface), (Some(Direction::Ingress), 81, 1000));
    court.close();
}

#[test]
fn who_is_denied_in_many_ways_leaves_room_for_reports_about_others() {
    const UNLIKE: u16 = 20_000;
    const A_SECOND: u64 = 1000;
    // As many reports as this find room.
    let small = |config: &mut ringfence_datapath::Config| config.sizes.events = 1 << 19;
    let Some(court) = Court::with(small, &Hand::web()) else { return };
    let mut events = court.datapath.events().unwrap();
    let started = std::time::Instant::now();
    for port in 1000..1000 + UNLIKE {
        assert!(!court.ask(&web(port), &TELL).accepted);
    }
    let seconds = started.elapsed().as_secs() + 1;
    let other = Packet::new("10.0.1.6", "10.0.0.2", Protocol::TCP, 81);
    assert!(!court.ask(&other, &TELL).accepted);
    let mut seen = Vec::new();
    eventually("a report about the other", || {
        seen.extend(events.poll(Duration::from_millis(20)).unwrap());
        seen.iter().any(|event| event.source.to_string() == "10.0.1.6")
    });
    let drops = court.datapath.drop_counters().unwrap();
    assert_eq!(drops.policy, u64::from(UNLIKE) + 1, "all are counted");
    assert_eq!(seen.len() as u64 + drops.events_lost, drops.policy, "and so are reports that are not made");
    let told = seen.len() as u64 - 1;
    assert!((A_SECOND..=A_SECOND * (seconds + 1)).contains(&told), "{told} reports in {seconds} s");
    court.close();
}

#[test]
fn a_report_is_about_the_connection_as_it_was_opened() {
    let Some(court) = Court::new(&Hand::web()) else { return };
    let mut events = court.datapath.events().unwrap();
    court.ask(&web(81).reply(), &Circumstances { conntrack: Conntrack::Reply, ..TELL });
    let event = events.poll(Duration::from_secs(1)).unwrap().pop().unwrap();
    assert_eq!(event.outcome, Outcome::Denied(Drop::Policy { cause: CauseId(70), cut: true }));
    assert_eq!((event.source.to_string(), event.destination.to_string()), ("10.0.1.5".into(), "10.0.0.2".into()));
    assert_eq!((event.source_port, event.destination_port), (40_000, 81));
    assert!(event.reply && !event.from_node);
    court.close();
}

#[test]
fn every_reason_has_its_own_count() {
    let plan = Hand::web().gate("10.0.0.0/24");
    let Some(mut court) = Court::new(&plan) else { return };
    let interface = ringfence_datapath::Interface { index: 10, bridge: None };
    court.datapath.set_interfaces([("10.0.0.2".parse().unwrap(), interface)]).unwrap();
    let from_pod = Circumstances { interface: Some(10), ..TELL };
    for (times, packet, given) in [
        (1, web(81), TELL),
        (2, Packet::new("10.7.7.7", "10.9.9.9", Protocol::TCP, 80), from_pod),
        (3, Packet::new("10.0.1.5", "10.0.0.9", Protocol::TCP, 80), TELL),
        (4, Packet { fragment: Some(1), ..web(80) }, TELL),
        (5, web(81), Circumstances { conntrack: Conntrack::Unanswered, ..TELL }),
    ] {
        assert!(!court.ask_often(&packet, &given, times).accepted);
    }
    let drops = court.datapath.drop_counters().unwrap();
    assert_eq!((drops.policy, drops.spoofed, drops.not_ready, drops.unparseable, drops.cut), (6, 2, 3, 4, 5));
    assert_eq!((drops.total(), drops.incomplete), (15, 0));
    court.close();
}

#[test]
fn connections_are_counted_once_by_both_rules_that_let_them_through() {
    let plan = Hand::web().endpoint("10.0.1.5", 0, 8).isolated(8, 80).peer("10.0.0.2", 20);
    let plan = plan.allow(8, 20, &[(Protocol::TCP, 80), (Protocol::TCP, 81)], 82, 80);
    let Some(court) = Court::with(|config| config.report_allowed = true, &plan) else { return };
    let mut events = court.datapath.events().unwrap();
    let given = Circumstances { flows: true, ..TELL };
    assert!(court.ask_often(&web(80), &given, 7).accepted);
    assert!(!court.ask(&web(81), &given).accepted, "let out, not in");
    assert!(!court.ask(&web(82), &given).accepted, "not let out");
    let counters = court.datapath.rule_counters().unwrap();
    let count = |cause| (counters[&CauseId(cause)].accepted, counters[&CauseId(cause)].dropped);
    assert_eq!([82, 80, 90, 70].map(count), [(1, 0), (0, 1), (1, 0), (0, 1)]);
    let outcomes: Vec<_> = events.poll(Duration::from_secs(1)).unwrap().into_iter().map(|e| e.outcome).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Allowed(CauseId(90))).count(), 1);
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
    court.close();
}
