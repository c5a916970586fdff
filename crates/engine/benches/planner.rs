//! What planning costs at 100,000 pods and 10,000 policies, 250 pods on the node: time to the first plan, time of one
//! pod event and of one policy event (`apply` and `commit`), memory.
//!
//! `cargo bench -p ringfence-engine --bench planner [-- --json] [-- one-pod]`. Memory is the growth of the resident set while a
//! planner is fed objects that are made one by one and not kept: Linux only, elsewhere it is 0.

use std::io::Write as _;
use std::time::{Duration, Instant};

use ringfence_engine::generate::{Rng, Segmented};
use ringfence_engine::{Planner, Scope};
use ringfence_model::{
    Action, IpBlock, Labels, Name, Namespace, NamespaceSelection, Object, ObjectKey, Peer, Peers, PodSelection, Policy,
    PolicyId, PolicyKind, Ports, Rule, Selector, Tier,
};

/// One measured quantity.
struct Figure {
    name: String,
    unit: &'static str,
    p50: f64,
    p99: f64,
    target: Option<f64>,
}

fn main() -> std::io::Result<()> {
    let json = std::env::args().any(|argument| argument == "--json");
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if has("cold") {
        // For a profiler.
        let shape = Segmented { namespaces: 200, workloads: 48, pods: 100_000, local: 250, blocks: true };
        let objects: Vec<_> = shape.objects().collect();
        let start = Instant::now();
        for _ in 0..10 {
            let mut planner = Planner::new(Scope::Node("node0".into()));
            objects.iter().cloned().for_each(|object| planner.apply(object));
            drop(planner.commit());
        }
        return writeln!(std::io::stdout(), "{:?}", start.elapsed() / 10);
    }
    let only_one_pod = has("one-pod");
    let mut figures = Vec::new();
    if !only_one_pod {
        // Memory first: later on the allocator has holes to fill.
        for blocks in [false, true] {
            segmented(blocks, &mut figures);
        }
    }
    one_pod(&mut figures);
    let mut out = std::io::stdout().lock();
    if json {
        let lines: Vec<_> = figures.iter().map(Figure::json).collect();
        return writeln!(out, "[{}]", lines.join(","));
    }
    writeln!(out, "{:<58} {:>10} {:>10} {:>10}", "", "P50", "P99", "target")?;
    for Figure { name, unit, p50, p99, target } in figures {
        let target = target.map(|target| format!("< {target} {unit}")).unwrap_or_default();
        writeln!(out, "{name:<58} {p50:>7.1} {unit:<2} {p99:>7.1} {unit:<2} {target:>10}")?;
    }
    Ok(())
}

impl Figure {
    fn json(&self) -> String {
        let Self { name, unit, p50, p99, target } = self;
        let target = target.map_or_else(|| "null".to_owned(), |target| target.to_string());
        format!(r#"{{"name":"{name}","unit":"{unit}","p50":{p50:.3},"p99":{p99:.3},"target":{target}}}"#)
    }

    fn single(name: String, unit: &'static str, value: f64, target: Option<f64>) -> Self {
        Self { name, unit, p50: value, p99: value, target }
    }

    /// Percentiles of times, in microseconds or milliseconds.
    fn times(name: String, unit: &'static str, mut times: Vec<Duration>, target: Option<f64>) -> Self {
        times.sort_unstable();
        let scale = if unit == "ms" { 1e3 } else { 1e6 };
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * scale;
        Self { name, unit, p50: at(50), p99: at(99), target }
    }
}

/// Resident memory of this process in MiB.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096.0 / f64::from(1 << 20)
}

fn timed(planner: &mut Planner, event: impl FnOnce(&mut Planner)) -> Duration {
    let start = Instant::now();
    event(planner);
    let deltas = planner.commit();
    let time = start.elapsed();
    drop(deltas);
    time
}

fn segmented(blocks: bool, figures: &mut Vec<Figure>) {
    let shape = Segmented { namespaces: 200, workloads: 48, pods: 100_000, local: 250, blocks };
    let label = if blocks { "with ipBlocks" } else { "selectors" };
    let before = resident();
    let mut planner = Planner::new(Scope::Node("node0".into()));
    shape.objects().for_each(|object| planner.apply(object));
    drop(planner.commit());
    figures.push(Figure::single(format!("memory, {label}"), "MB", resident() - before, Some(64.0)));
    drop(planner);

    let cold = (0..5).map(|_| {
        let objects: Vec<_> = shape.objects().collect();
        let mut planner = Planner::new(Scope::Node("node0".into()));
        timed(&mut planner, |planner| objects.into_iter().for_each(|object| planner.apply(object)))
    });
    figures.push(Figure::times(format!("cold plan, {label}"), "ms", cold.collect(), Some(1000.0)));

    let mut planner = Planner::new(Scope::Node("node0".into()));
    planner.reset(shape.objects());
    planner.commit();
    pod_events(&shape, label, &mut planner, figures);
    policy_events(&shape, label, &mut planner, figures);
}

fn pod_events(shape: &Segmented, label: &str, planner: &mut Planner, figures: &mut Vec<Figure>) {
    let rng = &mut Rng::new(1);
    let (mut relabel, mut delete, mut create, mut local) = (vec![], vec![], vec![], vec![]);
    for _ in 0..2000 {
        let number = rng.below(shape.pods);
        let pod = shape.pod(number);
        let mut changed = pod.clone();
        changed.labels.insert("tier", *rng.pick(&["front", "mid", "data", "new"]));
        changed.labels.insert("idx", format!("changed-{number}"));
        relabel.push(timed(planner, |planner| planner.apply(Object::Pod(changed))));
        delete.push(timed(planner, |planner| planner.delete(&ObjectKey::Pod(pod.key.clone()))));
        create.push(timed(planner, |planner| planner.apply(Object::Pod(pod))));
    }
    let locals = (0..shape.pods).map(|number| shape.pod(number)).filter(|pod| pod.node.as_deref() == Some("node0"));
    for pod in locals {
        local.push(timed(planner, |planner| planner.delete(&ObjectKey::Pod(pod.key.clone()))));
        local.push(timed(planner, |planner| planner.apply(Object::Pod(pod))));
    }
    for (name, times) in [("relabelled", relabel), ("deleted", delete), ("created", create)] {
        figures.push(Figure::times(format!("pod event, {label}: {name}"), "us", times, Some(50.0)));
    }
    figures.push(Figure::times(format!("pod event, {label}: on this node"), "us", local, Some(50.0)));
}

fn policy_events(shape: &Segmented, label: &str, planner: &mut Planner, figures: &mut Vec<Figure>) {
    let rng = &mut Rng::new(2);
    let (mut anywhere, mut concerning) = (vec![], vec![]);
    let locals = (0..shape.pods).map(|number| shape.pod(number)).filter(|pod| pod.node.as_deref() == Some("node0"));
    let locals: Vec<_> = locals.collect();
    for _ in 0..1000 {
        let number = rng.below(shape.policies());
        let generation = 2 + u16::try_from(rng.below(20)).unwrap_or_default();
        let policy = shape.policy(number, generation);
        let selects = locals.iter().any(|pod| {
            policy.subject.namespaces == NamespaceSelection::Named(Name::clone(&pod.key.namespace))
                && policy.subject.pods.matches(&pod.labels)
        });
        let times = if selects { &mut concerning } else { &mut anywhere };
        let id = policy.id.clone();
        times.push(timed(planner, |planner| planner.apply(Object::Policy(policy))));
        times.push(timed(planner, |planner| planner.delete(&ObjectKey::Policy(id))));
        times.push(timed(planner, |planner| planner.apply(Object::Policy(shape.policy(number, 1)))));
    }
    figures.push(Figure::times(format!("policy event, {label}: of other nodes' pods"), "us", anywhere, Some(5000.0)));
    figures.push(Figure::times(format!("policy event, {label}: of this node's pods"), "us", concerning, Some(5000.0)));
}

/// 10,000 policies on one pod, each with a block of its own.
fn one_pod(figures: &mut Vec<Figure>) {
    let shape = Segmented { namespaces: 1, workloads: 1, pods: 1, local: 1, blocks: false };
    let policy = |number: u32, generation: i64| {
        let block = ipnet::Ipv4Net::new_assert((0x1000_0000 + (number << 8)).into(), 24);
        let peers = Peers::List(vec![Peer::Block(IpBlock::new(block.into(), []))]);
        let namespace: Name = "ns0".into();
        Policy {
            id: PolicyId {
                kind: PolicyKind::NetworkPolicy,
                namespace: Some(Name::clone(&namespace)),
                name: format!("policy{number}").into(),
            },
            uid: format!("uid{number}").into(),
            generation,
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: PodSelection { namespaces: NamespaceSelection::Named(namespace), pods: Selector::everything() },
            ingress: Some(vec![Rule { name: None, action: Action::Accept, peers, ports: Ports::Any }]),
            egress: None,
        }
    };
    let mut planner = Planner::new(Scope::Node("node0".into()));
    planner.apply(Object::Namespace(Namespace { name: "ns0".into(), labels: Labels::default() }));
    planner.apply(Object::Pod(shape.pod(0)));
    let policies: Vec<_> = (0..10_000).map(|number| Object::Policy(policy(number, 1))).collect();
    let cold = timed(&mut planner, |planner| policies.into_iter().for_each(|policy| planner.apply(policy)));
    figures.push(Figure::times("cold plan, 10,000 policies on one pod".to_owned(), "ms", vec![cold], None));
    let rng = &mut Rng::new(3);
    let events = (0..100).map(|generation| {
        let number = u32::try_from(rng.below(10_000)).unwrap_or_default();
        timed(&mut planner, |planner| planner.apply(Object::Policy(policy(number, 2 + generation))))
    });
    let events = events.collect();
    figures.push(Figure::times("policy event, 10,000 policies on one pod".to_owned(), "ms", events, Some(10.0)));
}
