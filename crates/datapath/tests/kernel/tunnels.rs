//! Tunnels of nodes: pods can send nothing into them, whichever program created them.

use ringfence_datapath::Datapath;

use crate::kit::net::{Joint, Net, WORLD, address};
use crate::kit::plan::{Hand, ip};
use crate::kit::wire::{Ip, Wire, frame};

const POD: usize = 2;
const VICTIM: usize = 3;
const NODE: &str = "192.168.50.1";
/// A pod of the other node, from which the victim accepts connections.
const REMOTE: &str = "10.2.0.9";
const PORT: u16 = 8472;
const MARKER: &[u8] = b"hand-wrapped in a tunnel";

/// A node with a VXLAN link as flannel creates it. The victim accepts only a pod of the other node, the world.
fn stage(joint: Joint) -> (Net, Datapath) {
    let net = Net::new(joint, 2);
    net.node.run(&format!("ip link add vx0 type vxlan id 1 local {NODE} dev up0 dstport {PORT} nolearning"));
    net.node.run("ip link set vx0 address 02:00:00:00:00:01 up; ip route add 10.2.0.0/24 dev vx0");
    let mut datapath = net.open();
    let plan = Hand::default().isolated(7, 70).endpoint(&address(POD), 0, 0).endpoint(&address(VICTIM), 7, 0);
    let plan = plan.peer(REMOTE, 9).peer("10.2.0.5", 10).allow(7, 9, &[(ringfence_model::Protocol::UDP, 80)], 71, 70);
    datapath.sync(&plan.plan).unwrap();
    net.tell_interfaces(&mut datapath);
    (net, datapath)
}

/// VXLAN around a packet from the remote pod to the victim.
fn wrapped(from: &str, to: &str, port: u16) -> (Ip, Vec<u8>) {
    let inner = Ip::new(REMOTE, &address(VICTIM), 17);
    let inner = frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 0x0800, &inner.around(&inner.udp(4000, 80, MARKER)));
    let outer = Ip::new(from, to, 17);
    let bytes = outer.udp(40_000, port, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat());
    (outer, bytes)
}

fn tell(datapath: &mut Datapath) {
    datapath.set_tunnels(&[(17, PORT), (4, 0)].into()).unwrap();
    datapath.set_infra_addresses([NODE, WORLD].map(ip), [ip("10.97.0.1")]).unwrap();
}

#[test]
fn a_pod_puts_nothing_into_a_tunnel_of_its_node() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let (net, mut datapath) = stage(joint);
        let (pod, victim) = (Wire::new(&net.pods[0], "eth0"), Wire::new(&net.pods[1], "eth0"));
        let router = net.gateway(POD);
        let send = |packets: &[Vec<u8>]| packets.iter().for_each(|p| pod.send(&frame(router, pod.mac, 0x0800, p)));
        let (outer, bytes) = wrapped(&address(POD), NODE, PORT);
        let whole = vec![outer.around(&bytes)];
        let part = |from: usize, to: usize| {
            let fragment = Some((u16::try_from(from).unwrap(), to < bytes.len(), 77));
            Ip { fragment, ..outer.clone() }.around(&bytes[from..to])
        };
        let parts = vec![part(0, 24), part(24, bytes.len())];
        let other_way = vec![part(24, bytes.len()), part(0, 24)];
        let all = [whole, parts, other_way];
        for packets in &all {
            send(packets);
            assert!(victim.hears_soon(MARKER), "{joint:?}: no attack where nothing is told");
        }
        net.guard(&mut datapath);
        tell(&mut datapath);
        let spoofed = datapath.drop_counters().unwrap().spoofed;
        for packets in &all {
            victim.forget();
            send(packets);
            assert!(!victim.hears(MARKER), "{joint:?}");
        }
        assert_eq!(datapath.drop_counters().unwrap().spoofed, spoofed + 3, "{joint:?}");
        net.detach(datapath);
    }
}

#[test]
fn nor_into_one_of_another_node() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let (net, mut datapath) = stage(joint);
        let (pod, world) = (Wire::new(&net.pods[0], "eth0"), Wire::new(&net.world, "eth0"));
        let router = net.gateway(POD);
        net.guard(&mut datapath);
        let arrives = |port: u16, expected: bool| {
            world.forget();
            let (outer, bytes) = wrapped(&address(POD), WORLD, port);
            pod.send(&frame(router, pod.mac, 0x0800, &outer.around(&bytes)));
            if expected { world.hears_soon(MARKER) } else { world.hears(MARKER) }
        };
        assert!(arrives(PORT, true), "{joint:?}: no tunnel is known");
        tell(&mut datapath);
        assert!(!arrives(PORT, false), "{joint:?}");
        assert!(arrives(PORT + 1, true), "{joint:?}: to a node, but not into a tunnel");
        // The same port of an address that is no node's belongs to no tunnel.
        datapath.set_infra_addresses([ip(NODE)], []).unwrap();
        assert!(arrives(PORT, true), "{joint:?}");
        net.detach(datapath);
    }
}

#[test]
fn what_comes_into_a_tunnel_comes_from_nodes() {
    if !crate::kit::can_run() {
        return;
    }
    let (net, mut datapath) = stage(Joint::Routes);
    net.guard(&mut datapath);
    tell(&mut datapath);
    let (world, victim) = (Wire::new(&net.world, "eth0"), Wire::new(&net.pods[1], "eth0"));
    let router = Wire::new(&net.node, "up0").mac;
    let arrives = |from: &str, expected: bool| {
        victim.forget();
        let (outer, bytes) = wrapped(from, NODE, PORT);
        world.send(&frame(router, world.mac, 0x0800, &outer.around(&bytes)));
        if expected { victim.hears_soon(MARKER) } else { victim.hears(MARKER) }
    };
    assert!(arrives(WORLD, true), "from the other node");
    assert!(!arrives("10.2.0.5", false), "from a pod there, whose node let it");
    net.detach(datapath);
}
