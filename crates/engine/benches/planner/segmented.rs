//! The segmented cluster, in shapes with growing demands on the planner.

use std::io::{self, Write as _};
use std::process::Command;

use ringfence_engine::generate::{Rng, Segmented};
use ringfence_engine::{Planner, Scope};
use ringfence_model::{Name, NamespaceSelection, Object, ObjectKey, Pod, Policy};

use crate::figure::Figure;
use crate::timed;

/// Memory target of a planner, in MiB.
const MEMORY: Option<f64> = Some(64.0);
/// Target of the first plan, in milliseconds.
const COLD: Option<f64> = Some(1000.0);
/// Target of a pod event, in microseconds.
const POD_EVENT: Option<f64> = Some(50.0);
/// Target of a policy event, in microseconds.
const POLICY_EVENT: Option<f64> = Some(5000.0);

/// A cluster and its name.
pub(crate) struct Shape {
    label: &'static str,
    cluster: Segmented,
}

/// 10,000 NetworkPolicies about pods; the same with an `ipBlock` each; and with 1,000 cluster-wide policies in
/// addition.
pub(crate) const SHAPES: [Shape; 3] = [
    Shape { label: "selectors", cluster: cluster(false, 0) },
    Shape { label: "with ipBlocks", cluster: cluster(true, 0) },
    Shape { label: "with tiers", cluster: cluster(true, 1000) },
];

const fn cluster(blocks: bool, tiers: usize) -> Segmented {
    Segmented { namespaces: 200, workloads: 48, pods: 100_000, local: 250, blocks, tiers }
}

impl Shape {
    fn locals(&self) -> impl Iterator<Item = Pod> {
        (0..self.cluster.pods).map(|number| self.cluster.pod(number)).filter(|pod| pod.node.as_deref() == Some("node0"))
    }
}

fn node() -> Planner {
    Planner::new(Scope::Node("node0".into()))
}

/// Returns a planner with a plan.
pub(crate) fn planned(shape: &Shape) -> Planner {
    let mut planner = node();
    planner.reset(shape.cluster.objects());
    planner.commit();
    planner
}

/// Memory of a planner, measured in a process of its own, because an allocator with free space would show too little.
pub(crate) fn memory(number: usize, shape: &Shape, figures: &mut Vec<Figure>) -> io::Result<()> {
    let output = Command::new(std::env::current_exe()?).args(["memory", &number.to_string()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let megabytes = text.trim().parse().map_err(|error| io::Error::other(format!("{text:?} is no number: {error}")))?;
    figures.push(Figure::single(format!("memory, {}", shape.label), "MB", megabytes, MEMORY));
    Ok(())
}

/// Runs in that process: prints the memory.
pub(crate) fn print_memory(shape: &Shape) -> io::Result<()> {
    let before = resident();
    let mut planner = node();
    shape.cluster.objects().for_each(|object| planner.apply(object));
    drop(planner.commit());
    writeln!(io::stdout(), "{}", resident() - before)?;
    drop(planner);
    Ok(())
}

/// Resident memory of this process in MiB.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096.0 / f64::from(1 << 20)
}

pub(crate) fn cold(shape: &Shape, figures: &mut Vec<Figure>) {
    let cold = (0..5).map(|_| {
        let objects: Vec<_> = shape.cluster.objects().collect();
        timed(&mut node(), |planner| objects.into_iter().for_each(|object| planner.apply(object)))
    });
    figures.push(Figure::times(format!("cold plan, {}", shape.label), "ms", cold.collect(), COLD));
}

pub(crate) fn pod_events(shape: &Shape, planner: &mut Planner, figures: &mut Vec<Figure>) {
    let rng = &mut Rng::new(1);
    let (mut relabel, mut delete, mut create) = (vec![], vec![], vec![]);
    for _ in 0..2000 {
        let number = rng.below(shape.cluster.pods);
        let pod = shape.cluster.pod(number);
        let mut changed = pod.clone();
        changed.labels.insert("tier", *rng.pick(&["front", "mid", "data", "new"]));
        changed.labels.insert("idx", format!("changed-{number}"));
        relabel.push(timed(planner, |planner| planner.apply(Object::Pod(changed))));
        delete.push(timed(planner, |planner| planner.delete(&ObjectKey::Pod(pod.key.clone()))));
        create.push(timed(planner, |planner| planner.apply(Object::Pod(pod))));
    }
    for (what, times) in [("relabelled", relabel), ("deleted", delete), ("created", create)] {
        figures.push(Figure::times(format!("pod event, {}: {what}", shape.label), "us", times, POD_EVENT));
    }
}

/// Pods of this node are deleted and created again, most of them the only pod of their workload here.
pub(crate) fn local_pod_events(shape: &Shape, rounds: usize, planner: &mut Planner, figures: &mut Vec<Figure>) {
    let locals: Vec<_> = shape.locals().collect();
    let mut times = Vec::new();
    for pod in std::iter::repeat_n(locals, rounds).flatten() {
        times.push(timed(planner, |planner| planner.delete(&ObjectKey::Pod(pod.key.clone()))));
        times.push(timed(planner, |planner| planner.apply(Object::Pod(pod))));
    }
    figures.push(Figure::times(format!("pod event, {}: on this node", shape.label), "us", times, POD_EVENT));
}

pub(crate) fn policy_events(shape: &Shape, planner: &mut Planner, figures: &mut Vec<Figure>) {
    let rng = &mut Rng::new(2);
    let locals: Vec<_> = shape.locals().collect();
    let concerns = |policy: &Policy| {
        let own = |pod: &Pod| policy.subject.namespaces == NamespaceSelection::Named(Name::clone(&pod.key.namespace));
        locals.iter().any(|pod| own(pod) && policy.subject.pods.matches(&pod.labels))
    };
    let (mut anywhere, mut concerning, mut tiers) = (vec![], vec![], vec![]);
    let event = |planner: &mut Planner, times: &mut Vec<_>, [changed, original]: [Policy; 2]| {
        let id = changed.id.clone();
        times.push(timed(planner, |planner| planner.apply(Object::Policy(changed))));
        times.push(timed(planner, |planner| planner.delete(&ObjectKey::Policy(id))));
        times.push(timed(planner, |planner| planner.apply(Object::Policy(original))));
    };
    for _ in 0..1000 {
        let number = rng.below(shape.cluster.policies());
        let generation = 2 + u16::try_from(rng.below(20)).unwrap_or_default();
        let policies = [generation, 1].map(|generation| shape.cluster.policy(number, generation));
        let times = if concerns(&policies[0]) { &mut concerning } else { &mut anywhere };
        event(planner, times, policies);
    }
    for _ in 0..20.min(shape.cluster.tiers) {
        let number = rng.below(shape.cluster.tiers);
        event(planner, &mut tiers, [2, 1].map(|generation| shape.cluster.tiered_policy(number, generation)));
    }
    let rows = [("of other nodes' pods", anywhere), ("of this node's pods", concerning), ("cluster-wide", tiers)];
    for (what, times) in rows.into_iter().filter(|(_, times)| !times.is_empty()) {
        figures.push(Figure::times(format!("policy event, {}: {what}", shape.label), "us", times, POLICY_EVENT));
    }
}
