//! A big segmented cluster, as a careful operator would have it: for each namespace a default deny and an allowance to
//! talk to all namespaces, for each workload an allowance from one workload of the same namespace and from the
//! `tier=front` pods of one other.

use std::net::Ipv4Addr;

use ringfence_model::{
    Action, ContainerPort, IpBlock, Labels, Name, Namespace, NamespaceSelection, Node, Object, Peer, Peers, Pod,
    PodKey, PodPhase, PodSelection, Policy, PolicyId, PolicyKind, PortMatch, PortRange, Ports, Protocol, Requirement,
    Rule, Selector, Tier,
};

use super::Rng;

/// Shape of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Segmented {
    /// Number of namespaces.
    pub namespaces: usize,
    /// Workloads per namespace.
    pub workloads: usize,
    /// Pods of the whole cluster, spread over the workloads.
    pub pods: usize,
    /// Pods on `node0`.
    pub local: usize,
    /// Each workload may also connect to a CIDR outside of the cluster.
    pub blocks: bool,
    /// Cluster-wide policies, every second one in the Baseline tier.
    pub tiers: usize,
}

impl Segmented {
    /// All objects, made one by one. Policies are last.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let namespaces = (0..self.namespaces).map(|number| Object::Namespace(namespace(number)));
        let pods = (0..self.pods).map(|number| Object::Pod(self.pod(number)));
        let node = Node {
            name: "node0".into(),
            labels: Labels::default(),
            addresses: vec![Ipv4Addr::new(192, 168, 0, 1).into()],
            pod_cidrs: Vec::new(),
        };
        let policies = (0..self.policies()).map(|number| Object::Policy(self.policy(number, 1)));
        let tiered = (0..self.tiers).map(|number| Object::Policy(self.tiered_policy(number, 1)));
        namespaces.chain([Object::Node(node)]).chain(pods).chain(policies).chain(tiered)
    }

    /// The number of policies in namespaces.
    pub fn policies(&self) -> usize {
        self.namespaces * (self.workloads + 2)
    }

    /// A pod, by number.
    pub fn pod(&self, number: usize) -> Pod {
        let workload = number % (self.namespaces * self.workloads);
        let (namespace, k) = (workload % self.namespaces, workload / self.namespaces);
        // Numbers that lie far apart, so that the node has pods of many workloads.
        let local = (number * 7919) % self.pods < self.local;
        let node = if local { 0 } else { 1 + number % 400 };
        let tier = TIERS[k % 3];
        let labels = [
            ("app", format!("w{k}")),
            ("tier", tier.to_owned()),
            ("idx", format!("i{namespace}-{k}")),
            ("pod-template-hash", format!("{:08x}", workload * 2_654_435_761 % (1 << 32))),
        ];
        Pod {
            key: PodKey {
                namespace: format!("ns{namespace}").into(),
                name: format!("w{k}-{:08x}-{number:05x}", workload * 2_654_435_761 % (1 << 32)).into(),
            },
            uid: format!("{number:08x}-0000-4000-8000-{number:012x}").into(),
            labels: labels.into_iter().map(|(key, value)| (key, Name::from(value))).collect(),
            node: Some(format!("node{node}").into()),
            addresses: vec![Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap_or_default()).into()],
            host_network: false,
            phase: PodPhase::Running,
            terminating: false,
            created: 1_700_000_000,
            ports: vec![ContainerPort { name: "http".into(), protocol: Protocol::TCP, port: port(k) }],
        }
    }

    /// A policy, by number, as of a generation: from one to the next its port changes.
    pub fn policy(&self, number: usize, generation: u16) -> Policy {
        let (n, k) = (number / (self.workloads + 2), number % (self.workloads + 2));
        let own: Name = format!("ns{n}").into();
        let any = |action| Rule { name: None, action, peers: Peers::Any, ports: Ports::Any };
        let pods = |namespaces, pods| Peer::Pods(PodSelection { namespaces, pods });
        let (name, subject, ingress, egress) = match k.checked_sub(2) {
            None if k == 0 => ("default-deny".to_owned(), Selector::everything(), Some(vec![]), Some(vec![])),
            None => {
                let everywhere = pods(NamespaceSelection::Matching(Selector::everything()), Selector::everything());
                let rule = Rule { peers: Peers::List(vec![everywhere]), ..any(Action::Accept) };
                ("egress-ns".to_owned(), Selector::everything(), None, Some(vec![rule]))
            }
            Some(k) => {
                let mut rng = Rng::new(number as u64);
                let other = format!("ns{}", rng.below(self.namespaces));
                let other = NamespaceSelection::Matching(with("kubernetes.io/metadata.name", &other));
                let neighbour = with("app", &format!("w{}", (k + 1) % self.workloads));
                let peers = vec![
                    pods(NamespaceSelection::Named(Name::clone(&own)), neighbour),
                    pods(other, with("tier", "front")),
                ];
                let ports = only(port(k) + generation - 1);
                let ingress = Rule { peers: Peers::List(peers), ports, ..any(Action::Accept) };
                let egress = self.blocks.then(|| {
                    let net =
                        Ipv4Addr::new(small(&mut rng, 11, 100), small(&mut rng, 0, 256), small(&mut rng, 0, 256), 0);
                    let block = ipnet::Ipv4Net::new_assert(net, 24).into();
                    let peers = Peers::List(vec![Peer::Block(IpBlock::new(block, []))]);
                    vec![Rule { peers, ports: only(443), ..any(Action::Accept) }]
                });
                (format!("allow-w{k}"), with("app", &format!("w{k}")), Some(vec![ingress]), egress)
            }
        };
        Policy {
            id: PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some(Name::clone(&own)), name: name.into() },
            uid: format!("{number:08x}-1111-4000-8000-{number:012x}").into(),
            generation: generation.into(),
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: PodSelection { namespaces: NamespaceSelection::Named(own), pods: subject },
            ingress,
            egress,
            rules_withheld: false,
        }
    }

    /// A cluster-wide policy by number, as of a generation. It has 25 rules for the namespaces of one team. Most are
    /// about the pods of one application tier in the namespaces of another team, some about CIDRs outside of the
    /// cluster.
    pub fn tiered_policy(&self, number: usize, generation: u16) -> Policy {
        let mut rng = Rng::new(number as u64);
        let team = |number: usize| NamespaceSelection::Matching(with("team", &format!("t{}", number % 10)));
        let mut rule = |index: usize| {
            let peer = if index < BLOCKS {
                Peer::Pods(PodSelection {
                    namespaces: team(rng.below(10)),
                    pods: with("tier", rng.pick::<&str>(&TIERS)),
                })
            } else {
                let net = [small(&mut rng, 100, 120), small(&mut rng, 0, 256), small(&mut rng, 0, 256), 0];
                Peer::Block(IpBlock::new(ipnet::Ipv4Net::new_assert(net.into(), 24).into(), []))
            };
            Rule {
                name: Some(format!("rule-{index}").into()),
                action: rng.pick(&[Action::Accept, Action::Deny, Action::Pass]).clone(),
                peers: Peers::List(vec![peer]),
                ports: only(port(rng.below(20)) + generation - 1),
            }
        };
        let (ingress, egress) = ((0..INGRESS).map(&mut rule).collect(), (INGRESS..25).map(&mut rule).collect());
        Policy {
            id: PolicyId {
                kind: PolicyKind::ClusterNetworkPolicy,
                namespace: None,
                name: format!("tiered-{number}").into(),
            },
            uid: format!("{number:08x}-2222-4000-8000-{number:012x}").into(),
            generation: generation.into(),
            tier: if number.is_multiple_of(2) { Tier::Admin } else { Tier::Baseline },
            priority: u32::try_from(number % 1000).unwrap_or_default(),
            subject: PodSelection { namespaces: team(number), pods: Selector::everything() },
            ingress: Some(ingress),
            egress: Some(egress),
            rules_withheld: false,
        }
    }
}

/// The tiers of applications.
const TIERS: [&str; 3] = ["front", "mid", "data"];

/// Ingress rules of a cluster-wide policy, of 25 rules.
const INGRESS: usize = 13;
/// The rules from this one on are about addresses.
const BLOCKS: usize = 19;

fn namespace(number: usize) -> Namespace {
    let name: Name = format!("ns{number}").into();
    let team: Name = format!("t{}", number % 10).into();
    let labels = [("team", team), ("kubernetes.io/metadata.name", Name::clone(&name))];
    Namespace { name, labels: labels.into_iter().collect(), terminating: false }
}

fn small(rng: &mut Rng, first: usize, end: usize) -> u8 {
    u8::try_from(first + rng.below(end - first)).unwrap_or_default()
}

fn port(workload: usize) -> u16 {
    8000 + u16::try_from(workload % 20).unwrap_or_default()
}

fn only(port: u16) -> Ports {
    Ports::List(vec![PortMatch::Range(PortRange::single(Protocol::TCP, port))])
}

fn with(key: &str, value: &str) -> Selector {
    [Requirement::In { key: key.into(), values: [Name::from(value)].into() }].into_iter().collect()
}
