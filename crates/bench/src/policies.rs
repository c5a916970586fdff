//! A world of two pods and many policies that all select one of them, for measurements of packets.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use ringfence_engine::{Plan, Planner, Scope};
use ringfence_model::{
    Action, IpBlock, Labels, Name, Namespace, NamespaceSelection, Node, Object, Peer, Peers, Pod, PodKey, PodPhase,
    PodSelection, Policy, PolicyId, PolicyKind, PortMatch, PortRange, Ports, Protocol, Requirement, Rule, Selector,
    Tier,
};

const NODE: &str = "bench";
const NAMESPACE: &str = "bench";

/// So many sources, none of which is a pod.
pub(crate) fn strangers(count: usize) -> Vec<Ipv4Addr> {
    let stranger = |number: usize| {
        let [_, high, middle, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        Ipv4Addr::new(198, 18 + (high & 1), middle, low)
    };
    (0..count).map(stranger).collect()
}

/// Rules of a cluster-wide policy: as many as the API takes.
pub(crate) const RULES: usize = 25;

/// The plan of the node on which both pods run: each source is allowed by a policy of its own.
pub(crate) fn plan(client: Ipv4Addr, server: Ipv4Addr, sources: &[Ipv4Addr]) -> Plan {
    plan_of(client, server, (0..).zip(sources).map(|(number, source)| policy(number, *source)))
}

/// The plan of the node on which both pods run, with so many ClusterNetworkPolicies of [`RULES`] rules. Each rule says
/// something about every pod; at the end nobody may enter the server, but for the client if it is allowed.
pub(crate) fn cluster_wide(client: Ipv4Addr, server: Ipv4Addr, policies: usize, allowed: bool) -> Plan {
    plan_of(client, server, (1..=policies).map(|number| cluster_policy(number, number == policies, allowed)))
}

fn plan_of(client: Ipv4Addr, server: Ipv4Addr, policies: impl Iterator<Item = Policy>) -> Plan {
    let namespace = Namespace { name: Name::from(NAMESPACE), labels: Labels::default(), terminating: false };
    let mut objects = vec![
        Object::Namespace(namespace),
        Object::Node(node(client)),
        Object::Pod(pod("client", client)),
        Object::Pod(pod("server", server)),
    ];
    objects.extend(policies.map(Object::Policy));
    let mut planner = Planner::new(Scope::Node(Name::from(NODE)));
    planner.reset(objects);
    planner.commit();
    planner.plan()
}

fn node(pod: Ipv4Addr) -> Node {
    let range = Ipv4Net::new(pod, 24).map(|net| IpNet::V4(net.trunc()));
    Node {
        name: Name::from(NODE),
        labels: Labels::default(),
        addresses: Vec::new(),
        pod_cidrs: range.into_iter().collect(),
    }
}

fn pod(name: &str, address: Ipv4Addr) -> Pod {
    Pod {
        key: PodKey { namespace: Name::from(NAMESPACE), name: Name::from(name) },
        uid: Name::from(name),
        labels: [("app", name)].into_iter().collect(),
        node: Some(Name::from(NODE)),
        addresses: vec![IpAddr::V4(address)],
        host_network: false,
        phase: PodPhase::Running,
        terminating: false,
        created: 0,
        ports: Vec::new(),
    }
}

fn all_pods(pods: Selector) -> PodSelection {
    PodSelection { namespaces: NamespaceSelection::Matching(Selector::default()), pods }
}

fn with_label(app: &str) -> Selector {
    [Requirement::In { key: Name::from("app"), values: [Name::from(app)].into() }].into_iter().collect()
}

/// Selects the server. Its rules accept and deny ports that nobody uses, from any pod, each another one; the last
/// policy ends with what is said about the client and about everybody.
fn cluster_policy(number: usize, last: bool, allowed: bool) -> Policy {
    let name = Name::from(format!("c{number:06}"));
    let port = |index: usize| u16::try_from(8_000 + (number - 1) * RULES + index).unwrap_or(u16::MAX);
    let mut rules: Vec<Rule> = (0..RULES)
        .map(|index| {
            let range = PortRange { protocol: Protocol::TCP, first: port(index), last: port(index) };
            Rule {
                name: None,
                action: if index % 2 == 0 { Action::Accept } else { Action::Deny },
                peers: Peers::List(vec![Peer::Pods(all_pods(Selector::default()))]),
                ports: Ports::List(vec![PortMatch::Range(range)]),
            }
        })
        .collect();
    if last {
        let client = Peers::List(vec![Peer::Pods(all_pods(with_label("client")))]);
        let action = if allowed { Action::Accept } else { Action::Deny };
        rules[RULES - 2] = Rule { name: None, action, peers: client, ports: Ports::Any };
        rules[RULES - 1] = Rule { name: None, action: Action::Deny, peers: Peers::Any, ports: Ports::Any };
    }
    Policy {
        id: PolicyId { kind: PolicyKind::ClusterNetworkPolicy, namespace: None, name: Name::clone(&name) },
        uid: name,
        generation: 1,
        tier: Tier::Admin,
        priority: u32::try_from(number).unwrap_or(u32::MAX),
        subject: all_pods(with_label("server")),
        ingress: Some(rules),
        egress: None,
        rules_withheld: false,
    }
}

/// Lets one source into the server.
fn policy(number: usize, source: Ipv4Addr) -> Policy {
    let name = Name::from(format!("p{number:06}"));
    let from = Peer::Block(IpBlock::new(IpNet::from(IpAddr::V4(source)), []));
    let rule = Rule { name: None, action: Action::Accept, peers: Peers::List(vec![from]), ports: Ports::Any };
    Policy {
        id: PolicyId {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(Name::from(NAMESPACE)),
            name: Name::clone(&name),
        },
        uid: name,
        generation: 1,
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelection {
            namespaces: NamespaceSelection::Named(Name::from(NAMESPACE)),
            pods: with_label("server"),
        },
        ingress: Some(vec![rule]),
        egress: None,
        rules_withheld: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_all_different() {
        let strangers = strangers(100_000);
        let different: std::collections::BTreeSet<_> = strangers.iter().collect();
        assert_eq!(different.len(), strangers.len());
        assert!(strangers.iter().all(|address| matches!(address.octets(), [198, 18 | 19, ..])));
    }

    #[test]
    fn the_last_of_many_cluster_wide_rules_decides() {
        let (client, server) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        for allowed in [false, true] {
            let plan = cluster_wide(client, server, 20, allowed);
            let connection = ringfence_model::Connection {
                source: client.into(),
                destination: server.into(),
                protocol: Protocol::TCP,
                port: 7_000,
                origin: ringfence_model::Origin::Elsewhere,
                translated: false,
                established: false,
            };
            assert_eq!(plan.evaluate(&connection).ingress.allow, allowed);
            let points = plan.policy.values().map(|block| block.ranges().len()).max();
            assert!(points > Some(19 * RULES), "every rule has an interval: {points:?}");
        }
    }

    #[test]
    fn every_policy_counts() {
        let (client, server) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        let allowed = plan(client, server, &[Ipv4Addr::new(198, 18, 0, 1), client]);
        assert_eq!(allowed.endpoints.len(), 2);
        assert!(allowed.ipcache.len() >= 2, "both sources must be told apart from others");
    }
}
