//! Budgets of sources, and that no source hides behind others.

use ringfence_datapath::{DropReason, EventVerdict};
use ringfence_engine::RuleId;
use ringfence_model::{Direction, Protocol};

use super::*;
use crate::fake::dropped;

const LIMITS: Limits = Limits { source: Rate { second: 10, burst: 20 }, node: Rate { second: 50, burst: 100 } };

/// An event about a packet that came by a link.
fn event(interface: u32, source: [u8; 4], port: u16) -> Event {
    Event {
        source: source.into(),
        source_port: 4000,
        destination: [10, 0, 9, 9].into(),
        destination_port: port,
        protocol: Protocol::UDP,
        direction: Some(Direction::Egress),
        interface,
        ..dropped(DropReason::Policy { rule_id: RuleId(70), cut: false })
    }
}

fn spoofed(interface: u32, source: [u8; 4]) -> Event {
    Event { verdict: EventVerdict::Denied(DropReason::Spoofed), ..event(interface, source, 1) }
}

/// Reports of a link: reports, and packets told as a number.
fn said(told: &[Told], link: u32) -> (usize, u64) {
    told.iter().fold((0, 0), |(reports, more), told| match told {
        Told::Report(event) if event.interface == link => (reports + 1, more),
        Told::More(event, packets) if event.interface == link => (reports, more + packets),
        _ => (reports, more),
    })
}

/// Plays time in steps of 100 ms; `each` says what is offered in a step.
fn play(budget: &mut Budget, start: Instant, steps: u64, mut each: impl FnMut(u64) -> Vec<Event>) -> Vec<Told> {
    let mut told = Vec::new();
    for step in 0..steps {
        let now = start + Duration::from_millis(100 * step);
        for event in each(step) {
            budget.offer(event, now);
        }
        told.extend(budget.take(now));
    }
    told
}

#[test]
fn one_source_is_told_line_by_line_up_to_its_budget_and_then_as_an_exact_number() {
    let start = Instant::now();
    let mut budget = Budget::new(LIMITS, start);
    // 1,000 a second for ten seconds, each for two packets; then silence.
    let told = play(&mut budget, start, 200, |step| {
        let port = |n| u16::try_from((step * 100 + n) % 60_000).unwrap();
        let events = (0..100).map(|n| Event { repeated: 1, ..event(7, [10, 0, 0, 7], port(n)) });
        if step < 100 { events.collect() } else { Vec::new() }
    });
    let (reports, more) = said(&told, 7);
    assert_eq!(reports, 20 + 99, "its burst, and ten a second");
    assert_eq!(2 * reports as u64 + more, 20_000, "what is left out is counted");
    let summaries = told.iter().filter(|told| matches!(told, Told::More(..))).count();
    assert!((2..=4).contains(&summaries), "{summaries} summaries");
}

#[test]
fn a_flood_does_not_hide_what_another_pod_does() {
    let start = Instant::now();
    let mut budget = Budget::new(LIMITS, start);
    // 100 pods flood, which is more than the node's budget; one does something now and then.
    let told = play(&mut budget, start, 300, |step| {
        let flood = (100..200).flat_map(|link| (0..30).map(move |port| event(link, [10, 0, 1, 1], port)));
        let quiet = (step % 50 == 0).then(|| event(5, [10, 0, 0, 5], 99));
        flood.chain(quiet).collect()
    });
    assert_eq!(said(&told, 5), (6, 0));
    let reports: Vec<_> = (100..200).map(|link| said(&told, link).0).collect();
    assert!(told.len() <= 100 + 50 * 30, "{} lines in 30 seconds", told.len());
    assert!(reports.iter().max().unwrap() - reports.iter().min().unwrap() <= 2, "fair: {reports:?}");
}

#[test]
fn false_sources_are_charged_to_the_link_they_come_by() {
    let start = Instant::now();
    let mut budget = Budget::new(LIMITS, start);
    let told = play(&mut budget, start, 100, |step| {
        let last = |n: u64| u32::try_from(step * 1000 + n).unwrap().to_be_bytes();
        (0..1000).map(|n| spoofed(7, last(n))).collect()
    });
    assert_eq!(said(&told, 7).0, 20 + 99);
    assert_eq!((budget.sources, budget.links.len()), (1, 1));
}

#[test]
fn memory_is_bounded_against_random_sources_and_links() {
    let start = Instant::now();
    let mut budget = Budget::new(LIMITS, start);
    let mut offered = 0;
    let told = play(&mut budget, start, 50, |step| {
        let octets = |n: u64| u32::try_from(step * 20_000 + n).unwrap().to_be_bytes();
        let outside = (0..10_000).map(|n| event(2, octets(n), 1));
        let links = (0..500).map(|n| event(u32::try_from(1000 + step * 500 + n).unwrap(), octets(n), 1));
        offered += 10_500;
        outside.chain(links).collect()
    });
    assert!(budget.links.len() <= MAX_LINKS + 1 && budget.sources <= MAX_SOURCES + MAX_LINKS + 1);
    let sum: usize = budget.links.values().map(|sources| sources.sources.len()).sum();
    assert_eq!(sum, budget.sources);
    assert!(budget.waiting <= 100 + budget.sources);
    assert!(budget.silenced.len() <= budget.sources);
    let counted: u64 = told.iter().map(|told| if let Told::More(_, packets) = told { *packets } else { 1 }).sum();
    let later = budget.links.values().flat_map(|sources| sources.sources.values());
    let later: u64 = later.map(|s| s.waiting.len() as u64 + s.more.as_ref().map_or(0, |(_, packets)| *packets)).sum();
    assert_eq!(counted + later, offered, "everything is told, waits, or is counted");
    // When it is over everything is told, and forgotten as soon as there is need.
    let rest = play(&mut budget, start + Duration::from_secs(5), 4000, |_| Vec::new());
    let told: u64 = rest.iter().map(|told| if let Told::More(_, packets) = told { *packets } else { 1 }).sum();
    assert_eq!(counted + told, offered);
    budget.forget_idle(start + Duration::from_secs(500));
    assert_eq!((budget.sources, budget.waiting, budget.silenced.len(), budget.turn.len()), (0, 0, 0, 0));
}
