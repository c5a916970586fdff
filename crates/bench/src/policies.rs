//! A world of two pods and many policies that all select one of them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use ringfence_engine::{Plan, Planner, Scope};
use ringfence_model::{
    Action, IpBlock, Labels, Name, Namespace, NamespaceSelection, Node, Object, Peer, Peers, Pod, PodKey, PodPhase,
    PodSelection, Policy, PolicyId, PolicyKind, Ports, Requirement, Rule, Tier,
};

const NODE: &str = "bench";
const NAMESPACE: &str = "bench";

/// So many sources, none of which is a pod.
pub(super) fn strangers(count: usize) -> Vec<Ipv4Addr> {
    let stranger = |number: usize| {
        let [_, high, middle, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        Ipv4Addr::new(198, 18 + (high & 1), middle, low)
    };
    (0..count).map(stranger).collect()
}

/// The plan of the node on which both pods run: each source is allowed by a policy of its own.
pub(super) fn plan(client: Ipv4Addr, server: Ipv4Addr, sources: &[Ipv4Addr]) -> Plan {
    let mut planner = Planner::new(Scope::Node(Name::from(NODE)));
    planner.reset(world(client, server, sources));
    planner.commit();
    planner.plan()
}

fn world(client: Ipv4Addr, server: Ipv4Addr, sources: &[Ipv4Addr]) -> Vec<Object> {
    let namespace = Namespace { name: Name::from(NAMESPACE), labels: Labels::default() };
    let mut objects = vec![
        Object::Namespace(namespace),
        Object::Node(node(client)),
        Object::Pod(pod("client", client)),
        Object::Pod(pod("server", server)),
    ];
    objects.extend((0..).zip(sources).map(|(number, source)| Object::Policy(policy(number, *source))));
    objects
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
        created: 0,
        ports: Vec::new(),
    }
}

/// Lets one source into the server.
fn policy(number: usize, source: Ipv4Addr) -> Policy {
    let name = Name::from(format!("p{number:06}"));
    let servers = Requirement::In { key: Name::from("app"), values: [Name::from("server")].into() };
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
            pods: [servers].into_iter().collect(),
        },
        ingress: Some(vec![rule]),
        egress: None,
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
    fn every_policy_counts() {
        let (client, server) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        let allowed = plan(client, server, &[Ipv4Addr::new(198, 18, 0, 1), client]);
        assert_eq!(allowed.endpoints.len(), 2);
        assert!(allowed.peers.len() >= 2, "both sources must be told apart from others");
    }
}
