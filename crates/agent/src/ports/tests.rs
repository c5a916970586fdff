//! Nodes as they may look, and who is behind which link of them.

use std::time::{Duration, SystemTime};

use super::*;

/// A node that is put together link by link.
#[derive(Default)]
struct Node {
    links: Vec<Link>,
    routes: HashMap<IpAddr, u32>,
    told: Vec<Told>,
    inside: HashMap<u32, Peer>,
    local: BTreeSet<IpAddr>,
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Node {
    fn link(mut self, index: u32, name: &str, kind: &str) -> Self {
        self.links.push(Link {
            index,
            name: name.into(),
            kind: kind.into(),
            hardware_address: vec![2, 0, 0, 0, 1, 0],
            up: true,
            controller: None,
            peer: None,
            peer_namespace: None,
            tunnels: Vec::new(),
            mtu: 1500,
        });
        self
    }

    /// The node's end of a veth pair whose other end is in another namespace.
    fn end(self, index: u32, name: &str) -> Self {
        let mut node = self.link(index, name, "veth");
        let link = node.links.last_mut().unwrap();
        (link.peer, link.peer_namespace) = (Some(2), Some(0));
        node
    }

    /// The same as a port of a bridge.
    fn port(self, index: u32, name: &str, bridge: u32) -> Self {
        let mut node = self.end(index, name);
        node.links.last_mut().unwrap().controller = Some(bridge);
        node
    }

    fn pod(mut self, text: &str) -> Self {
        self.local.insert(address(text));
        self
    }

    fn route(mut self, text: &str, link: u32) -> Self {
        self.routes.insert(address(text), link);
        self
    }

    /// Told after everything before.
    fn told(mut self, addresses: &[&str], links: &[&str], last_byte: Option<u8>) -> Self {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.told.len() as u64);
        let addresses = addresses.iter().map(|text| address(text)).collect();
        let links = links.iter().map(|name| (*name).to_owned()).collect();
        self.told.push(Told { at, addresses, links, hardware_address: last_byte.map(hardware) });
        self
    }

    fn inside(mut self, index: u32, last_byte: u8, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        self.inside.insert(index, Peer { hardware_address: Some(hardware(last_byte)), addresses });
        self
    }

    fn ports(&self) -> Ports {
        let Self { links, routes, told, inside, local } = self;
        let ports = find(&Seen { links, routes, told, inside, local });
        let mut turned = links.clone();
        turned.reverse();
        let told: Vec<Told> = told.iter().rev().cloned().collect();
        let again = find(&Seen { links: &turned, routes, told: &told, inside, local });
        assert_eq!(ports, again, "the order in which things are seen does not matter");
        ports
    }
}

fn hardware(last_byte: u8) -> HardwareAddress {
    [2, 0, 0, 0, 0, last_byte]
}

fn known(bridge: Option<u32>, last_byte: Option<u8>) -> PodLink {
    PodLink { bridge, mac: last_byte.map(hardware), pod: true, idle: false }
}

fn stranger(bridge: u32) -> PodLink {
    PodLink { bridge: Some(bridge), mac: None, pod: false, idle: false }
}

fn owner(ports: &Ports, text: &str) -> Option<u32> {
    ports.interfaces.get(&address(text)).map(|interface| interface.index)
}

/// A bridge of pods with an uplink of every kind, and one that is Docker's.
fn bridges() -> Node {
    let mut node = Node::default().link(2, "eth0", "").link(3, "cni0", "bridge").link(4, "docker0", "bridge");
    for (index, name, kind) in [(10, "eth1", ""), (11, "bond0", "bond"), (12, "eth0.7", "vlan"), (13, "vx", "vxlan")] {
        node = node.link(index, name, kind);
        node.links.last_mut().unwrap().controller = Some(3);
    }
    // Both ends of this pair are here.
    node = node.link(14, "uplink", "veth");
    let link = node.links.last_mut().unwrap();
    (link.peer, link.controller) = (Some(15), Some(3));
    node.port(20, "docker-1", 4)
}

#[test]
fn a_routed_pod_is_behind_the_link_of_its_route() {
    let node = Node::default().link(2, "eth0", "").end(7, "cali1").end(8, "other");
    let ports = node.pod("10.0.0.7").pod("fd00::7").route("10.0.0.7", 7).route("fd00::7", 7).ports();
    assert_eq!(ports.links, BTreeMap::from([(7, known(None, None))]), "and of others nothing is known");
    assert_eq!((owner(&ports, "10.0.0.7"), owner(&ports, "fd00::7")), (Some(7), Some(7)));
    assert!(!ports.bridged());
}

#[test]
fn a_route_over_what_is_no_end_of_a_pod_guards_nothing() {
    let node = Node::default().link(2, "eth0", "").link(3, "cni0", "bridge").link(4, "tap0", "tun");
    let node = node.pod("10.0.0.2").route("10.0.0.2", 2).pod("10.0.0.3").route("10.0.0.3", 3);
    let ports = node.pod("10.0.0.4").route("10.0.0.4", 4).ports();
    assert_eq!(ports.links, BTreeMap::new());
    assert_eq!(owner(&ports, "10.0.0.3"), None, "a bridge is nobody's port");
}

#[test]
fn ports_of_a_bridge_of_pods_are_known_by_what_was_told_and_else_closed() {
    let node = bridges().port(21, "veth1", 3).port(22, "veth2", 3).end(23, "veth3");
    let node = node.pod("10.0.0.7").pod("fd00::7").told(&["10.0.0.7", "fd00::7"], &["cni0", "veth1"], Some(7));
    let ports = node.ports();
    assert_eq!(ports.links, BTreeMap::from([(21, known(Some(3), Some(7))), (22, stranger(3))]));
    assert_eq!((owner(&ports, "10.0.0.7"), owner(&ports, "fd00::7")), (Some(21), Some(21)));
    assert_eq!(ports.interfaces[&address("fd00::7")].bridge, Some(3));
    assert_eq!(ports.names[&22], "veth2");
    assert!(ports.bridged());
    assert_eq!(ports.in_doubt().collect::<Vec<_>>(), [22]);
}

#[test]
fn bridges_without_a_known_pod_are_left_alone() {
    let ports = bridges().port(21, "veth1", 3).ports();
    assert_eq!(ports, Ports::default());
}

#[test]
fn what_was_told_last_counts_for_addresses_and_for_links() {
    let node = bridges().port(21, "veth1", 3).port(22, "veth2", 3).pod("10.0.0.7").pod("10.0.0.8");
    // The address was given on, and so was the name of the link.
    let node = node.told(&["10.0.0.7"], &["veth1"], Some(1)).told(&["10.0.0.7"], &["veth2"], Some(2));
    assert_eq!(owner(&node.ports(), "10.0.0.7"), Some(22));
    let ports = node.told(&["10.0.0.8"], &["veth2"], Some(3)).ports();
    assert_eq!((owner(&ports, "10.0.0.7"), owner(&ports, "10.0.0.8")), (None, Some(22)));
    assert_eq!(ports.links, BTreeMap::from([(21, stranger(3)), (22, known(Some(3), Some(3)))]));
}

#[test]
fn a_link_of_a_pod_that_is_not_known_any_more_is_a_strangers() {
    let node = bridges().port(21, "veth1", 3).port(22, "veth2", 3).pod("10.0.0.7");
    let node = node.told(&["10.0.0.7"], &["veth1"], Some(1)).told(&["10.0.0.8"], &["veth2"], Some(2));
    assert_eq!(node.ports().links[&22], stranger(3));
}

#[test]
fn a_renamed_link_is_found_by_looking_and_keeps_the_hardware_address_that_was_told() {
    let node = bridges().port(21, "renamed", 3).port(22, "veth2", 3).pod("10.0.0.7").pod("10.0.0.8");
    let node = node.told(&["10.0.0.7"], &["veth1"], Some(1)).told(&["10.0.0.8"], &["veth2"], Some(2));
    assert_eq!(node.ports().links[&21], stranger(3), "as long as nobody has looked");
    // Who is inside may say anything of its hardware address.
    let node = node.inside(21, 99, &["10.0.0.7", "fe80::1"]).inside(22, 98, &["10.0.0.7"]);
    assert_eq!(node.ports().links, BTreeMap::from([(21, known(Some(3), Some(1))), (22, known(Some(3), Some(2)))]));
}

#[test]
fn without_results_pods_are_found_by_looking_unless_two_have_an_address() {
    let node = bridges().port(21, "veth1", 3).port(22, "veth2", 3).port(23, "veth3", 3).pod("10.0.0.7").pod("10.0.0.8");
    let node = node.inside(21, 1, &["10.0.0.7"]).inside(22, 2, &["10.0.0.8"]).inside(23, 3, &["10.0.0.8"]);
    let ports = node.ports();
    assert_eq!((owner(&ports, "10.0.0.7"), owner(&ports, "10.0.0.8")), (Some(21), None));
    assert_eq!(ports.links[&21], known(Some(3), Some(1)));
    assert_eq!((ports.links[&22], ports.links[&23]), (stranger(3), stranger(3)));
}

#[test]
fn a_hardware_address_that_was_not_told_is_looked_up() {
    let node = bridges().port(21, "veth1", 3).pod("10.0.0.7").told(&["10.0.0.7"], &["veth1"], None);
    assert_eq!(node.ports().in_doubt().collect::<Vec<_>>(), [21]);
    assert_eq!(node.inside(21, 5, &["10.0.0.7"]).ports().links[&21], known(Some(3), Some(5)));
}

#[test]
fn a_link_that_moves_to_another_bridge_or_off_it_is_followed() {
    let node = bridges().link(5, "cni1", "bridge").pod("10.0.0.7").told(&["10.0.0.7"], &["veth1"], Some(1));
    let moved = Node { links: node.links.clone(), ..node }.port(21, "veth1", 5);
    assert_eq!(moved.ports().links, BTreeMap::from([(21, known(Some(5), Some(1)))]));
    let mut taken_off = moved;
    taken_off.links.last_mut().unwrap().controller = None;
    assert_eq!(taken_off.ports().links, BTreeMap::from([(21, known(None, None))]));
}

#[test]
fn what_a_plugin_tells_just_now_goes_before_what_was_found() {
    let before = bridges().port(21, "veth1", 3).port(22, "veth2", 3).pod("10.0.0.7");
    let mut ports = before.told(&["10.0.0.7"], &["veth1"], Some(1)).ports();
    let newer = bridges().port(22, "veth2", 3).pod("10.0.0.8").told(&["10.0.0.8"], &["veth2"], Some(2)).ports();
    ports.extend(newer);
    assert_eq!(ports.links[&22], known(Some(3), Some(2)));
    assert_eq!((owner(&ports, "10.0.0.7"), owner(&ports, "10.0.0.8")), (Some(21), Some(22)));
}
