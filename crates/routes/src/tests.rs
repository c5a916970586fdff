//! The plan as a function of nodes and links.

use std::collections::BTreeMap;

use ipnet::IpNet;
use ringfence_model::{Labels, Name, Node};

use crate::{Encapsulation, Interface, Plan, plan};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn node(name: &str, addresses: &[&str], ranges: &[&str]) -> (Name, Node) {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    (name.into(), Node { name: name.into(), labels: Labels::default(), addresses, pod_cidrs: nets(ranges) })
}

fn interface(name: &str, mtu: u32, addresses: &[&str]) -> Interface {
    Interface { name: name.into(), mtu, addresses: nets(addresses) }
}

/// The plan of node `a`, at 10.9.0.1/24 and fd99::1/64.
fn planned(peers: &[(Name, Node)], encapsulation: Encapsulation) -> Plan {
    let own = node("a", &["10.9.0.1", "fd99::1"], &["10.244.0.0/24", "fd00:0:0:a::/64"]);
    let nodes: BTreeMap<_, _> = peers.iter().cloned().chain([own]).collect();
    let interfaces = [interface("eth0", 1500, &["10.9.0.1/24", "fd99::1/64"])];
    plan(&"a".into(), &nodes, &interfaces, encapsulation).unwrap()
}

fn routes(plan: &Plan) -> Vec<String> {
    let text = |route: &ringfence_netns::Route| {
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let link = route.link.as_ref().map(|link| format!(" dev {link}")).unwrap_or_default();
        let table = if route.table == crate::TABLE { " for pods" } else { "" };
        let nowhere = if route.unreachable { " unreachable" } else { "" };
        format!("{}{via}{link}{table}{nowhere}", route.destination)
    };
    plan.routes.iter().map(text).collect()
}

#[test]
fn a_neighbour_is_reached_over_the_link() {
    let plan = planned(
        &[node("b", &["10.9.0.2", "fd99::2"], &["10.244.1.0/24", "fd00:0:0:b::/64"])],
        Encapsulation::default(),
    );
    assert_eq!(
        routes(&plan),
        [
            "10.244.0.0/24 unreachable",
            "10.244.1.0/24 via 10.9.0.2 dev eth0",
            "fd00:0:0:a::/64 unreachable",
            "fd00:0:0:b::/64 via fd99::2 dev eth0"
        ]
    );
    assert_eq!((plan.mtu, plan.tunnels.len(), plan.rules.len(), plan.problems.len()), (1500, 0, 0, 0));
    let inside: Vec<_> = plan.firewall.inside.iter().map(ToString::to_string).collect();
    assert_eq!(
        inside,
        ["10.9.0.2/32", "10.244.0.0/24", "10.244.1.0/24", "fd00:0:0:a::/64", "fd00:0:0:b::/64", "fd99::2/128"]
    );
    assert_eq!(plan.firewall.pods.len(), 2);
    assert!(plan.firewall.senders.is_empty(), "there is no VXLAN");
}

#[test]
fn a_node_on_another_link_is_reached_through_vxlan() {
    let far = [node("c", &["10.8.0.3"], &["10.244.2.0/24", "fd00:0:0:c::/64"])];
    let plan = planned(&far, Encapsulation::default());
    let gateway = plan.neighbours.iter().find(|neighbour| neighbour.address.is_ipv6()).unwrap().address.to_string();
    assert!(gateway.starts_with("fe80::"), "{gateway}");
    let found: Vec<_> = routes(&plan).iter().map(|route| route.replace(&gateway, "GATEWAY")).collect();
    assert_eq!(
        found,
        [
            "10.8.0.3/32 via 10.244.2.0 dev rf-vxlan4 for pods",
            "10.244.0.0/24 unreachable",
            "10.244.2.0/24 via 10.244.2.0 dev rf-vxlan4",
            "fd00:0:0:a::/64 unreachable",
            "fd00:0:0:c::/64 via GATEWAY dev rf-vxlan4"
        ]
    );
    let [tunnel] = &plan.tunnels[..] else { panic!("{:?}", plan.tunnels) };
    assert_eq!((tunnel.link.mtu, plan.mtu), (1450, 1450));
    assert_eq!(tunnel.addresses.iter().copied().collect::<Vec<_>>(), nets(&["10.9.0.1/32", "fd99::1/128"]));
    assert_eq!((plan.forwards.len(), plan.neighbours.len(), plan.rules.len()), (1, 2, 1));
    // Both ends derive each other's hardware address from the name.
    let there: BTreeMap<_, _> = far.into_iter().chain([node("a", &["10.9.0.1"], &["10.244.0.0/24"])]).collect();
    let interfaces = [interface("ens3", 9000, &["10.8.0.3/24"])];
    let back = plan_of("c", &there, &interfaces);
    assert_eq!(back.tunnels[0].link.hardware_address, plan.forwards.first().unwrap().hardware_address);
    assert_eq!(back.forwards.first().unwrap().hardware_address, tunnel.link.hardware_address);
    assert_eq!(back.mtu, 8950);
}

fn plan_of(own: &str, nodes: &BTreeMap<Name, Node>, interfaces: &[Interface]) -> Plan {
    plan(&own.into(), nodes, interfaces, Encapsulation::default()).unwrap()
}

#[test]
fn vxlan_over_ipv6_costs_more() {
    let own = node("a", &["fd99::1"], &["fd00:0:0:a::/64"]);
    let far = node("b", &["fd98::2"], &["fd00:0:0:b::/64"]);
    let plan = plan_of("a", &[own, far].into(), &[interface("eth0", 1500, &["fd99::1/64"])]);
    assert_eq!((plan.mtu, plan.tunnels[0].link.name.as_str()), (1430, "rf-vxlan6"));
    assert_eq!(plan.forwards.first().unwrap().remote, "fd98::2".parse::<std::net::IpAddr>().unwrap());
    let own = node("a", &["fd99::1"], &["fd00:0:0:a::/64"]);
    let far = node("b", &["fd98::2"], &["fd00:0:0:b::/64"]);
    let narrow = plan_of("a", &[own, far].into(), &[interface("eth0", 1300, &["fd99::1/64"])]);
    assert!(narrow.problems[0].contains("1230 bytes"), "{:?}", narrow.problems);
}

#[test]
fn everybody_is_tunnelled_where_that_is_asked_for() {
    let plan = planned(&[node("b", &["10.9.0.2", "fd99::2"], &["10.244.1.0/24"])], Encapsulation::Always);
    assert_eq!((plan.direct.len(), plan.tunnelled.len(), plan.mtu), (0, 1, 1450));
}

#[test]
fn an_address_for_the_inside_goes_before_one_for_the_world() {
    let plan = planned(&[node("c", &["3.3.3.3", "10.8.0.3"], &["10.244.2.0/24"])], Encapsulation::default());
    assert_eq!(plan.forwards.first().unwrap().remote, "10.8.0.3".parse::<std::net::IpAddr>().unwrap());
}

#[test]
fn what_cannot_be_reached_is_said_and_the_rest_is_reached() {
    let peers = [
        node("b", &[], &["10.244.1.0/24"]),
        node("c", &["10.9.0.3"], &["10.244.0.128/25"]),
        node("d", &["10.9.0.4"], &["10.244.3.0/24"]),
    ];
    let plan = planned(&peers, Encapsulation::default());
    assert_eq!(plan.problems.len(), 2, "{:?}", plan.problems);
    assert!(plan.problems[0].contains("no common family") && plan.problems[1].contains("overlaps"));
    assert_eq!(plan.direct.len(), 1);
    assert!(!plan.firewall.inside.contains(&"10.244.1.0/24".parse().unwrap()));
}

#[test]
fn a_node_without_range_or_address_has_no_plan_yet() {
    let interfaces = [interface("eth0", 1500, &["10.9.0.1/24"])];
    for own in [node("a", &["10.9.0.1"], &[]), node("a", &["10.9.0.9"], &["10.244.0.0/24"])] {
        assert_eq!(plan(&"a".into(), &[own].into(), &interfaces, Encapsulation::default()), None);
    }
    assert_eq!(plan(&"a".into(), &BTreeMap::new(), &interfaces, Encapsulation::default()), None);
}

#[test]
fn the_firewall_has_both_families_and_no_empty_list() {
    let plan = planned(&[], Encapsulation::default());
    let script = plan.firewall.script();
    assert!(script.contains("add element inet ringfence_primary inside6 { fd00:0:0:a::/64 }"), "{script}");
    let four = crate::Firewall { pods: nets(&["10.244.0.0/24"]).into_iter().collect(), ..crate::Firewall::default() };
    assert!(!four.script().contains("{  }"), "{}", four.script());
    let far = [node("b", &["10.9.0.2", "fd99::2"], &["10.244.1.0/24"]), node("c", &["10.8.0.3"], &["10.244.2.0/24"])];
    let plan = planned(&far, Encapsulation::default());
    let senders: Vec<_> = plan.firewall.senders.iter().map(ToString::to_string).collect();
    assert_eq!(senders, ["10.8.0.3", "10.9.0.2"], "all nodes, over the family of the VXLAN link");
}
