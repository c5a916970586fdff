//! Packets with the address of another have no effect: no reply of the kernel carries their content to the owner of the
//! address, no fragment is kept, and no connection is tracked.

use std::time::Duration;

use ringfence_datapath::Datapath;

use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6};
use crate::kit::plan::Hand;
use crate::kit::wire::{Ip, SILENCE, Wire, frame, kind_of};

const CAGED: usize = 2;
const MARKER: &[u8] = b"what nobody is to know";

/// A packet that makes the kernel answer.
struct Question {
    name: &'static str,
    packet: Vec<u8>,
    /// Number of the pod that receives the answer. None: the world.
    collector: Option<usize>,
}

/// A node with pods, of which one may send nothing. The node answers without rate limits.
fn stage(joint: Joint) -> (Net, Datapath) {
    let net = Net::new(joint, 3);
    let mut datapath = net.open();
    let plan = Hand::default().isolated(8, 80).endpoint(&address(2), 0, 8).endpoint(&address_v6(2), 0, 8);
    let plan = (3..5).fold(plan, |plan, n| plan.endpoint(&address(n), 0, 0).endpoint(&address_v6(n), 0, 0));
    datapath.sync(&plan.plan).unwrap();
    net.tell_interfaces(&mut datapath);
    net.node.run("echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit");
    net.node.run("echo 1 > /proc/sys/net/ipv4/ipfrag_time; echo 1 > /proc/sys/net/ipv6/ip6frag_time");
    net.node.run("echo 1 > /proc/sys/net/netfilter/nf_conntrack_frag6_timeout");
    net.node.run("ip route add unreachable 10.99.0.0/16; ip route add unreachable fd00:99::/64");
    net.node.run(
        "nft 'add table inet rejects; add chain inet rejects f { type filter hook forward priority 0; }; \
         add rule inet rejects f ip daddr 10.97.0.66 reject; add rule inet rejects f ip6 daddr fd00:97::66 reject'",
    );
    (net, datapath)
}

fn questions(joint: Joint) -> Vec<Question> {
    let mut all = Vec::new();
    let mut ask = |name: &'static str, packet: Vec<u8>| all.push(Question { name, packet, collector: None });
    let datagram = |ip: &Ip| ip.around(&ip.udp(4000, 4001, MARKER));
    for (source, far, unreachable, rejected) in
        [(WORLD, "10.98.0.1", "10.99.0.1", "10.97.0.66"), (WORLD_V6, "fd00:98::1", "fd00:99::1", "fd00:97::66")]
    {
        ask("hop limit 1", datagram(&Ip { hops: 1, ..Ip::new(source, far, 17) }));
        ask("unreachable range", datagram(&Ip::new(source, unreachable, 17)));
        ask("rejected", datagram(&Ip::new(source, rejected, 17)));
    }
    let bad = Ip { options: vec![7, 3, 1, 0], ..Ip::new(WORLD, "10.98.0.1", 17) };
    ask("bad option", datagram(&bad));
    if joint == Joint::Routes {
        // A bridge that hands packets to netfilter drops this packet at once.
        let bad = Ip { options: vec![17, 0, 0xc2, 4, 0, 0, 0, 0], first: 0, ..Ip::new(WORLD_V6, "fd00:98::1", 17) };
        ask("bad hop-by-hop option", datagram(&bad));
    }
    let part = [MARKER, &[0; 64]].concat();
    for (source, own) in [(WORLD, "10.1.0.1"), (WORLD_V6, "fd00:1::1")] {
        let first = Ip { fragment: Some((0, true, 99)), ..Ip::new(source, own, 17) };
        ask("fragment that stays alone", first.around(&first.udp(4000, 4001, &part)[..64]));
    }
    if joint == Joint::Bridge {
        // Out of the bridge again, to a neighbour: the redirect goes to the apparent sender.
        let packet = datagram(&Ip::new(&address(3), &address(4), 17));
        all.push(Question { name: "redirect", packet, collector: Some(3) });
    }
    all
}

struct Effects {
    reassembly: u64,
    tracked: bool,
}

fn effects(net: &Net) -> Effects {
    let number = |line: &str| net.node.run(line).trim().parse::<u64>().unwrap();
    let v4 = number("awk '/^Ip: [0-9]/ { print $15 }' /proc/net/snmp");
    let v6 = number("awk '$1 == \"Ip6ReasmReqds\" { print $2 }' /proc/net/snmp6");
    let tracked = net.node.run("cat /proc/net/nf_conntrack");
    Effects { reassembly: v4 + v6, tracked: tracked.contains("dport=4001") }
}

#[test]
fn the_kernel_answers_no_false_source() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let (net, mut datapath) = stage(joint);
        let (caged, world) = (Wire::new(&net.pods[0], "eth0"), Wire::new(&net.world, "eth0"));
        let pods: Vec<_> = net.pods.iter().map(|pod| Wire::new(pod, "eth0")).collect();
        let router = net.gateway(CAGED);
        let ask = |question: &Question, expected: bool| {
            let frame = frame(router, caged.mac, kind_of(&question.packet), &question.packet);
            let collector = question.collector.map_or(&world, |number| &pods[number - 2]);
            collector.forget();
            // The kernel answers equal packets only every few seconds.
            let mut attempts = 0..if expected { 8 } else { 1 };
            attempts.any(|_| {
                caged.send(&frame);
                collector.hears_for(MARKER, if expected { Duration::from_millis(1500) } else { SILENCE })
            })
        };
        let all = questions(joint);
        let unanswered: Vec<_> =
            all.iter().filter(|question| !ask(question, true)).map(|question| question.name).collect();
        assert!(unanswered.is_empty(), "{joint:?}: no answer without a guard: {unanswered:?}");
        net.guard(&mut datapath);
        let before = effects(&net);
        let spoofed = datapath.drop_counters().unwrap().spoofed;
        for question in &all {
            assert!(!ask(question, false), "{joint:?}: {}", question.name);
        }
        // Longer than a fragment waits for others.
        assert!(!world.hears_for(MARKER, Duration::from_millis(1500)), "{joint:?}");
        let after = effects(&net);
        assert_eq!(before.reassembly, after.reassembly, "{joint:?}: fragments were taken in");
        assert!(!after.tracked, "{joint:?}: a connection is known");
        assert_eq!(datapath.drop_counters().unwrap().spoofed - spoofed, all.len() as u64, "{joint:?}: each is counted");
        net.detach(datapath);
    }
}
