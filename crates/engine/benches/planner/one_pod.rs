//! 10,000 policies on one pod, each with an `ipBlock` of its own, every second one with a port.

use ringfence_engine::generate::{Rng, Segmented};
use ringfence_engine::{Planner, Scope};
use ringfence_model::{
    Action, IpBlock, Labels, Name, Namespace, NamespaceSelection, Object, ObjectKey, Peer, Peers, PodSelection, Policy,
    PolicyId, PolicyKind, PortMatch, PortRange, Ports, Protocol, Rule, Selector, Tier,
};

use crate::figure::Figure;
use crate::timed;

/// The longest time of an event, in milliseconds.
const TARGET: Option<f64> = Some(5.0);

pub(crate) fn run(figures: &mut Vec<Figure>) {
    let mut planner = Planner::new(Scope::Node("node0".into()));
    planner.apply(Object::Namespace(Namespace { name: "ns0".into(), labels: Labels::default(), terminating: false }));
    let pod = Segmented { namespaces: 1, workloads: 1, pods: 1, local: 1, ..Segmented::default() }.pod(0);
    planner.apply(Object::Pod(pod.clone()));
    let policies: Vec<_> = (0..10_000).map(|number| Object::Policy(policy(number, 1))).collect();
    let cold = timed(&mut planner, |planner| policies.into_iter().for_each(|policy| planner.apply(policy)));
    figures.push(Figure::times("cold plan, 10,000 policies on one pod".to_owned(), "ms", vec![cold], None));

    let rng = &mut Rng::new(3);
    let (mut changed, mut deleted, mut created) = (vec![], vec![], vec![]);
    for generation in 0..100 {
        let number = u32::try_from(rng.below(10_000)).unwrap_or_default();
        let policy = policy(number, 2 + generation);
        changed.push(timed(&mut planner, |planner| planner.apply(Object::Policy(policy.clone()))));
        deleted.push(timed(&mut planner, |planner| planner.delete(&ObjectKey::Policy(policy.id.clone()))));
        created.push(timed(&mut planner, |planner| planner.apply(Object::Policy(policy))));
    }
    let relabelled = |round: usize| {
        let mut pod = pod.clone();
        pod.labels = [("round", format!("r{}", round % 3).as_str())].into_iter().collect();
        timed(&mut planner, |planner| planner.apply(Object::Pod(pod)))
    };
    let relabelled = (0..100).map(relabelled).collect();
    let name = "pod event, 10,000 policies on one pod: relabelled".to_owned();
    figures.push(Figure::times(name, "ms", relabelled, TARGET));
    for (what, times) in [("changed", changed), ("deleted", deleted), ("created", created)] {
        let name = format!("policy event, 10,000 policies on one pod: {what}");
        figures.push(Figure::times(name, "ms", times, TARGET));
    }
}

fn policy(number: u32, generation: i64) -> Policy {
    let block = ipnet::Ipv4Net::new_assert((0x1000_0000 + (number << 8)).into(), 24);
    let peers = Peers::List(vec![Peer::Block(IpBlock::new(block.into(), []))]);
    let ports = match number % 2 {
        0 => Ports::Any,
        _ => Ports::List(vec![PortMatch::Range(PortRange::single(Protocol::TCP, 443))]),
    };
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
        ingress: Some(vec![Rule { name: None, action: Action::Accept, peers, ports }]),
        egress: None,
        rules_withheld: false,
    }
}
