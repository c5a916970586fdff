//! A node with pods, and the world outside, as network namespaces.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ringfence_datapath::{Config, Datapath, GuardStatus, GuardWork, Interface, LinkGuard, PodLink};

use super::space::{PinDir, Space};
use super::wire::{Mac, Wire};

/// The connection between pods and their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joint {
    Routes,
    Bridge,
}

/// A node, its pods `10.1.0.2`, `10.1.0.3`, … (and `fd00:1::2`, …) and the world, `192.168.50.2` (`fd00:50::2`).
pub(crate) struct Net {
    pub(crate) node: Space,
    pub(crate) pods: Vec<Space>,
    pub(crate) world: Space,
    pub(crate) pins: PinDir,
    joint: Joint,
    /// Link guard of the datapath that was opened last.
    guard: Mutex<Option<LinkGuard>>,
}

pub(crate) const WORLD: &str = "192.168.50.2";
pub(crate) const WORLD_V6: &str = "fd00:50::2";

impl Net {
    pub(crate) fn new(joint: Joint, pods: usize) -> Self {
        let node = Space::new("node");
        node.run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        node.run("echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/default/rp_filter");
        let world = Space::new("world");
        link(&node, "up0", &world, "eth0");
        node.run("ip addr add 192.168.50.1/24 dev up0; ip addr add fd00:50::1/64 dev up0 nodad");
        world.run("ip addr add 192.168.50.2/24 dev eth0; ip addr add fd00:50::2/64 dev eth0 nodad");
        world.run("ip route add default via 192.168.50.1; ip route add default via fd00:50::1");
        node.run("ip route add default via 192.168.50.2; ip route add default via fd00:50::2");
        if joint == Joint::Bridge {
            node.run("ip link add br0 type bridge; ip link set br0 up");
            node.run("ip addr add 10.1.0.1/24 dev br0; ip addr add fd00:1::1/64 dev br0 nodad");
            node.run("for f in iptables ip6tables; do echo 1 > /proc/sys/net/bridge/bridge-nf-call-$f; done");
        }
        let pods = (2..).take(pods).map(|number| pod(&node, joint, number)).collect();
        Self { node, pods, world, pins: PinDir::new(), joint, guard: Mutex::default() }
    }

    pub(crate) fn is_bridged(&self) -> bool {
        self.joint == Joint::Bridge
    }

    pub(crate) fn open(&self) -> Datapath {
        self.open_with(self.pins.config())
    }

    pub(crate) fn open_with(&self, config: Config) -> Datapath {
        let datapath = self.node.enter(|| Datapath::open(config)).unwrap();
        *self.guard.lock().unwrap() = Some(datapath.link_guard().unwrap());
        datapath
    }

    /// Sets the interfaces of all pods.
    pub(crate) fn tell_interfaces(&self, datapath: &mut Datapath) {
        let mut addresses = Vec::new();
        let bridge = (self.joint == Joint::Bridge).then(|| self.node.index("br0"));
        for number in 2..2 + self.pods.len() {
            let interface = Interface { index: self.node.index(&format!("pod{number}")), bridge };
            addresses.push((address(number).parse().unwrap(), interface));
            addresses.push((address_v6(number).parse().unwrap(), interface));
        }
        datapath.set_interfaces(addresses).unwrap();
    }

    /// Returns the links of all pods, as the agent finds them.
    pub(crate) fn links(&self) -> BTreeMap<u32, PodLink> {
        let bridge = (self.joint == Joint::Bridge).then(|| self.node.index("br0"));
        let port = |(number, pod): (usize, &Space)| {
            let mac = Some(Wire::new(pod, "eth0").mac);
            (self.node.index(&format!("pod{number}")), PodLink { bridge, mac, pod: true, idle: false })
        };
        (2..).zip(&self.pods).map(port).collect()
    }

    /// Sets the interfaces and guards all pod links.
    pub(crate) fn guard(&self, datapath: &mut Datapath) -> GuardStatus {
        self.tell_interfaces(datapath);
        let links = self.links();
        let guarded = self.guard_pod_links(datapath, &links);
        assert!(guarded.failed.is_empty() && guarded.guarded.len() == links.len(), "{guarded:?}");
        guarded
    }

    /// Sets the guarded links.
    pub(crate) fn guard_pod_links(&self, datapath: &mut Datapath, links: &BTreeMap<u32, PodLink>) -> GuardStatus {
        let work = datapath.guard_links(links).unwrap();
        self.carry_out(datapath, work)
    }

    /// Carries out work at links.
    pub(crate) fn carry_out(&self, datapath: &mut Datapath, work: Option<GuardWork>) -> GuardStatus {
        let mut guard = self.guard.lock().unwrap();
        let guard = guard.as_mut().unwrap();
        if let Some(work) = work {
            guard.enqueue(work);
        }
        datapath.run_guard(guard).unwrap()
    }

    /// Checks that the programs are attached, and attaches missing ones.
    pub(crate) fn check_all_links(&self, datapath: &mut Datapath) -> GuardStatus {
        self.guard.lock().unwrap().as_mut().unwrap().check_all_links();
        self.carry_out(datapath, None)
    }

    /// Returns the hardware address of a pod's gateway.
    pub(crate) fn gateway(&self, number: usize) -> Mac {
        let port = if self.joint == Joint::Bridge { "br0".to_owned() } else { format!("pod{number}") };
        Wire::new(&self.node, &port).mac
    }

    /// Detaches the programs from all links, as another program may do.
    pub(crate) fn remove_link_programs(&self) {
        let nothing = std::env::temp_dir().join("rfdp-nothing-is-pinned-here");
        self.node.enter(|| ringfence_datapath::remove(&nothing)).unwrap();
    }

    pub(crate) fn detach(&self, datapath: Datapath) {
        self.node.enter(|| datapath.detach()).unwrap();
    }
}

pub(crate) fn address(number: usize) -> String {
    format!("10.1.0.{number}")
}

pub(crate) fn address_v6(number: usize) -> String {
    format!("fd00:1::{number}")
}

fn pod(node: &Space, joint: Joint, number: usize) -> Space {
    let pod = Space::new(&format!("pod{number}"));
    let port = format!("pod{number}");
    link(node, &port, &pod, "eth0");
    let (v4, v6) = (address(number), address_v6(number));
    match joint {
        Joint::Routes => {
            pod.run(&format!("ip addr add {v4}/32 dev eth0; ip addr add {v6}/128 dev eth0 nodad"));
            pod.run("ip route add 10.1.0.1 dev eth0; ip route add default via 10.1.0.1");
            pod.run("ip route add fd00:1::1 dev eth0; ip route add default via fd00:1::1");
            node.run(&format!("ip addr add 10.1.0.1/32 dev {port}; ip addr add fd00:1::1/128 dev {port} nodad"));
            node.run(&format!("ip route add {v4} dev {port}; ip route add {v6} dev {port}"));
        }
        Joint::Bridge => {
            node.run(&format!("ip link set {port} master br0"));
            pod.run(&format!("ip addr add {v4}/24 dev eth0; ip addr add {v6}/64 dev eth0 nodad"));
            pod.run("ip route add default via 10.1.0.1; ip route add default via fd00:1::1");
        }
    }
    pod
}

/// Connects two namespaces by a veth pair.
pub(crate) fn link(one: &Space, name: &str, other: &Space, other_name: &str) {
    one.run(&format!("ip link add {name} type veth peer name {other_name} netns {}", other.name));
    one.run(&format!("ip link set {name} up"));
    other.run(&format!("ip link set {other_name} up"));
}
