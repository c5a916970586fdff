//! The link guard: programs at the node's end of pods' links are attached, restored, replaced and detached.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ringfence_datapath::{Config, Datapath, LinkHook, PodLink};

use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6};
use crate::kit::plan::Hand;
use crate::kit::space::Space;
use crate::kit::talk::{Datagrams, Echo, reaches};
use crate::kit::wire::{Ip, Wire, frame};
use crate::kit::{eventually, foreign};

/// A plan for pods without policy.
fn open(pods: usize) -> Hand {
    (2..2 + pods)
        .fold(Hand::default(), |hand, number| hand.endpoint(&address(number), 0, 0).endpoint(&address_v6(number), 0, 0))
}

/// True if a packet of a pod with another's address arrives in the world.
fn spoofs(net: &Net) -> bool {
    let (pod, world) = (Wire::new(&net.pods[0], "eth0"), Wire::new(&net.world, "eth0"));
    let gateway = net.gateway(2);
    let packet = Ip::new("10.9.9.9", WORLD, 17);
    let marker = b"under another's address";
    pod.send(&frame(gateway, pod.mac, 0x0800, &packet.around(&packet.udp(4000, 80, marker))));
    world.hears(marker)
}

/// Runs `work` with a datapath for each attachment point, and a network for each.
fn everywhere(joint: Joint, work: impl Fn(&Net, Datapath)) {
    if !crate::kit::can_run() {
        return;
    }
    for hook in [LinkHook::Tcx, LinkHook::Clsact, LinkHook::Either] {
        let net = Net::new(joint, 2);
        let mut datapath = net.open_with(Config { link_hook: Some(hook), ..net.pins.config() });
        datapath.sync(&open(2).plan).unwrap();
        work(&net, datapath);
    }
}

#[test]
fn programs_that_others_removed_are_attached_again() {
    for joint in [Joint::Routes, Joint::Bridge] {
        everywhere(joint, |net, mut datapath| {
            assert!(spoofs(net), "nothing is told yet");
            net.guard(&mut datapath);
            assert!(!spoofs(net));
            let _servers = [Echo::new(&net.world, WORLD, 80), Echo::new(&net.world, WORLD_V6, 80)];
            let _pod = [Echo::new(&net.pods[1], &address(3), 80), Echo::new(&net.pods[1], &address_v6(3), 80)];
            for to in [WORLD, WORLD_V6, &address(3), &address_v6(3)] {
                assert!(reaches(&net.pods[0], to, 80), "{joint:?} to {to}");
            }
            assert!(Datagrams::new(&net.pods[0], &address(2), WORLD, 80).live(5000), "fragments");
            assert!(reaches(&net.node, &address(3), 80));
            // Another program removes the link programs.
            let links: BTreeSet<u32> = net.links().into_keys().collect();
            assert!(net.check_all_links(&mut datapath).restored.is_empty());
            net.remove_link_programs();
            let found = net.check_all_links(&mut datapath);
            assert_eq!((found.restored, found.guarded, found.failed.len()), (links.clone(), links, 0));
            assert!(!spoofs(net));
            // Another agent without the pins takes over, and then ends for good.
            drop(datapath);
            let mut datapath = net.open();
            datapath.sync(&open(2).plan).unwrap();
            net.guard(&mut datapath);
            assert!(!spoofs(net));
            net.detach(datapath);
            assert!(spoofs(net), "no program is left behind");
        });
    }
}

/// An agent has no `CAP_SYS_ADMIN`. A new agent has to replace the programs of the earlier one, whose maps are no
/// longer updated.
#[test]
fn an_agent_without_admin_replaces_what_an_earlier_one_left() {
    for joint in [Joint::Routes, Joint::Bridge] {
        everywhere(joint, |net, mut datapath| {
            let _server = Echo::new(&net.pods[1], &address(3), 80);
            net.guard(&mut datapath);
            let ports = net.links();
            let nobody = ports.iter().map(|(index, port)| (*index, PodLink { pod: false, ..*port }));
            net.guard_pod_links(&mut datapath, &nobody.collect());
            let hook = datapath.link_hook();
            assert!(!reaches(&net.node, &address(3), 80), "{joint:?}, {hook:?}: closed");
            drop(datapath);
            let mut config = Config { link_hook: hook, ..net.pins.config() };
            // Another layout, and therefore other maps.
            config.sizes.flows *= 2;
            let mut next = net.open_with(config);
            next.sync(&open(2).plan).unwrap();
            net.tell_interfaces(&mut next);
            net.node.enter_without_admin(|| {
                let guarded = net.guard_pod_links(&mut next, &ports);
                assert_eq!((guarded.guarded.len(), guarded.failed.len()), (2, 0), "{guarded:?}");
            });
            assert!(reaches(&net.node, &address(3), 80), "{joint:?}, {hook:?}: the programs of before are gone");
            assert!(!spoofs(net), "{joint:?}, {hook:?}");
            net.detach(next);
        });
    }
}

/// The queueing disciplines of the plugin `bandwidth` at a pod's link: a shaper for packets to the pod, and a filter of
/// this priority that redirects packets from the pod to another device.
fn limit(net: &Net, priority: u32) {
    net.node.run(
        "ip link add bw0 type ifb; ip link set bw0 up; tc qdisc add dev bw0 root tbf rate 1gbit burst 1mb latency 50ms",
    );
    net.node.run("tc qdisc add dev pod2 root tbf rate 1gbit burst 1mb latency 50ms; tc qdisc add dev pod2 ingress");
    net.node.run(&format!(
        "tc filter add dev pod2 parent ffff: prio {priority} protocol all u32 match u32 0 0 \
         action mirred egress redirect dev bw0"
    ));
}

#[test]
fn programs_and_a_bandwidth_limit_share_a_link() {
    for joint in [Joint::Routes, Joint::Bridge] {
        everywhere(joint, |net, mut datapath| {
            let _server = Echo::new(&net.world, WORLD, 80);
            // Without tcx nothing comes before a filter of the first priority, and a discipline of kind `ingress` has
            // no place for frames to the pod.
            limit(net, if datapath.link_hook() == Some(LinkHook::Clsact) { 5 } else { 1 });
            net.tell_interfaces(&mut datapath);
            let found = net.guard_pod_links(&mut datapath, &net.links());
            let whole = datapath.link_hook() != Some(LinkHook::Clsact) || joint == Joint::Routes;
            assert_eq!(found.failed.is_empty(), whole, "{found:?}");
            assert!(!spoofs(net) && reaches(&net.pods[0], WORLD, 80), "{joint:?}");
            let shown = || net.node.run("tc qdisc show dev pod2; tc filter show dev pod2 ingress");
            assert!(shown().contains("qdisc ingress") && shown().contains("qdisc tbf") && shown().contains("mirred"));
            net.detach(datapath);
            assert!(shown().contains("qdisc ingress") && shown().contains("qdisc tbf") && shown().contains("mirred"));
            assert!(spoofs(net));
        });
    }
}

#[test]
fn a_link_that_cannot_be_guarded_is_told() {
    everywhere(Joint::Routes, |net, mut datapath| {
        limit(net, 1);
        net.tell_interfaces(&mut datapath);
        let limited = net.node.index("pod2");
        let mut ports = net.links();
        // A link that is gone is no failure.
        ports.insert(4_000_000, PodLink { bridge: None, mac: None, pod: true, idle: false });
        let found = net.guard_pod_links(&mut datapath, &ports);
        let refused = datapath.link_hook() == Some(LinkHook::Clsact);
        assert_eq!(found.failed.keys().copied().collect::<Vec<_>>(), if refused { vec![limited] } else { vec![] });
        assert_eq!(found.guarded.len(), if refused { 1 } else { 2 });
        // On a bridge the hardware address is needed.
        let bridge = Some(net.node.index("up0"));
        ports.insert(net.node.index("pod3"), PodLink { bridge, mac: None, pod: true, idle: false });
        let why = net.guard_pod_links(&mut datapath, &ports).failed.remove(&net.node.index("pod3")).unwrap();
        assert!(why.contains("hardware address"), "{why}");
        net.detach(datapath);
    });
}

#[test]
fn a_filter_gives_way_to_tcx_where_somebody_elses_program_is() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 2);
    let mut datapath = net.open();
    datapath.sync(&open(2).plan).unwrap();
    if datapath.link_hook() != Some(LinkHook::Either) {
        return crate::kit::skip("this kernel has no tcx");
    }
    net.tell_interfaces(&mut datapath);
    let starting: BTreeMap<u32, PodLink> =
        net.links().into_iter().map(|(index, port)| (index, PodLink { idle: true, ..port })).collect();
    assert_eq!(net.guard_pod_links(&mut datapath, &starting).guarded.len(), 2);
    let filters = || net.node.run("tc filter show dev pod2 ingress").contains("ringfence_from");
    assert!(filters() && !spoofs(&net));
    let index = net.node.index("pod2");
    net.node.enter(|| foreign::let_all_pass(index));
    assert!(spoofs(&net), "it comes before filters");
    let found = net.check_all_links(&mut datapath);
    assert_eq!((found.failed.len(), found.guarded.len(), found.restored.len()), (0, 2, 0), "nobody took anything away");
    assert!(!spoofs(&net) && !filters());
    assert_eq!(net.check_all_links(&mut datapath).guarded.len(), 2);
    net.detach(datapath);
    assert!(!filters());
    assert!(net.node.run("tc qdisc show dev pod2").contains("clsact"), "to take it away would cost packets");
}

#[test]
fn a_port_of_nobody_is_closed_without_taking_a_place_that_a_plugin_may_want() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Bridge, 2);
    let mut datapath = net.open();
    datapath.sync(&open(2).plan).unwrap();
    let mut ports = net.links();
    let (known, index) = (net.links(), net.node.index("pod2"));
    ports.insert(index, PodLink { pod: false, ..known[&index] });
    assert!(net.guard_pod_links(&mut datapath, &ports).failed.is_empty());
    net.tell_interfaces(&mut datapath);
    let _server = Echo::new(&net.world, WORLD, 80);
    assert!(!reaches(&net.pods[0], WORLD, 80), "it is closed");
    limit(&net, 1);
    assert!(net.guard_pod_links(&mut datapath, &known).failed.is_empty(), "it is a pod's now");
    // The kernel of the pod has to resolve the router again.
    eventually("the pod reaches the world", || reaches(&net.pods[0], WORLD, 80));
    assert!(!spoofs(&net));
    net.detach(datapath);
}

/// More links than a node usually has pods: the default is 110, and 250 is the usual maximum.
const MANY: usize = 250;

#[test]
fn many_links_are_guarded_soon_and_one_more_at_once() {
    if !crate::kit::can_run() {
        return;
    }
    if ringfence_datapath::features::probe().link_hook != Some(LinkHook::Either) {
        return crate::kit::skip("this kernel has no tcx to compare with");
    }
    let (net, others) = (Net::new(Joint::Bridge, 1), Space::new("others"));
    for number in 0..MANY {
        net.node.run(&format!(
            "ip link add many{number} type veth peer name eth{number} netns {}; ip link set many{number} master br0 up",
            others.name
        ));
    }
    let bridge = net.links().into_values().next().unwrap().bridge;
    let port = |number| {
        (net.node.index(&format!("many{number}")), PodLink { bridge, mac: Some([2; 6]), pod: true, idle: true })
    };
    // Measures the time to guard some links at once, and then each of the others.
    let guard = |hook, first: std::ops::Range<usize>, then: std::ops::Range<usize>| {
        let mut datapath = net.open_with(Config { link_hook: Some(hook), ..net.pins.config() });
        datapath.sync(&open(1).plan).unwrap();
        let mut ports: BTreeMap<u32, PodLink> = first.map(port).collect();
        let mut took = Vec::new();
        for more in [None].into_iter().chain(then.map(Some)) {
            ports.extend(more.map(port));
            let begun = Instant::now();
            assert_eq!(net.guard_pod_links(&mut datapath, &ports).guarded.len(), ports.len());
            took.push(begun.elapsed());
        }
        net.detach(datapath);
        let at_once = took.remove(0);
        took.sort();
        println!(
            "{hook:?}: at once {at_once:?}; one more {:?}, {:?} at most",
            took[took.len() / 2],
            took[took.len() - 1]
        );
        (at_once, took[took.len() / 2])
    };
    let (at_once, one) = guard(LinkHook::Either, 0..MANY * 9 / 10, MANY * 9 / 10..MANY);
    // One link after another, because each waits for a grace period of RCU.
    let (_, slow) = guard(LinkHook::Tcx, 0..1, 1..8);
    assert!(one * 2 < slow && at_once < slow * 40, "one more: {one:?}, in tcx {slow:?}; the first {at_once:?}");
}
