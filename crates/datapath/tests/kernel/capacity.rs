//! A change that does not fit is refused as a whole. If new and old entries do not fit side by side, a change is
//! applied in chunks.

use std::collections::BTreeMap;

use libbpf_rs::{MapCore as _, MapFlags};
use ringfence_datapath::{ApplyError, Config};
use ringfence_engine::{Delta, IpcacheEntry, PeerSetId, PolicyKey};
use ringfence_model::Protocol;

use crate::kit::fixture::{Fixture, NEW};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;

fn plan() -> Hand {
    Hand::web().peer("10.0.1.5", 9).cidr("10.0.0.0/24")
}

/// A delta with an addition that also makes the pod of the plan unrestricted.
fn delta(addition: Hand) -> Delta {
    let plan = addition.endpoint("10.0.0.2", 0, 0).plan;
    Delta {
        put_rules: plan.rules.into_iter().collect(),
        put_policy: plan.policy.into_iter().collect(),
        put_ipcache: plan.ipcache.into_iter().collect(),
        put_endpoints: plan.endpoints.into_iter().collect(),
        closed_cidrs: (!plan.closed_cidrs.is_empty()).then_some(plan.closed_cidrs),
        ..Delta::default()
    }
}

type Content = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

/// All elements of the policy maps. Of counters and unused port ranges only the number.
fn content(fixture: &Fixture) -> Content {
    let mut all = Content::new();
    for name in
        ["endpoints", "ipcache", "ipcache_cidrs", "policy", "closed_cidrs", "interfaces", "config", "port_ranges"]
    {
        let map = fixture.map(name);
        all.extend(map.keys().map(|key| {
            let value = map.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            ((name, key), value)
        }));
    }
    all.extend(fixture.map("rule_counters").keys().map(|key| (("rule_counters", key), Vec::new())));
    all
}

#[test]
fn a_change_that_does_not_fit_touches_no_map() {
    type Full = (&'static str, fn(&mut Config), Hand);
    let cases: [Full; 7] = [
        ("endpoints", |config| config.sizes.endpoints = 1, Hand::default().endpoint("10.0.0.3", 7, 0)),
        ("ipcache", |config| config.sizes.ipcache = 1, Hand::default().peer("10.0.1.6", 9)),
        ("ipcache_cidrs", |config| config.sizes.ipcache_cidrs = 1, Hand::default().peer("10.0.2.0/24", 9)),
        ("policy", |config| config.sizes.policy = 3, Hand::default().isolated(8, 70)),
        ("rule_counters", |config| config.sizes.rule_counters = 2, Hand::default().allow_all(7, 9, 91)),
        (
            "closed_cidrs",
            |config| config.sizes.closed_cidrs = 1,
            Hand::default().cidr("10.0.0.0/24").cidr("10.0.4.0/24"),
        ),
        (
            "port_ranges",
            |config| config.sizes.port_ranges = 8,
            Hand::default().allow(8, 9, &[(Protocol::UDP, 1), (Protocol::UDP, 3)], 90, 70),
        ),
    ];
    for (full, shrink, addition) in cases {
        let Some(mut fixture) = Fixture::with(shrink, &plan()) else { return };
        let before = content(&fixture);
        let error = fixture.datapath.apply(&delta(addition)).unwrap_err();
        assert!(matches!(error, ApplyError::NoCapacity { map, .. } if map == full), "{full}: {error}");
        assert_eq!(content(&fixture), before, "{full}");
        assert!(!fixture.datapath.is_in_sync());
        assert!(fixture.run(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 80), &NEW).accepted, "{full}");
        assert!(!fixture.run(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 81), &NEW).accepted, "{full}");
        // The plan that fits is applied again after the comparison.
        fixture.datapath.sync(&plan().plan).unwrap();
        fixture.datapath.apply(&delta(Hand::default())).unwrap();
        assert!(fixture.run(&Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, 81), &NEW).accepted, "{full}");
        fixture.close();
    }
}

/// Two pods, `10.0.0.2` and `10.0.0.3`, with these rulesets, which allow peer set 9 at a port.
fn two(rulesets: [u64; 2], port: u16) -> Hand {
    let hand = Hand::default().peer("10.0.1.0/24", 9);
    let hand = hand.endpoint("10.0.0.2", rulesets[0], 0).endpoint("10.0.0.3", rulesets[1], 0);
    rulesets.into_iter().fold(hand, |hand, ruleset| {
        let ports = [(Protocol::TCP, port), (Protocol::UDP, port)];
        hand.isolated(ruleset, 1000 + ruleset).allow(ruleset, 9, &ports, 2000 + ruleset, 1000 + ruleset)
    })
}

#[test]
fn a_change_that_does_not_fit_beside_what_it_replaces_is_applied_in_chunks() {
    let (old, new) = (two([20, 21], 80), two([30, 31], 81));
    // Each ruleset uses six port ranges. There is room for three rulesets, wherever their extents are.
    let Some(mut fixture) = Fixture::with(|config| config.sizes.port_ranges = 23, &old) else { return };
    let change = Delta {
        put_rules: new.plan.rules.clone().into_iter().collect(),
        put_policy: new.plan.policy.clone().into_iter().collect(),
        put_endpoints: new.plan.endpoints.into_iter().collect(),
        delete_policy: old.plan.policy.keys().copied().collect(),
        delete_rules: old.plan.rules.keys().copied().collect(),
        ..Delta::default()
    };
    fixture.datapath.apply(&change).unwrap();
    assert!(fixture.datapath.is_in_sync());
    expect_only_new(&fixture);
    fixture.close();
}

/// Checks that both pods have the new policy, and that nothing of the old one uses room.
#[track_caller]
fn expect_only_new(fixture: &Fixture) {
    for pod in ["10.0.0.2", "10.0.0.3"] {
        let accepted = |port| fixture.run(&Packet::new("10.0.1.5", pod, Protocol::TCP, port), &NEW).accepted;
        assert!(accepted(81) && !accepted(80), "{pod}");
    }
    let held = fixture.datapath.map_usage().into_iter().find(|capacity| capacity.map == "port_ranges").unwrap();
    assert_eq!(held.used, 12, "what is old is gone");
}

#[test]
fn a_plan_that_does_not_fit_beside_the_one_before_is_synced_in_chunks() {
    let (old, new) = (two([20, 21], 80), two([30, 31], 81));
    for peer in [9, 8] {
        // If the peers move to another peer set, they are denied on the way: there is no room for transitional entries.
        let Some(mut fixture) = Fixture::with(|config| config.sizes.port_ranges = 23, &old) else { return };
        let mut plan = new.plan.clone();
        for peer_set in plan.ipcache.values_mut() {
            *peer_set = IpcacheEntry::plain(PeerSetId(peer), peer_set.fallback);
        }
        let entries = plan.policy.into_iter();
        let moved = |key: PolicyKey| PolicyKey {
            peer_set: if key.peer_set.0 == 9 { PeerSetId(peer) } else { key.peer_set },
            ..key
        };
        plan.policy = entries.map(|(key, table)| (moved(key), table)).collect();
        fixture.datapath.sync(&plan).unwrap();
        expect_only_new(&fixture);
        fixture.close();
    }
}
