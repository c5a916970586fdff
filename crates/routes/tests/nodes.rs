//! Nodes as network namespaces: pods reach each other over a common link and through VXLAN, and the outside under their
//! node's address.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step fails the test, a skipped test says so")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use etherparse::PacketBuilder;
use ipnet::IpNet;
use ringfence_model::{Labels, Name, Node};
use ringfence_netns::{Namespace, Netlink, Route, VethEnd};
use ringfence_routes::{Encapsulation, Plan, apply, clean_up, interfaces, plan};

/// The timeout of a connection that has to succeed; one that has to fail gets less.
const TIMEOUT: Duration = Duration::from_secs(5);
const FUTILE: Duration = Duration::from_millis(400);

/// A namespace that is deleted with the test.
struct Scratch(Namespace);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(Namespace::create(&format!("rf-routes-{}-{name}", std::process::id())).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        Namespace::delete(self.0.name()).unwrap();
    }
}

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI must run this as root");
    if !root {
        println!("skipped: needs root");
    }
    root
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node, its pod, and its object in the cluster.
struct Member {
    node: Scratch,
    pod: Scratch,
    object: Node,
    /// Addresses of the pod.
    pods: Vec<IpAddr>,
    verified: Option<ringfence_routes::VerifiedFirewall>,
}

impl Member {
    fn netlink(&self) -> Netlink {
        self.node.0.netlink().unwrap()
    }

    /// Plans and applies the routes as an agent of this node would.
    fn follow(&mut self, nodes: &BTreeMap<Name, Node>, encapsulation: Encapsulation) -> (Plan, Vec<String>) {
        let mut netlink = self.netlink();
        let links = interfaces(&mut netlink).unwrap();
        let plan = plan(&self.object.name, nodes, &links, encapsulation).expect("a plan");
        assert_eq!(plan.problems, Vec::<String>::new());
        let verified = &mut self.verified;
        let changes = self.node.0.run(|| apply(&plan, verified, &links, &mut netlink)).unwrap().unwrap();
        (plan, changes)
    }
}

/// A router with a link to each node, or one bridge for all, as `far` says.
struct Cluster {
    router: Scratch,
    members: Vec<Member>,
    nodes: BTreeMap<Name, Node>,
}

impl Cluster {
    /// Nodes of the families that `addresses` has: per node its address with prefix, the router's address, pod range.
    fn new(test: &str, far: bool, nodes: &[&[(&str, &str, &str)]], mtu: u32) -> Self {
        let router = Scratch::new(&format!("{test}-router"));
        let mut outside = router.0.netlink().unwrap();
        outside.set_up("lo").unwrap();
        router.0.set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
        if !far {
            outside.add_bridge("br0").unwrap();
            outside.set_up("br0").unwrap();
        }
        let mut cluster = Self { router, members: Vec::new(), nodes: BTreeMap::new() };
        for (number, families) in nodes.iter().enumerate() {
            cluster.join(test, far, number, families, mtu);
        }
        cluster
    }

    fn join(&mut self, test: &str, far: bool, number: usize, families: &[(&str, &str, &str)], mtu: u32) {
        let (node, pod) = (Scratch::new(&format!("{test}-n{number}")), Scratch::new(&format!("{test}-p{number}")));
        let (mut outside, mut own) = (self.router.0.netlink().unwrap(), node.0.netlink().unwrap());
        let port = format!("n{number}");
        let ends = [VethEnd { name: &port, namespace: &self.router.0 }, VethEnd { name: "eth0", namespace: &node.0 }];
        outside.add_veth(ends[0], ends[1], Some(mtu)).unwrap();
        outside.set_up(&port).unwrap();
        own.set_up("lo").unwrap();
        own.set_up("eth0").unwrap();
        if !far {
            outside.set_controller(&port, "br0").unwrap();
        }
        let mut object = Node {
            name: format!("node-{number}").into(),
            labels: Labels::default(),
            addresses: vec![],
            pod_cidrs: vec![],
        };
        let mut inside = pod.0.netlink().unwrap();
        own.add_veth(
            VethEnd { name: "pod", namespace: &node.0 },
            VethEnd { name: "eth0", namespace: &pod.0 },
            Some(mtu),
        )
        .unwrap();
        own.set_up("pod").unwrap();
        inside.set_up("lo").unwrap();
        inside.set_up("eth0").unwrap();
        let mut pods = Vec::new();
        for (address, gateway, range) in families {
            let (address, gateway, range): (IpNet, IpNet, IpNet) =
                (address.parse().unwrap(), gateway.parse().unwrap(), range.parse().unwrap());
            let link = if far { &port } else { "br0" };
            match outside.add_address(link, gateway) {
                Err(error) if error.is_already_there() => {}
                done => done.unwrap(),
            }
            own.add_address("eth0", address).unwrap();
            let everywhere: IpNet = if address.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap();
            own.set_route(&Route::via(everywhere, gateway.addr())).unwrap();
            // As `ptp` does: the gateway on the node's end, a route to the pod.
            let mut hosts = range.hosts();
            let (first, second) = if address.addr().is_ipv4() {
                (hosts.next().unwrap(), hosts.next().unwrap())
            } else {
                (hosts.nth(1).unwrap(), hosts.next().unwrap())
            };
            own.add_address("pod", first.into()).unwrap();
            own.set_route(&Route::direct(second.into(), "pod")).unwrap();
            inside.add_address("eth0", second.into()).unwrap();
            inside.set_route(&Route::direct(first.into(), "eth0")).unwrap();
            inside.set_route(&Route::via(everywhere, first)).unwrap();
            object.addresses.push(address.addr());
            object.pod_cidrs.push(range);
            pods.push(second);
        }
        self.nodes.insert(Name::clone(&object.name), object.clone());
        self.members.push(Member { node, pod, object, pods, verified: None });
    }

    /// Plans and applies the routes of all nodes.
    fn follow(&mut self, encapsulation: Encapsulation) -> Vec<Plan> {
        let Self { members, nodes, .. } = self;
        members.iter_mut().map(|member| member.follow(nodes, encapsulation).0).collect()
    }

    /// Each pod reaches each other's pod under its own address.
    fn pods_talk(&self) {
        for from in &self.members {
            for to in self.members.iter().filter(|to| to.object.name != from.object.name) {
                for (own, address) in from.pods.iter().zip(&to.pods) {
                    assert_eq!(heard_by(&to.pod.0, &from.pod.0, *address), Some(*own), "{own} → {address}");
                }
            }
        }
    }
}

/// The source address under which a listener sees a client; none without a connection.
fn heard_by(server: &Namespace, client: &Namespace, address: IpAddr) -> Option<IpAddr> {
    let listener = server.run(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    let mut sent = connect(client, target, TIMEOUT)?;
    sent.write_all(b"hello").unwrap();
    drop(sent);
    let (mut connection, peer) = listener.accept().unwrap();
    let mut heard = String::new();
    connection.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
    Some(peer.ip())
}

fn connect(client: &Namespace, target: SocketAddr, patience: Duration) -> Option<TcpStream> {
    client.run(|| TcpStream::connect_timeout(&target, patience)).unwrap().ok()
}

/// True if a datagram of this size arrives unfragmented. IPv6 routers never fragment, and on IPv4 a datagram that is
/// too large causes an ICMP error.
fn carries(server: &Namespace, client: &Namespace, address: IpAddr, size: u32) -> bool {
    let overhead = if address.is_ipv4() { 28 } else { 48 };
    let socket = server.run(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(FUTILE)).unwrap();
    let target = socket.local_addr().unwrap();
    let unspecified = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = client.run(|| UdpSocket::bind(unspecified)).unwrap().unwrap();
    let data = vec![7; (size - overhead) as usize];
    if sender.send_to(&data, target).is_err() {
        return false;
    }
    let mut buffer = vec![0; 65_536];
    socket.recv(&mut buffer).is_ok_and(|length| length == data.len())
}

const NEAR: [&[(&str, &str, &str)]; 3] = [
    &[("10.9.0.11/24", "10.9.0.1/24", "10.244.0.0/24"), ("fd99::11/64", "fd99::1/64", "fd00:0:0:a0::/64")],
    &[("10.9.0.12/24", "10.9.0.1/24", "10.244.1.0/24"), ("fd99::12/64", "fd99::1/64", "fd00:0:0:a1::/64")],
    &[("10.9.0.13/24", "10.9.0.1/24", "10.244.2.0/24"), ("fd99::13/64", "fd99::1/64", "fd00:0:0:a2::/64")],
];

const FAR: [&[(&str, &str, &str)]; 2] = [
    &[("10.9.1.11/24", "10.9.1.1/24", "10.244.0.0/24"), ("fd99:0:0:1::11/64", "fd99:0:0:1::1/64", "fd00:0:0:a0::/64")],
    &[("10.9.2.12/24", "10.9.2.1/24", "10.244.1.0/24"), ("fd99:0:0:2::12/64", "fd99:0:0:2::1/64", "fd00:0:0:a1::/64")],
];

#[test]
fn nodes_on_one_link_route_directly_until_one_leaves() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new("near", false, &NEAR, 1500);
    let plans = cluster.follow(Encapsulation::default());
    assert_eq!((plans[0].direct.len(), plans[0].tunnels.len(), plans[0].mtu), (2, 0, 1500));
    cluster.pods_talk();
    // Pods and nodes see each other under their own addresses, the outside sees the node's.
    let [a, b, _] = &cluster.members[..] else { panic!("three nodes") };
    for (number, gateway) in ["10.9.0.1", "fd99::1"].into_iter().enumerate() {
        let (node, pod) = (b.object.addresses[number], a.pods[number]);
        assert_eq!(heard_by(&b.node.0, &a.pod.0, node), Some(pod));
        assert_eq!(heard_by(&a.pod.0, &b.node.0, pod), Some(node));
        assert_eq!(heard_by(&cluster.router.0, &a.pod.0, ip(gateway)), Some(a.object.addresses[number]));
        assert!(carries(&b.pod.0, &a.pod.0, b.pods[number], 1500));
    }
    // The second run changes nothing, until a route is removed.
    let nodes = cluster.nodes.clone();
    assert_eq!(cluster.members[0].follow(&nodes, Encapsulation::default()).1, Vec::<String>::new());
    let route = Route::via("10.244.1.0/24".parse().unwrap(), ip("10.9.0.12")).on_link("eth0");
    cluster.members[0].netlink().delete_route(&route.by(82)).unwrap();
    let changes = cluster.members[0].follow(&nodes, Encapsulation::default()).1;
    assert_eq!(changes, ["set route to 10.244.1.0/24"]);
    // A node that left is not reachable, and the others are.
    cluster.nodes.remove("node-2");
    let nodes = cluster.nodes.clone();
    let changes = cluster.members[0].follow(&nodes, Encapsulation::default()).1;
    assert!(changes.contains(&"removed route to 10.244.2.0/24".to_owned()), "{changes:?}");
    let gone = SocketAddr::new(cluster.members[2].pods[0], 80);
    assert!(connect(&cluster.members[0].pod.0, gone, FUTILE).is_none());
    cluster.members.pop();
    cluster.pods_talk();
}

/// Far nodes reach each other's pods through VXLAN, in packets of exactly the size that is planned.
fn through_vxlan(test: &str, families: std::ops::Range<usize>, overhead: u32) {
    let nodes: Vec<_> = FAR.iter().map(|node| &node[families.clone()]).collect();
    let mut cluster = Cluster::new(test, true, &nodes, 1500);
    let plans = cluster.follow(Encapsulation::default());
    assert_eq!((plans[0].tunnelled.len(), plans[0].direct.len(), plans[0].mtu), (1, 0, 1500 - overhead));
    cluster.pods_talk();
    let [a, b] = &cluster.members[..] else { panic!("two nodes") };
    for (number, family) in families.enumerate() {
        let (node, pod, other) = (b.object.addresses[number], a.pods[number], b.pods[number]);
        // Nodes see these addresses too, in both directions: policy distinguishes nodes and pods by their addresses.
        assert_eq!(heard_by(&b.node.0, &a.pod.0, node), Some(pod));
        assert_eq!(heard_by(&a.pod.0, &b.node.0, pod), Some(node));
        let outside = ip(["10.9.1.1", "fd99:0:0:1::1"][family]);
        assert_eq!(heard_by(&cluster.router.0, &a.pod.0, outside), Some(a.object.addresses[number]));
        assert!(carries(&b.pod.0, &a.pod.0, other, 1500 - overhead));
        assert!(!carries(&b.pod.0, &a.pod.0, other, 1500 - overhead + 1));
    }
    only_nodes_are_heard_through_vxlan(&cluster);
    // The second run changes nothing. Then the other node leaves, and everything for it is removed.
    let mut nodes = cluster.nodes.clone();
    assert_eq!(cluster.members[0].follow(&nodes, Encapsulation::default()).1, Vec::<String>::new());
    nodes.remove("node-1");
    cluster.members[0].follow(&nodes, Encapsulation::default());
    let mut netlink = cluster.members[0].netlink();
    assert!(netlink.links().unwrap().iter().all(|link| !link.name.starts_with("rf-vxlan")));
    assert_eq!(netlink.rules_at(8282).unwrap(), []);
    // The node returns, and later all agents end.
    cluster.follow(Encapsulation::default());
    cluster.pods_talk();
    let [a, _] = &cluster.members[..] else { panic!("two nodes") };
    for _ in 0..2 {
        a.node.0.run(|| clean_up(&mut Netlink::open().unwrap())).unwrap().unwrap();
    }
    let mut netlink = a.netlink();
    assert_eq!((netlink.routes_by(82).unwrap(), netlink.rules_at(8282).unwrap()), (vec![], vec![]));
    assert_eq!(netlink.find_link("rf-vxlan4").unwrap(), None);
}

/// Neither a pod nor a stranger can send packets under another pod's address through VXLAN.
fn only_nodes_are_heard_through_vxlan(cluster: &Cluster) {
    let [a, b] = &cluster.members[..] else { panic!("two nodes") };
    let (node, from, to) = (b.object.addresses[0], a.pods[0], b.pods[0]);
    let listener = b.pod.0.run(|| UdpSocket::bind((to, 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    let link = if node.is_ipv4() { "rf-vxlan4" } else { "rf-vxlan6" };
    let hardware_address = b.netlink().find_link(link).unwrap().unwrap().hardware_address.try_into().unwrap();
    let frame = PacketBuilder::ethernet2([2; 6], hardware_address);
    let packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of different families"),
    };
    // The header of VXLAN: that there is an identifier, and ours.
    let mut wrapped = vec![8, 0, 0, 0, 0, 0x52, 0x46, 0];
    packet.udp(1234, port).write(&mut wrapped, b"hello").unwrap();
    let heard = |sender: &Namespace, patience: Duration| {
        let unspecified = if node.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = sender.run(|| UdpSocket::bind(unspecified)).unwrap().unwrap();
        socket.send_to(&wrapped, (node, 4789)).unwrap();
        listener.set_read_timeout(Some(patience)).unwrap();
        listener.recv_from(&mut [0; 64]).is_ok_and(|(_, heard)| heard.ip() == from)
    };
    let doubt = Duration::from_millis(300);
    assert!(heard(&a.node.0, Duration::from_secs(10)), "another node is");
    assert!(!heard(&a.pod.0, doubt), "a pod of another node");
    assert!(!heard(&b.pod.0, doubt), "a pod of this node");
    assert!(!heard(&cluster.router.0, doubt), "a stranger");
    assert!(heard(&a.node.0, Duration::from_secs(10)), "and it still is");
}

#[test]
fn far_nodes_talk_through_vxlan_over_ipv4() {
    if root() {
        through_vxlan("far4", 0..1, 50);
    }
}

#[test]
fn far_nodes_talk_through_vxlan_over_ipv6() {
    if root() {
        through_vxlan("far6", 1..2, 70);
    }
}

#[test]
fn far_nodes_of_both_families_share_one_vxlan() {
    if root() {
        through_vxlan("far46", 0..2, 50);
    }
}

#[test]
fn neighbours_change_to_vxlan_and_back_when_told_so() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new("always", false, &NEAR[..2], 1500);
    for encapsulation in [Encapsulation::CrossSubnet, Encapsulation::Always, Encapsulation::CrossSubnet] {
        let plans = cluster.follow(encapsulation);
        assert_eq!(plans[0].tunnels.len(), usize::from(encapsulation == Encapsulation::Always));
        cluster.pods_talk();
    }
}

/// Runs a closure in a namespace where `/proc/sys` is read-only, as in a container.
fn contained<T: Send>(namespace: &Namespace, closure: impl FnOnce() -> T + Send) -> T {
    use nix::mount::{MsFlags, mount};
    namespace
        .run(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("/proc/sys"), "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, "/proc/sys", none, read_only, none).unwrap();
            assert!(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").is_err());
            closure()
        })
        .unwrap()
}

#[test]
fn vxlan_is_set_up_from_within_a_container_and_forwarding_is_left_to_others() {
    if !root() {
        return;
    }
    let cluster = Cluster::new("contained", true, &FAR, 1500);
    for member in &cluster.members {
        let node = &member.node.0;
        node.set_sysctl("net/ipv4/conf/default/rp_filter", "1").unwrap();
        let mut netlink = member.netlink();
        let links = interfaces(&mut netlink).unwrap();
        let plan = plan(&member.object.name, &cluster.nodes, &links, Encapsulation::default()).expect("a plan");
        let mut verified = None;
        contained(node, || apply(&plan, &mut verified, &links, &mut netlink)).unwrap();
        assert_eq!(node.sysctl("net/ipv4/ip_forward").unwrap().trim(), "0");
        assert_eq!(node.sysctl("net/ipv4/conf/rf-vxlan4/rp_filter").unwrap().trim(), "2");
        assert_eq!(contained(node, || apply(&plan, &mut verified, &links, &mut netlink)).unwrap(), [""; 0]);
        node.set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
    }
    cluster.pods_talk();
}

#[test]
fn a_firewall_without_its_rules_is_set_again() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::new("flushed", false, &NEAR[..1], 1500);
    cluster.follow(Encapsulation::default());
    let nodes = cluster.nodes.clone();
    // It is known to be as it was set, by the number of the last change.
    assert_eq!(cluster.members[0].follow(&nodes, Encapsulation::default()).1, [""; 0]);
    for command in [["flush", "table"], ["delete", "table"]] {
        let node = &cluster.members[0].node.0;
        let mut nft = std::process::Command::new("nft");
        nft.args(command).args(["inet", "ringfence_primary"]);
        assert!(node.spawn(&mut nft).unwrap().wait().unwrap().success());
        let changes = cluster.members[0].follow(&nodes, Encapsulation::default()).1;
        assert_eq!(changes, ["set which packets of pods get the node's address, and who may send through VXLAN"]);
    }
}

/// A command on a node, which has to succeed.
fn run(node: &Namespace, line: &str) -> String {
    let output = node.run(|| Command::new("sh").args(["-c", line]).output().unwrap()).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn pods_are_reached_also_where_iptables_drops_what_is_forwarded() {
    if !root() {
        return;
    }
    if Command::new("iptables")
        .arg("-V")
        .output()
        .is_ok_and(|output| !String::from_utf8_lossy(&output.stdout).contains("nf_tables"))
    {
        println!("skipped: iptables is not that of nftables");
        return;
    }
    let mut cluster = Cluster::new("drop", false, &NEAR[..2], 1500);
    let nodes = cluster.nodes.clone();
    cluster.follow(Encapsulation::default());
    for member in &cluster.members {
        run(
            &member.node.0,
            "for t in iptables ip6tables; do $t -P FORWARD DROP && $t -A FORWARD -s 192.0.2.1 -j ACCEPT; done 2>&1 || \
             true",
        );
    }
    if !run(&cluster.members[0].node.0, "nft list chains").contains("policy drop") {
        println!("skipped: iptables is missing\nhint: apt install iptables");
        return;
    }
    let target = SocketAddr::new(cluster.members[1].pods[0], 80);
    assert!(connect(&cluster.members[0].pod.0, target, FUTILE).is_none());
    cluster.follow(Encapsulation::default());
    cluster.pods_talk();
    assert_eq!(cluster.members[0].follow(&nodes, Encapsulation::default()).1, Vec::<String>::new());
    // Rules of others come first, and flushed rules are restored.
    let node = &cluster.members[0].node.0;
    let rules = run(node, "iptables -S FORWARD");
    assert!(rules.lines().nth(1).unwrap().contains("192.0.2.1"), "{rules}");
    run(node, "iptables -F; ip6tables -F");
    assert_eq!(cluster.members[0].follow(&nodes, Encapsulation::default()).1.len(), 2);
    cluster.pods_talk();
    let node = &cluster.members[0].node.0;
    node.run(|| clean_up(&mut node.netlink().unwrap())).unwrap().unwrap();
    assert!(!run(node, "iptables -S FORWARD; ip6tables -S FORWARD").contains("ringfence"));
    // A chain of unknown purpose is reported.
    run(
        node,
        "nft add table inet mine; nft 'add chain inet mine forward { type filter hook forward priority 0; policy drop; \
         }'",
    );
    let mut netlink = node.netlink().unwrap();
    let links = interfaces(&mut netlink).unwrap();
    let plan = plan(&cluster.members[0].object.name, &nodes, &links, Encapsulation::default()).unwrap();
    let error = node.run(|| apply(&plan, &mut None, &links, &mut netlink)).unwrap().unwrap_err().to_string();
    assert!(error.contains("chain forward of table inet mine") && error.contains("10.244.0.0/24"), "{error}");
}
