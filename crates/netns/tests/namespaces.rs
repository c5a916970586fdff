//! Namespaces, links, addresses and routes on a real kernel, in namespaces the tests make for themselves.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step fails the test, a skipped test says so")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use ringfence_netns::{Link, Namespace, Route, Tunnel, VethEnd, Vxlan};

/// A namespace that is deleted with the test.
struct Scratch(Namespace);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("rf-netns-test-{}-{name}", std::process::id());
        Self(Namespace::create(&name).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        Namespace::delete(self.0.name()).unwrap();
    }
}

/// True if the test can run; in CI it must.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI must run this as root");
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// Two namespaces joined by a veth pair with addresses of both families at each end.
fn joined(name: &str) -> (Scratch, Scratch) {
    let (left, right) = (Scratch::new(&format!("{name}-l")), Scratch::new(&format!("{name}-r")));
    let mut netlink = left.0.netlink().unwrap();
    netlink
        .add_veth(
            VethEnd { name: "left0", namespace: &left.0 },
            VethEnd { name: "right0", namespace: &right.0 },
            Some(1400),
        )
        .unwrap();
    for (side, link, addresses) in
        [(&left, "left0", ["10.9.0.1/24", "fd99::1/64"]), (&right, "right0", ["10.9.0.2/24", "fd99::2/64"])]
    {
        let mut netlink = side.0.netlink().unwrap();
        for address in addresses {
            netlink.add_address(link, address.parse().unwrap()).unwrap();
        }
        netlink.set_up("lo").unwrap();
        netlink.set_up(link).unwrap();
    }
    (left, right)
}

/// The bytes that a listener in `server` at `address` receives from a client in `client`.
fn transfer(server: &Namespace, client: &Namespace, address: &str) -> String {
    let listener = server.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    let mut sent = client.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap().unwrap();
    sent.write_all(b"hello").unwrap();
    drop(sent);
    let mut heard = String::new();
    listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
    heard
}

#[test]
fn a_veth_pair_carries_both_families_at_once() {
    if !root() {
        return;
    }
    let (left, right) = joined("veth");
    assert_eq!(transfer(&right.0, &left.0, "10.9.0.2:0"), "hello");
    assert_eq!(transfer(&left.0, &right.0, "[fd99::1]:0"), "hello");
    let link = right.0.netlink().unwrap().find_link("right0").unwrap().unwrap();
    assert!(link.up && link.mtu == 1400, "{link:?}");
    assert_eq!(link.peer, Some(left.0.netlink().unwrap().link_index("left0").unwrap()));
}

#[test]
fn links_tell_what_they_are_where_their_peer_is_and_which_tunnels_they_end() {
    if !root() {
        return;
    }
    let (left, _right) = joined("kinds");
    let mut netlink = left.0.netlink().unwrap();
    let here = |name| VethEnd { name, namespace: &left.0 };
    netlink.add_veth(here("both0"), here("both1"), None).unwrap();
    netlink.add_bridge("bridge0").unwrap();
    let (name, local, hardware_address) = ("tunnel0".to_owned(), "10.9.0.1".parse().unwrap(), [2, 0, 0, 0, 0, 9]);
    netlink.add_vxlan(&Vxlan { name, id: 7, port: 8472, local, hardware_address, mtu: 1350 }).unwrap();
    let links = netlink.links().unwrap();
    let told = |name: &str| {
        let link = links.iter().find(|link| link.name == name).unwrap();
        (link.kind.as_str(), link.peer_namespace.is_some(), link.tunnels.as_slice())
    };
    assert_eq!(told("left0"), ("veth", true, &[][..]));
    assert_eq!(told("both0"), ("veth", false, &[][..]));
    assert_eq!(told("bridge0"), ("bridge", false, &[][..]));
    assert_eq!(told("tunnel0"), ("vxlan", false, &[Tunnel::udp(8472)][..]));
}

#[test]
fn the_other_end_of_a_link_is_seen_without_going_there() {
    if !root() {
        return;
    }
    let (left, right) = joined("peer");
    let mut netlink = left.0.netlink().unwrap();
    let link = netlink.find_link("left0").unwrap().unwrap();
    let peer = netlink.peer(&link).unwrap().unwrap();
    let there = right.0.netlink().unwrap().find_link("right0").unwrap().unwrap();
    assert_eq!(peer.hardware_address.map(Vec::from), Some(there.hardware_address));
    let has = |text: &str| peer.addresses.contains(&text.parse().unwrap());
    assert!(has("10.9.0.2") && has("fd99::2") && !has("127.0.0.1"), "{peer:?}");
    let bridge = Link { peer: None, peer_namespace: None, ..link.clone() };
    assert_eq!(netlink.peer(&bridge).unwrap(), None);
    let gone = Link { peer: Some(99), ..link };
    assert_eq!(netlink.peer(&gone).unwrap(), None);
}

#[test]
fn links_never_show_up_in_the_callers_namespace() {
    if !root() {
        return;
    }
    let before = Namespace::current().unwrap().netlink().unwrap().links().unwrap();
    let (left, _right) = joined("clean");
    let after = Namespace::current().unwrap().netlink().unwrap().links().unwrap();
    assert_eq!(before, after);
    let mut netlink = left.0.netlink().unwrap();
    netlink.delete_link("left0").unwrap();
    netlink.delete_link("left0").unwrap();
    assert_eq!(netlink.find_link("left0").unwrap(), None);
}

#[test]
fn host_routes_lead_to_their_link_and_wider_ones_do_not() {
    if !root() {
        return;
    }
    let (left, _right) = joined("route");
    let mut netlink = left.0.netlink().unwrap();
    let index = netlink.link_index("left0").unwrap();
    for (pod, gateway) in [("10.77.0.5", "10.9.0.2"), ("fd77::5", "fd99::2")] {
        let pod: IpAddr = pod.parse().unwrap();
        assert_eq!(netlink.route_ifindex(pod).unwrap(), None, "no route yet");
        let wide = if pod.is_ipv4() { "10.77.0.0/24" } else { "fd77::/64" };
        netlink.set_route(&Route::via(wide.parse().unwrap(), gateway.parse().unwrap())).unwrap();
        assert_eq!(netlink.route_ifindex(pod).unwrap(), None, "only a wider route");
        let route = Route::via(pod.into(), gateway.parse().unwrap());
        netlink.set_route(&route).unwrap();
        assert_eq!(netlink.route_ifindex(pod).unwrap(), None, "behind a gateway");
        netlink.delete_route(&route).unwrap();
        let route = Route::direct(pod.into(), "left0");
        netlink.set_route(&route).unwrap();
        netlink.set_route(&route).unwrap();
        assert_eq!(netlink.route_ifindex(pod).unwrap(), Some(index));
        netlink.delete_route(&route).unwrap();
        netlink.delete_route(&route).unwrap();
        assert_eq!(netlink.route_ifindex(pod).unwrap(), None);
    }
    assert_eq!(netlink.route_ifindex("10.9.0.1".parse().unwrap()).unwrap(), None, "a local address has no host route");
}

#[test]
fn a_gateway_without_a_common_subnet_works_on_link() {
    if !root() {
        return;
    }
    let (node, pod) = (Scratch::new("gw-node"), Scratch::new("gw-pod"));
    let mut netlink = node.0.netlink().unwrap();
    netlink
        .add_veth(VethEnd { name: "pod0", namespace: &node.0 }, VethEnd { name: "eth0", namespace: &pod.0 }, None)
        .unwrap();
    for address in ["10.9.9.1/32", "169.254.1.1/32"] {
        netlink.add_address("lo", address.parse().unwrap()).unwrap();
    }
    netlink.add_address("pod0", "fe80::1/64".parse().unwrap()).unwrap();
    netlink.add_address("lo", "fd99::9/128".parse().unwrap()).unwrap();
    netlink.set_up("lo").unwrap();
    netlink.set_up("pod0").unwrap();
    let mut inside = pod.0.netlink().unwrap();
    inside.set_up("lo").unwrap();
    inside.set_up("eth0").unwrap();
    for (address, gateway, everywhere) in [("10.77.0.7", "169.254.1.1", "0.0.0.0/0"), ("fd77::7", "fe80::1", "::/0")] {
        let address: IpAddr = address.parse().unwrap();
        inside.add_address("eth0", address.into()).unwrap();
        inside.set_route(&Route::via(everywhere.parse().unwrap(), gateway.parse().unwrap()).on_link("eth0")).unwrap();
        netlink.set_route(&Route::direct(address.into(), "pod0")).unwrap();
    }
    assert_eq!(transfer(&node.0, &pod.0, "10.9.9.1:0"), "hello");
    assert_eq!(transfer(&node.0, &pod.0, "[fd99::9]:0"), "hello");
    assert_eq!(transfer(&pod.0, &node.0, "10.77.0.7:0"), "hello");
}

#[test]
fn unreachable_destinations_are_refused_at_once() {
    if !root() {
        return;
    }
    let (left, _right) = joined("refuse");
    let mut netlink = left.0.netlink().unwrap();
    for (prefix, target) in [("10.66.0.0/16", "10.66.0.1:80"), ("fd66::/64", "[fd66::1]:80")] {
        netlink.set_route(&Route::unreachable(prefix.parse().unwrap())).unwrap();
        let target = target.parse().unwrap();
        let error = left.0.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))).unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
        assert_eq!(netlink.route_ifindex(target.ip()).unwrap(), None);
    }
}

#[test]
fn bridges_join_their_ports() {
    if !root() {
        return;
    }
    let fabric = Scratch::new("br-f");
    let ends = [Scratch::new("br-a"), Scratch::new("br-b")];
    let mut netlink = fabric.0.netlink().unwrap();
    netlink.add_bridge("br0").unwrap();
    netlink.set_up("br0").unwrap();
    for (number, end) in ends.iter().enumerate() {
        let port = format!("port{number}");
        netlink
            .add_veth(VethEnd { name: &port, namespace: &fabric.0 }, VethEnd { name: "eth0", namespace: &end.0 }, None)
            .unwrap();
        netlink.set_controller(&port, "br0").unwrap();
        netlink.set_up(&port).unwrap();
        let mut inside = end.0.netlink().unwrap();
        inside.add_address("eth0", format!("10.9.0.{}/24", number + 1).parse().unwrap()).unwrap();
        inside.set_up("eth0").unwrap();
    }
    assert_eq!(transfer(&ends[0].0, &ends[1].0, "10.9.0.1:0"), "hello");
}

#[test]
fn settings_and_processes_belong_to_the_namespace() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("sysctl");
    let outside = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    scratch.0.set_sysctls(&[("net/ipv4/ip_default_ttl", "77"), ("net/ipv4/ip_forward", "1")]).unwrap();
    assert_eq!(scratch.0.sysctl("net/ipv4/ip_default_ttl").unwrap(), "77");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), outside);
    let child =
        scratch.0.spawn(Command::new("cat").arg("/proc/sys/net/ipv4/ip_default_ttl").stdout(Stdio::piped())).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"77\n");
    let error = scratch.0.set_sysctl("net/ipv4/no_such_setting", "1").unwrap_err();
    assert!(error.to_string().starts_with("cannot write setting net/ipv4/no_such_setting=1 in rf-netns-test-"));
}

#[test]
fn names_are_listed_reopened_and_deleted() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("names");
    let name = scratch.0.name().to_owned();
    assert_eq!(Namespace::list(&name).unwrap(), std::slice::from_ref(&name));
    assert_eq!(Namespace::open(&name).unwrap().inode().unwrap(), scratch.0.inode().unwrap());
    assert_ne!(Namespace::current().unwrap().inode().unwrap(), scratch.0.inode().unwrap());
    assert!(Namespace::create(&name).unwrap_err().is_already_there());
    Namespace::delete(&name).unwrap();
    Namespace::delete(&name).unwrap();
    assert!(Namespace::open(&name).unwrap_err().is_not_found());
    for bad in ["", "..", "a/b"] {
        assert!(Namespace::create(bad).is_err(), "{bad:?} is no name");
    }
}

#[test]
fn errors_name_operation_object_cause_and_hint() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("errors");
    let mut netlink = scratch.0.netlink().unwrap();
    let error = netlink.set_up("nowhere0").unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().starts_with("cannot find link nowhere0: "), "{error}");
    let error =
        netlink.set_route(&Route::via("10.1.0.0/16".parse().unwrap(), "10.2.0.1".parse().unwrap())).unwrap_err();
    assert!(error.to_string().contains("hint: the gateway must be reachable"), "{error}");
}

/// Runs a test as on a machine without named namespaces: in a mount namespace with a `/run` of its own.
fn untouched(test: impl FnOnce() + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        test();
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
}

/// The number of mounts on a path, visible or not.
fn mounts(path: &str) -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.lines().filter(|line| line.split(' ').nth(4) == Some(path)).count()
}

fn ip_netns(arguments: &[&str]) {
    let done = Command::new("ip").arg("netns").args(arguments).status().unwrap();
    assert!(done.success(), "ip netns {arguments:?}");
}

#[test]
fn another_program_s_first_namespace_covers_nothing() {
    if !root() {
        return;
    }
    untouched(|| {
        let namespace = Namespace::create("ours").unwrap();
        ip_netns(&["add", "theirs"]);
        assert_eq!(mounts("/run/netns/ours"), 1);
        assert_eq!(Namespace::list("").unwrap(), ["ours", "theirs"]);
        assert_eq!(Namespace::open("ours").unwrap().inode().unwrap(), namespace.inode().unwrap());
        Namespace::delete("ours").unwrap();
        assert_eq!(Namespace::list("").unwrap(), ["theirs"]);
        ip_netns(&["exec", "theirs", "true"]);
    });
}

#[test]
fn a_namespace_that_was_covered_can_be_entered_and_deleted() {
    if !root() {
        return;
    }
    untouched(|| {
        // As earlier versions made it: the directory is no mount.
        std::fs::create_dir_all("/run/netns").unwrap();
        std::fs::write("/run/netns/old", "").unwrap();
        let here = Namespace::current().unwrap().inode().unwrap();
        let bind =
            mount(Some("/proc/thread-self/ns/net"), "/run/netns/old", None::<&str>, MsFlags::MS_BIND, None::<&str>);
        bind.unwrap();
        for name in ["first", "second"] {
            ip_netns(&["add", name]);
        }
        assert_eq!(mounts("/run/netns/old"), 2, "iproute2 covers what was there");
        assert_eq!(Namespace::open("old").unwrap().inode().unwrap(), here);
        // The same if the covering mount does not show the namespace again.
        nix::mount::umount("/run/netns/old").unwrap();
        assert_eq!(Namespace::open("old").unwrap().inode().unwrap(), here);
        Namespace::delete("old").unwrap();
        assert_eq!((mounts("/run/netns/old"), Namespace::list("").unwrap().len()), (0, 2));
        Namespace::delete("old").unwrap();
        ip_netns(&["exec", "first", "true"]);
        Namespace::create("old").unwrap();
        Namespace::delete("old").unwrap();
    });
}

#[test]
fn a_cause_is_told_once() {
    let error = Namespace::open("rf-netns-test-nobody-has-this-name").unwrap_err();
    assert!(std::error::Error::source(&error).is_none(), "who prints a chain of causes would tell it twice: {error}");
    assert_eq!(error.to_string().matches("No such file").count(), 1, "{error}");
}

#[test]
fn the_kernel_counts_changes_of_tables_in_each_namespace() {
    if !root() {
        return;
    }
    let (one, other) = (Scratch::new("generation-one"), Scratch::new("generation-other"));
    let number = |scratch: &Scratch| scratch.0.run(ringfence_netns::ruleset_generation).unwrap().unwrap();
    let before = (number(&one), number(&other));
    assert_eq!(number(&one), before.0, "asking changes nothing");
    let mut nft = Command::new("nft");
    assert!(one.0.spawn(nft.args(["add", "table", "inet", "t"])).unwrap().wait().unwrap().success());
    assert_ne!(number(&one), before.0);
    assert_eq!(number(&other), before.1);
}
