//! A change that does not fit is refused whole; one that fits without what it replaces is carried out in portions.

use std::collections::BTreeMap;

use libbpf_rs::{MapCore as _, MapFlags};
use ringfence_datapath::{ApplyError, Config};
use ringfence_engine::{ClassId, Delta, EntryKey, PeerClass};
use ringfence_model::Protocol;

use crate::kit::court::{Court, NEW};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;

fn plan() -> Hand {
    Hand::web().peer("10.0.1.5", 9).gate("10.0.0.0/24")
}

/// A change that adds this, and lets the pod of the plan go free.
fn delta(addition: Hand) -> Delta {
    let plan = addition.endpoint("10.0.0.2", 0, 0).plan;
    Delta {
        put_causes: plan.causes.into_iter().collect(),
        put_entries: plan.entries.into_iter().collect(),
        put_peers: plan.peers.into_iter().collect(),
        put_endpoints: plan.endpoints.into_iter().collect(),
        gates: (!plan.gates.is_empty()).then_some(plan.gates),
        ..Delta::default()
    }
}

type Content = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

/// Every element of the maps of the policy; of counters and of unused breakpoints that they are there.
fn content(court: &Court) -> Content {
    let mut all = Content::new();
    for name in ["endpoints", "peers", "prefixes", "entries", "gates", "interfaces", "config", "breakpoints"] {
        let map = court.map(name);
        all.extend(map.keys().map(|key| {
            let value = map.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            ((name, key), value)
        }));
    }
    all.extend(court.map("counters").keys().map(|key| (("counters", key), Vec::new())));
    all
}

#[test]
fn a_change_that_does_not_fit_touches_no_map() {
    type Full = (&'static str, fn(&mut Config), Hand);
    let cases: [Full; 7] = [
        ("endpoints", |config| config.sizes.endpoints = 1, Hand::default().endpoint("10.0.0.3", 7, 0)),
        ("peers", |config| config.sizes.peers = 1, Hand::default().peer("10.0.1.6", 9)),
        ("prefixes", |config| config.sizes.prefixes = 1, Hand::default().peer("10.0.2.0/24", 9)),
        ("entries", |config| config.sizes.entries = 3, Hand::default().isolated(8, 70)),
        ("counters", |config| config.sizes.causes = 2, Hand::default().allow_all(7, 9, 91)),
        ("gates", |config| config.sizes.gates = 1, Hand::default().gate("10.0.0.0/24").gate("10.0.4.0/24")),
        (
            "breakpoints",
            |config| config.sizes.breakpoints = 8,
            Hand::default().allow(8, 9, &[(Protocol::UDP, 1), (Protocol::UDP, 3)], 90, 70),
        ),
    ];
    for (full, shrink, addition) in cases {
        let Some(mut court) = Court::with(shrink, &plan()) else { return };
        let before = content(&court);
        let error = court.datapath.apply(&delta(addition)).unwrap_err();
        assert!(matches!(error, ApplyError::NoCapacity { map, .. } if map == full), "{full}: {error}");
        assert_eq!(content(&court), before, "{full}");
        assert!(!court.datapath.is_in_step());
        assert!(court.ask(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 80), &NEW).accepted, "{full}");
        assert!(!court.ask(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 81), &NEW).accepted, "{full}");
        // What fits is carried out again, once everything has been compared.
        court.datapath.sync(&plan().plan).unwrap();
        court.datapath.apply(&delta(Hand::default())).unwrap();
        assert!(court.ask(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 81), &NEW).accepted, "{full}");
        court.close();
    }
}

/// Two pods, `10.0.0.2` and `10.0.0.3`, on rulesets of these numbers, which let class 9 in at a port.
fn two(rulesets: [u64; 2], port: u16) -> Hand {
    let hand = Hand::default().peer("10.0.1.0/24", 9);
    let hand = hand.endpoint("10.0.0.2", rulesets[0], 0).endpoint("10.0.0.3", rulesets[1], 0);
    rulesets.into_iter().fold(hand, |hand, ruleset| {
        let ports = [(Protocol::TCP, port), (Protocol::UDP, port)];
        hand.isolated(ruleset, 1000 + ruleset).allow(ruleset, 9, &ports, 2000 + ruleset, 1000 + ruleset)
    })
}

#[test]
fn a_change_that_does_not_fit_beside_what_it_replaces_is_carried_out_in_portions() {
    let (old, new) = (two([20, 21], 80), two([30, 31], 81));
    // Each ruleset takes up six: there is room for three of them, wherever their slices come to lie.
    let Some(mut court) = Court::with(|config| config.sizes.breakpoints = 23, &old) else { return };
    let change = Delta {
        put_causes: new.plan.causes.clone().into_iter().collect(),
        put_entries: new.plan.entries.clone().into_iter().collect(),
        put_endpoints: new.plan.endpoints.into_iter().collect(),
        delete_entries: old.plan.entries.keys().copied().collect(),
        delete_causes: old.plan.causes.keys().copied().collect(),
        ..Delta::default()
    };
    court.datapath.apply(&change).unwrap();
    assert!(court.datapath.is_in_step());
    expect_only_new(&court);
    court.close();
}

/// Both pods are on the new policy, and nothing of the old one takes up room.
#[track_caller]
fn expect_only_new(court: &Court) {
    for pod in ["10.0.0.2", "10.0.0.3"] {
        let accepted = |port| court.ask(&Packet::new("10.0.1.5", pod, Protocol::TCP, port), &NEW).accepted;
        assert!(accepted(81) && !accepted(80), "{pod}");
    }
    let held = court.datapath.capacity().into_iter().find(|capacity| capacity.map == "breakpoints").unwrap();
    assert_eq!(held.used, 12, "what is old is gone");
}

#[test]
fn a_plan_that_does_not_fit_beside_the_one_before_is_synced_in_portions() {
    let (old, new) = (two([20, 21], 80), two([30, 31], 81));
    for peer in [9, 8] {
        // Where the peers' class is another, they are denied on the way: for what both say there is no room.
        let Some(mut court) = Court::with(|config| config.sizes.breakpoints = 23, &old) else { return };
        let mut plan = new.plan.clone();
        for class in plan.peers.values_mut() {
            *class = PeerClass::plain(ClassId(peer), class.fallback);
        }
        let entries = plan.entries.into_iter();
        let moved = |key: EntryKey| EntryKey { class: if key.class.0 == 9 { ClassId(peer) } else { key.class }, ..key };
        plan.entries = entries.map(|(key, block)| (moved(key), block)).collect();
        court.datapath.sync(&plan).unwrap();
        expect_only_new(&court);
        court.close();
    }
}
