//! Random policies.

use std::collections::BTreeSet;

use ipnet::IpNet;
use ringfence_model::{
    Action, IpBlock, Name, NamespaceSelection, Peer, Peers, PodSelection, Policy, PolicyId, PolicyKind, PortMatch,
    PortRange, Ports, Requirement, Rule, Selector, Tier,
};

use super::{Rng, Settings, domains, label_key, name, port, protocol};

impl Settings {
    /// A random policy.
    pub fn policy(&self, rng: &mut Rng) -> Policy {
        if self.tiers && rng.percent(40) { self.cluster_policy(rng) } else { self.network_policy(rng) }
    }

    fn network_policy(&self, rng: &mut Rng) -> Policy {
        let namespace = name("n", rng.below(self.namespaces));
        let tier = Tier::NetworkPolicy;
        let rules = |rng: &mut Rng| {
            rng.percent(60).then(|| (0..rng.below(4)).map(|_| Self::rule(rng, tier, &namespace)).collect())
        };
        let (ingress, egress) = (rules(rng), rules(rng));
        let id = PolicyId {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(Name::clone(&namespace)),
            name: name("policy", rng.below(self.policies)),
        };
        let subject = PodSelection { namespaces: NamespaceSelection::Named(namespace), pods: selector(rng) };
        Policy {
            id,
            uid: uid(rng),
            generation: generation(rng),
            tier,
            priority: 0,
            subject,
            ingress,
            egress,
            rules_withheld: false,
        }
    }

    fn cluster_policy(&self, rng: &mut Rng) -> Policy {
        let tier = *rng.pick(&[Tier::Admin, Tier::Baseline]);
        let namespace = name("n", rng.below(self.namespaces));
        let rules = |rng: &mut Rng| {
            rng.percent(70).then(|| (0..rng.below(4)).map(|_| Self::rule(rng, tier, &namespace)).collect())
        };
        let (ingress, egress) = (rules(rng), rules(rng));
        let older =
            if tier == Tier::Admin { PolicyKind::AdminNetworkPolicy } else { PolicyKind::BaselineAdminNetworkPolicy };
        let kind = if rng.percent(15) { older } else { PolicyKind::ClusterNetworkPolicy };
        // One name for several kinds, so that only the kind distinguishes them.
        let name = name("policy", rng.below(self.policies));
        Policy {
            id: PolicyId { kind, namespace: None, name },
            uid: uid(rng),
            generation: generation(rng),
            tier,
            priority: u32::try_from(rng.below(3)).unwrap_or_default(),
            subject: PodSelection { namespaces: NamespaceSelection::Matching(selector(rng)), pods: selector(rng) },
            ingress,
            egress,
            rules_withheld: false,
        }
    }

    fn rule(rng: &mut Rng, tier: Tier, own: &Name) -> Rule {
        let action = match rng.below(8) {
            _ if tier == Tier::NetworkPolicy => Action::Accept,
            0..=2 => Action::Accept,
            3 | 4 => Action::Deny,
            5 | 6 => Action::Pass,
            _ if rng.percent(30) => Action::Unknown("Log".into()),
            _ => Action::Deny,
        };
        let peers = if rng.percent(25) {
            Peers::Any
        } else if tier != Tier::NetworkPolicy && rng.percent(40) {
            Peers::List((0..=rng.below(3)).map(|_| host(rng)).collect())
        } else {
            let few = rng.below(3);
            let count = if rng.percent(5) { 10 } else { few };
            Peers::List((0..=count).map(|_| Self::peer(rng, tier, own)).collect())
        };
        let ports = if rng.percent(35) {
            Ports::Any
        } else {
            let few = (0..=rng.below(3)).map(|_| port_match(rng)).collect();
            Ports::List(if rng.percent(4) { many_ports(rng) } else { few })
        };
        Rule { name: rng.percent(20).then(|| name("rule", rng.below(3))), action, peers, ports }
    }

    fn peer(rng: &mut Rng, tier: Tier, own: &Name) -> Peer {
        match rng.below(10) {
            // A cluster-wide policy has no namespace of its own.
            0..=2 if tier == Tier::NetworkPolicy || rng.percent(20) => Peer::Pods(PodSelection {
                namespaces: NamespaceSelection::Named(Name::clone(own)),
                pods: selector(rng),
            }),
            0 if tier != Tier::NetworkPolicy => host(rng),
            3..=5 => Peer::Pods(PodSelection {
                namespaces: NamespaceSelection::Matching(selector(rng)),
                pods: selector(rng),
            }),
            _ if rng.percent(3) => Peer::Unknown("a new kind of peer".into()),
            _ => Peer::Block(block(rng)),
        }
    }
}

/// Nodes or domain names.
fn host(rng: &mut Rng) -> Peer {
    if rng.percent(40) { Peer::Nodes(selector(rng)) } else { Peer::Domain(domains::pattern(rng)) }
}

fn uid(rng: &mut Rng) -> Name {
    format!("uid-{}", rng.below(1000)).into()
}

fn generation(rng: &mut Rng) -> i64 {
    i64::try_from(rng.below(5)).unwrap_or_default()
}

fn selector(rng: &mut Rng) -> Selector {
    let count = *rng.pick(&[0, 0, 0, 1, 1, 2]);
    let requirements = (0..count).map(|_| {
        let key = label_key(rng);
        let values: BTreeSet<Name> = (0..=rng.below(2)).map(|_| name("v", rng.below(2))).collect();
        match rng.below(8) {
            0..=3 => Requirement::In { key, values },
            4 | 5 => Requirement::NotIn { key, values },
            6 => Requirement::Exists { key },
            _ => Requirement::DoesNotExist { key },
        }
    });
    requirements.collect()
}

/// Ports that are not adjacent, which make a port table of many ranges.
fn many_ports(rng: &mut Rng) -> Vec<PortMatch> {
    let protocol = protocol(rng);
    let (step, count) = (2 + rng.below(3), 20 + rng.below(30));
    let first = |number: usize| u16::try_from(60 + number * step).unwrap_or(u16::MAX);
    (0..count)
        .map(|number| PortMatch::Range(PortRange { protocol, first: first(number), last: first(number) }))
        .collect()
}

fn port_match(rng: &mut Rng) -> PortMatch {
    match rng.below(10) {
        0..=5 => {
            let (a, b) = (if rng.percent(5) { 0 } else { port(rng) }, port(rng));
            let last = if rng.percent(40) { a.max(b) } else { a.min(b) };
            PortMatch::Range(PortRange { protocol: protocol(rng), first: a.min(b), last })
        }
        6 => PortMatch::Range(PortRange::all(protocol(rng))),
        _ if rng.percent(2) => PortMatch::Unknown("icmp".into()),
        _ => PortMatch::Named { protocol: rng.percent(50).then(|| protocol(rng)), name: name("p", rng.below(3)) },
    }
}

/// Around, at and inside the addresses of pods and nodes; host bits may be set.
pub(super) fn net(rng: &mut Rng, v6: bool) -> IpNet {
    let pool: &[&str] = if v6 {
        &[
            "::/0",
            // A CIDR around all of IPv4 as mapped into IPv6, which matches no IPv4 address.
            "::/90",
            "fd00::/16",
            "fd00::/60",
            "fd00:0:0:1::/64",
            "fd00:0:0:1::7/125",
            "fd00::3/128",
            "fd00:1::/64",
            "fd00:2::8/125",
        ]
    } else {
        &[
            "0.0.0.0/0",
            "10.1.2.3/8",
            "10.0.0.0/16",
            "10.0.1.0/24",
            "10.0.1.0/28",
            "10.0.0.4/30",
            "10.0.1.7/30",
            "10.0.0.3/32",
            "10.0.1.5/32",
            "192.168.0.0/24",
            "192.168.0.1/32",
            "203.0.113.0/28",
            "203.0.113.5/32",
        ]
    };
    rng.pick(pool).parse().unwrap_or_default()
}

fn block(rng: &mut Rng) -> IpBlock {
    let v6 = rng.percent(30);
    let except: Vec<_> = (0..rng.below(3)).map(|_| net(rng, v6)).collect();
    let cidr = net(rng, v6);
    // An `except` has to lie inside of the `cidr`; others have no effect. A few of those are kept.
    let except = except.into_iter().filter(|net| {
        let inside = cidr.trunc().contains(&net.trunc()) && cidr.prefix_len() < net.prefix_len();
        inside || net.prefix_len() == 30
    });
    IpBlock::new(cidr, except)
}
