//! Open, sync, apply and detach with plans made by hand, checked by test runs of the program.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::kit::fixture::NEW;
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;
use crate::kit::space::{Bench, Space};
use ringfence_datapath::{ApplyError, Conntrack, Datapath, DropReason, Error, PacketContext, PolicyResult, TestRun};
use ringfence_engine::{Delta, Plan, RuleId};
use ringfence_model::{Direction, Protocol};

fn passes(test_run: &TestRun, packet: &Packet) -> bool {
    test_run.run(&packet.bytes(), &NEW, 1).unwrap().accepted
}

#[test]
fn the_plan_decides() {
    if !crate::kit::can_run() {
        return;
    }
    let bench = Bench::new();
    let mut datapath = bench.open();
    datapath.sync(&Hand::web().plan).unwrap();
    let test_run = datapath.test_run().unwrap();
    let to = |source: &str, port| Packet::new(source, "10.0.0.2", Protocol::TCP, port);
    assert!(passes(&test_run, &to("10.0.1.5", 80)));
    assert!(!passes(&test_run, &to("10.0.1.5", 81)));
    assert!(!passes(&test_run, &to("10.0.2.5", 80)));
    let verdict = test_run.run(&to("10.0.2.5", 80).bytes(), &NEW, 1).unwrap();
    assert_eq!(verdict.dropped, Some(DropReason::Policy { rule_id: RuleId(70), cut: false }));
    assert_eq!((verdict.egress, verdict.ingress), (PolicyResult::NotAPod, PolicyResult::Decided(RuleId(70))));
    datapath.detach().unwrap();
    assert!(!bench.pins.0.exists());
}

#[test]
fn a_change_is_applied_and_adopted_by_the_next_process() {
    if !crate::kit::can_run() {
        return;
    }
    let bench = Bench::new();
    let mut datapath = bench.open();
    datapath.sync(&Hand::web().plan).unwrap();
    let mut after = Hand::web();
    let delta = {
        let wider = Hand::default().allow_all(8, 9, 91).isolated(8, 71).endpoint("10.0.0.2", 8, 0).plan;
        Delta {
            put_rules: wider.rules.into_iter().collect(),
            put_policy: wider.policy.into_iter().collect(),
            put_endpoints: wider.endpoints.into_iter().collect(),
            delete_policy: after.plan.policy.keys().copied().collect(),
            delete_rules: vec![RuleId(70), RuleId(90)],
            ..Delta::default()
        }
    };
    datapath.apply(&delta).unwrap();
    after.plan.apply(&delta);
    let packet = Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 81);
    assert!(passes(&datapath.test_run().unwrap(), &packet));
    let attached = datapath.attachments();
    assert_eq!(attached.len(), 4);
    drop(datapath);

    let mut adopted = bench.open();
    assert_eq!(adopted.attachments(), attached, "the links are the same");
    assert!(matches!(adopted.apply(&delta), Err(ApplyError::OutOfSync)));
    assert!(passes(&adopted.test_run().unwrap(), &packet), "before anything is synced");
    adopted.sync(&after.plan).unwrap();
    let used: Vec<_> = adopted.map_usage().iter().map(|usage| (usage.map, usage.used)).collect();
    let expected = [
        ("endpoints", 1),
        ("ipcache", 0),
        ("ipcache_cidrs", 1),
        ("policy", 3),
        ("port_ranges", 2),
        ("rule_counters", 2),
    ];
    assert_eq!(used, expected);
    assert!(passes(&adopted.test_run().unwrap(), &packet));
    adopted.detach().unwrap();
}

#[test]
fn what_does_not_fit_changes_nothing() {
    if !crate::kit::can_run() {
        return;
    }
    let bench = Bench::new();
    let mut config = bench.pins.config();
    config.sizes.endpoints = 2;
    config.sizes.port_ranges = 8;
    let mut datapath = bench.open_with(config);
    datapath.sync(&Hand::web().plan).unwrap();
    let too_many = Hand::web().endpoint("10.0.0.3", 7, 0).endpoint("10.0.0.4", 7, 0).isolated(9, 72);
    let error = datapath.sync(&too_many.plan).unwrap_err();
    assert!(matches!(error, ApplyError::NoCapacity { map: "endpoints", needed: 2, available: 1 }), "{error}");
    let ports: Vec<_> = (0..9).map(|port| (Protocol::UDP, 2 * port)).collect();
    let error = datapath.sync(&Hand::web().allow(9, 9, &ports, 93, 70).plan).unwrap_err();
    assert!(matches!(error, ApplyError::NoCapacity { map: "port_ranges", needed: 19, available: 4 }), "{error}");
    assert!(!datapath.is_in_sync());
    let test_run = datapath.test_run().unwrap();
    assert!(passes(&test_run, &Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 80)));
    assert!(!passes(&test_run, &Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 81)));
    assert!(passes(&test_run, &Packet::new("10.0.1.5", "10.0.0.3", Protocol::TCP, 81)), "no endpoint came");
    datapath.sync(&Hand::web().plan).unwrap();
    assert!(datapath.is_in_sync());
    datapath.detach().unwrap();
}

#[test]
fn freed_port_ranges_are_used_again() {
    if !crate::kit::can_run() {
        return;
    }
    let bench = Bench::new();
    let mut config = bench.pins.config();
    config.sizes.port_ranges = 16;
    let mut datapath = bench.open_with(config);
    let test_run = datapath.test_run().unwrap();
    for round in 0..20 {
        let plan = Hand::default().isolated(7, 70).endpoint("10.0.0.2", 7, 0).peer("10.0.1.5", 9).allow(
            7,
            9,
            &[(Protocol::TCP, 80 + round), (Protocol::UDP, 80 + round)],
            90,
            70,
        );
        datapath.sync(&plan.plan).unwrap();
        assert!(passes(&test_run, &Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 80 + round)));
        assert!(!passes(&test_run, &Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 79 + round)));
    }
    datapath.detach().unwrap();
}

#[test]
fn only_one_process_and_only_the_right_namespace() {
    if !crate::kit::can_run() {
        return;
    }
    let bench = Bench::new();
    let datapath = bench.open();
    let again = bench.space.enter(|| Datapath::open(bench.pins.config()));
    assert!(matches!(again, Err(Error::Busy(_))), "{again:?}");
    drop(datapath);
    let elsewhere = Space::new("elsewhere");
    let wrong = elsewhere.enter(|| Datapath::open(bench.pins.config()));
    assert!(matches!(wrong, Err(Error::OtherNamespace { .. })), "{wrong:?}");
    // Removal works from any namespace, and leaves tables in other namespaces alone.
    elsewhere.run("nft add table inet ringfence");
    elsewhere.enter(|| ringfence_datapath::remove(&bench.pins.0)).unwrap();
    assert!(!bench.pins.0.exists());
    assert!(elsewhere.run("nft list tables").contains("ringfence"));
    let datapath = bench.open();
    bench.space.enter(|| datapath.detach()).unwrap();
    assert!(!bench.space.run("nft list tables").contains("ringfence"));
}

#[test]
fn closed_cidrs_exemptions_and_replies() {
    if !crate::kit::can_run() {
        return;
    }
    let bench = Bench::new();
    let mut datapath = bench.open();
    let plan = Hand::web().cidr("10.0.0.0/24").endpoint("fd00::2", 7, 7).endpoint("10.0.0.9", 7, 7);
    datapath.sync(&plan.plan).unwrap();
    let test_run = datapath.test_run().unwrap();
    let run = |packet: &Packet, given: &PacketContext| test_run.run(&packet.bytes(), given, 1).unwrap();
    let node = PacketContext { interface: None, ..NEW };
    let verdict = run(&Packet::new("10.9.9.9", "10.0.0.77", Protocol::UDP, 53), &NEW);
    assert_eq!(verdict.dropped, Some(DropReason::EndpointNotReady));
    let verdict = run(&Packet::new("10.0.0.77", "10.9.9.9", Protocol::UDP, 53), &NEW);
    assert_eq!(verdict.dropped, Some(DropReason::EndpointNotReady));
    assert!(run(&Packet::new("10.9.9.9", "10.0.0.77", Protocol::UDP, 53), &node).accepted);
    assert_eq!(run(&Packet::new("10.9.9.9", "10.0.0.2", Protocol::TCP, 81), &node).ingress, PolicyResult::LocalNode);
    let advertisement = Packet::new("fd00::2", "fd00::3", Protocol::ICMPV6, 136);
    assert_eq!(run(&advertisement, &NEW).egress, PolicyResult::NeighbourDiscovery);
    assert!(!run(&Packet::new("fd00::2", "fd00::3", Protocol::ICMPV6, 128), &NEW).accepted);
    let itself = Packet::new("10.0.0.9", "10.0.0.9", Protocol::TCP, 81);
    assert_eq!(run(&itself, &NEW).ingress, PolicyResult::OwnAddress);
    assert!(!run(&itself, &PacketContext { translated: true, ..NEW }).accepted);
    // A reply of an allowed connection, and of a connection that was never allowed.
    let reply = PacketContext { conntrack: Conntrack::Reply, ..NEW };
    assert!(run(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 80).reply(), &reply).accepted);
    let verdict = run(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 81).reply(), &reply);
    assert!(!verdict.accepted && verdict.direction == Some(Direction::Ingress));
    let answered = PacketContext { local_in: true, ..reply };
    assert!(run(&Packet::new("10.0.0.9", "10.9.9.9", Protocol::TCP, 81), &answered).accepted);
    datapath.detach().unwrap();
}

/// Packets are checked on one processor while the whole policy is swapped on another, many times. Verdicts on which all
/// plans agree never change.
#[test]
fn every_packet_sees_one_whole_policy() {
    const SWAPS: u64 = 400;
    if !crate::kit::can_run() {
        return;
    }
    let bench = Bench::new();
    let mut config = bench.pins.config();
    config.sizes.port_ranges = 64;
    let mut datapath = bench.open_with(config);
    datapath.sync(&swapped_plan(0)).unwrap();
    let test_run = datapath.test_run().unwrap();
    let done = AtomicBool::new(false);
    let given = PacketContext { notify: true, ..NEW };
    let (allowed, denied) = std::thread::scope(|scope| {
        let evaluate_direction = scope.spawn(|| {
            let (mut allowed, mut denied) = (0u64, 0u64);
            while !done.load(Ordering::Relaxed) {
                test_run.run(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 80).bytes(), &given, 20_000).unwrap();
                allowed += 20_000;
                test_run.run(&Packet::new("10.0.1.5", "10.0.0.3", Protocol::TCP, 81).bytes(), &given, 2_000).unwrap();
                denied += 2_000;
            }
            (allowed, denied)
        });
        (1..=SWAPS).for_each(|number| datapath.sync(&swapped_plan(number)).unwrap());
        done.store(true, Ordering::Relaxed);
        evaluate_direction.join().unwrap()
    });
    let drops = datapath.drop_counters().unwrap();
    assert!(allowed >= 20_000, "judged {allowed}");
    assert_eq!((drops.policy, drops.total()), (denied, denied), "of {allowed} allowed and {denied} denied");
    datapath.detach().unwrap();
}

/// Each plan has its own rulesets, peer sets and rule ids, so that all entries are replaced. TCP port 80 is always
/// open.
fn swapped_plan(number: u64) -> Plan {
    let (own, peer_set) = (100 + number, 1000 + number);
    let mut open = vec![(Protocol::TCP, 80)];
    open.extend((0..number % 7).map(|port| (Protocol::UDP, u16::try_from(port).unwrap())));
    Hand::default()
        .endpoint("10.0.0.2", own, own)
        .endpoint("10.0.0.3", own, 0)
        .peer("10.0.1.5", peer_set)
        .isolated(own, 2 * own)
        .allow(own, peer_set, &open, 2 * own + 1, 2 * own)
        .plan
}
