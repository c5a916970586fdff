//! Real packets between namespaces, with connection tracking and address translation, which test runs lack.

use std::time::{Duration, Instant};

use ringfence_datapath::{Config, Connections, Datapath, DropReason, EventVerdict, Flow};
use ringfence_engine::{Delta, RuleId};
use ringfence_model::{Direction, Protocol};

use crate::kit::eventually;
use crate::kit::fixture::clear;
use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6, link};
use crate::kit::plan::Hand;
use crate::kit::space::Space;
use crate::kit::talk::{Connection, Datagrams, Echo, is_refused, ping, reaches};

const TCP_80: (Protocol, u16) = (Protocol::TCP, 80);
const UDP_80: (Protocol, u16) = (Protocol::UDP, 80);

/// Pods `2..2 + pods`, without policy. Pod `n` is in peer set `100 + n`.
fn open_pods(pods: usize) -> Hand {
    (2..2 + pods).fold(Hand::default(), |hand, number| with_pod(hand, number, 0, 0))
}

fn with_pod(hand: Hand, number: usize, ingress: u64, egress: u64) -> Hand {
    let peer_set = 100 + u64::try_from(number).unwrap();
    let (v4, v6) = (address(number), address_v6(number));
    hand.endpoint(&v4, ingress, egress).endpoint(&v6, ingress, egress).peer(&v4, peer_set).peer(&v6, peer_set)
}

#[test]
fn pods_joined_by_routes() {
    pods_talk_as_policy_says(Joint::Routes);
}

#[test]
fn pods_joined_by_a_bridge() {
    pods_talk_as_policy_says(Joint::Bridge);
}

fn pods_talk_as_policy_says(joint: Joint) {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(joint, 3);
    let (a, b, c) = (&net.pods[0], &net.pods[1], &net.pods[2]);
    let mut datapath = net.open();
    datapath.sync(&open_pods(3).plan).unwrap();
    net.guard(&mut datapath);
    let servers: Vec<_> =
        [address(3), address_v6(3)].iter().flat_map(|to| [Echo::new(b, to, 80), Echo::new(b, to, 81)]).collect();
    for to in [address(3), address_v6(3)] {
        assert!(reaches(a, &to, 80) && reaches(a, &to, 81) && reaches(c, &to, 80), "open by default");
    }
    // b accepts a on port 80 and no other pod; a is isolated too, but receives replies.
    let plan = with_pod(open_pods(3), 3, 7, 0).isolated(7, 70).allow(7, 102, &[TCP_80, UDP_80], 71, 70);
    let plan = with_pod(plan, 2, 8, 0).isolated(8, 80);
    datapath.sync(&plan.plan).unwrap();
    for (to, from, other) in [(address(3), address(2), address(4)), (address_v6(3), address_v6(2), address_v6(4))] {
        assert!(reaches(a, &to, 80));
        assert!(is_refused(a, &to, 81) && is_refused(c, &to, 80));
        assert!(Datagrams::new(a, &from, &to, 80).live(10));
        assert!(Datagrams::new(a, &from, &to, 81).are_dead(10));
        assert!(Datagrams::new(c, &other, &to, 80).are_dead(10));
        assert!(reaches(&net.node, &to, 81), "the node is exempt");
        assert!(is_refused(&net.world, &to, 80));
        assert!(reaches(b, &to, 81), "a pod and itself");
    }
    let drops = datapath.drop_counters().unwrap();
    assert!(drops.policy >= 10 && drops.total() == drops.policy, "{drops:?}");
    let counters = datapath.rule_counters().unwrap();
    assert!(counters[&RuleId(71)].accepted >= 4 && counters[&RuleId(71)].dropped == 0, "{counters:?}");
    assert_eq!(counters.values().map(|counter| counter.dropped).sum::<u64>(), drops.policy);
    only_what_lasts_is_remembered(&datapath, a);
    drop(servers);
    net.detach(datapath);
    assert!(!net.node.run("nft list tables").contains("ringfence"));
}

/// Each packet is remembered with a probability of one in sixteen.
fn only_what_lasts_is_remembered(datapath: &Datapath, client: &Space) {
    const CONNECTIONS: usize = 400;
    let remembered = || datapath.flows().unwrap().iter().filter(|flow| flow.destination_port == 80).count();
    let before = remembered();
    for _ in 0..CONNECTIONS {
        assert!(reaches(client, &address(3), 80));
    }
    let short = remembered() - before;
    assert!((1..CONNECTIONS * 3 / 4).contains(&short), "{short} of {CONNECTIONS} short connections");
    let lasting = Datagrams::new(client, &address(2), &address(3), 80);
    let source_port = lasting.port();
    eventually("a connection that lasts is remembered in both directions", || {
        assert!(lasting.live(10));
        let flows = datapath.flows().unwrap();
        let is_ours = |flow: &&Flow| flow.source_port == source_port && flow.protocol == Protocol::UDP;
        flows.iter().find(is_ours).is_some_and(|flow| flow.remembered == [true; 2])
    });
}

#[test]
fn neighbours_on_a_bridge_cannot_hide_behind_link_local_addresses() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Bridge, 2);
    let (a, b) = (&net.pods[0], &net.pods[1]);
    for space in [a, b, &net.node] {
        eventually("link-local addresses are usable", || {
            space.run("ip -6 addr").contains("fe80") && !space.run("ip -6 addr").contains("tentative")
        });
    }
    let (own, gateway) = (link_local(b, "eth0"), link_local(&net.node, "br0"));
    let interface = a.index("eth0");
    let (neighbour, node) = (format!("{own}%{interface}"), format!("{gateway}%{interface}"));
    let _servers = [
        Echo::new(b, &format!("{own}%{}", b.index("eth0")), 80),
        Echo::new(&net.node, &format!("{gateway}%{}", net.node.index("br0")), 80),
    ];
    let mut datapath = net.open();
    datapath.sync(&open_pods(2).plan).unwrap();
    net.tell_interfaces(&mut datapath);
    assert!(reaches(a, &neighbour, 80) && reaches(a, &node, 80));
    datapath.sync(&with_pod(open_pods(2), 3, 7, 0).isolated(7, 70).plan).unwrap();
    assert!(is_refused(a, &neighbour, 80), "ingress of b");
    assert!(reaches(a, &node, 80));
    datapath.sync(&with_pod(open_pods(2), 2, 0, 7).isolated(7, 70).plan).unwrap();
    assert!(is_refused(a, &neighbour, 80) && is_refused(a, &node, 80), "egress of a");
    net.detach(datapath);
}

fn link_local(space: &Space, interface: &str) -> String {
    let all = space.run(&format!("ip -6 -o addr show dev {interface} scope link"));
    all.split_whitespace().find(|word| word.starts_with("fe80")).unwrap().replace("/64", "")
}

#[test]
fn a_change_of_policy_cuts_open_connections_both_ways() {
    open_connections_when_policy_changes(Connections::Cut);
}

#[test]
fn or_lets_them_drain() {
    open_connections_when_policy_changes(Connections::Drain);
}

fn open_connections_when_policy_changes(connections: Connections) {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 2);
    let (a, b) = (&net.pods[0], &net.pods[1]);
    let mut datapath = net.open_with(Config { connections, ..net.pins.config() });
    datapath.sync(&open_pods(2).plan).unwrap();
    let mut events = datapath.events().unwrap();
    let _servers = [Echo::new(b, &address(3), 80), Echo::new(b, &address_v6(3), 80)];
    let mut streams = [Connection::new(a, &address(3), 80), Connection::new(a, &address_v6(3), 80)];
    let datagrams = Datagrams::new(a, &address(2), &address(3), 80);
    assert!(streams.iter_mut().all(Connection::lives) && datagrams.live(10));
    let isolated = with_pod(open_pods(2), 3, 7, 0).isolated(7, 70).plan;
    let delta = Delta {
        put_rules: isolated.rules.into_iter().collect(),
        put_policy: isolated.policy.into_iter().collect(),
        put_endpoints: isolated.endpoints.into_iter().collect(),
        ..Delta::default()
    };
    datapath.apply(&delta).unwrap();
    if connections == Connections::Drain {
        assert!(streams.iter_mut().all(Connection::lives) && datagrams.live(10));
        assert!(is_refused(a, &address(3), 80), "but no new ones");
        return net.detach(datapath);
    }
    assert!(streams.iter_mut().all(Connection::is_dead) && datagrams.are_dead(10));
    assert!(datapath.drop_counters().unwrap().cut > 0);
    let cut = EventVerdict::Denied(DropReason::Policy { rule_id: RuleId(70), cut: true });
    let mut seen = Vec::new();
    eventually("the cut is reported", || {
        seen.extend(events.poll(Duration::from_millis(100)).unwrap());
        seen.iter().any(|event| event.verdict == cut && event.direction == Some(Direction::Ingress))
    });
    // Back again: retransmission revives the old connections, because conntrack still has them.
    datapath.sync(&open_pods(2).plan).unwrap();
    assert!(datagrams.live(10) && reaches(a, &address(3), 80));
    net.detach(datapath);
}

#[test]
fn a_connection_outlives_the_loss_of_the_flow_table() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 2);
    let (a, b) = (&net.pods[0], &net.pods[1]);
    let mut datapath = net.open_with(Config { report_allowed: true, ..net.pins.config() });
    let plan = with_pod(open_pods(2), 3, 7, 0).isolated(7, 70).allow(7, 102, &[TCP_80, UDP_80], 71, 70);
    datapath.sync(&with_pod(plan, 2, 8, 0).isolated(8, 80).plan).unwrap();
    let _server = Echo::new(b, &address(3), 80);
    let mut stream = Connection::new(a, &address(3), 80);
    let datagrams = Datagrams::new(a, &address(2), &address(3), 80);
    for _ in 0..5 {
        eventually("the connections are remembered", || {
            assert!(stream.carries(100_000) && datagrams.live(10));
            datapath.flows().unwrap().len() == 2
        });
        clear(&net.pins.map("flows"));
    }
    assert!(stream.lives() && datagrams.live(10));
    let drops = datapath.drop_counters().unwrap();
    assert_eq!(drops.total(), 0, "{drops:?}");
    assert_eq!(datapath.rule_counters().unwrap()[&RuleId(71)].accepted, 2, "two connections, each opened once");
    net.detach(datapath);
}

/// Service `10.97.0.1:80` and `[fd00:97::1]:80` for port 8080 of a pod, as kube-proxy writes it.
fn service(net: &Net, pod: usize) {
    let (v4, v6) = (address(pod), address_v6(pod));
    net.node.run(&format!(
        "nft -f - <<E
        table inet services {{
            chain out {{ type nat hook output priority -100; jump dnat_; }}
            chain pre {{ type nat hook prerouting priority -100; jump dnat_; }}
            chain dnat_ {{
                ip daddr 10.97.0.1 tcp dport 80 dnat ip to {v4}:8080
                ip6 daddr fd00:97::1 tcp dport 80 dnat ip6 to [{v6}]:8080
                ip daddr 192.168.50.1 tcp dport 30080 meta mark set 1 dnat ip to {v4}:8080
            }}
            chain post {{
                type nat hook postrouting priority 100;
                meta mark 1 masquerade
                ip saddr {v4} ip daddr {v4} masquerade
                ip6 saddr {v6} ip6 daddr {v6} masquerade
            }}
        }}
E"
    ));
}

#[test]
fn services_of_pods_joined_by_routes_are_judged_by_their_backend() {
    services_are_judged_by_their_backend(Joint::Routes);
}

#[test]
fn services_of_pods_joined_by_a_bridge_are_judged_by_their_backend() {
    services_are_judged_by_their_backend(Joint::Bridge);
}

fn services_are_judged_by_their_backend(joint: Joint) {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(joint, 3);
    if joint == Joint::Bridge {
        // Bridge plugins set this, so that a pod reaches itself through a Service.
        net.node.run("ip link set pod3 type bridge_slave hairpin on");
    }
    let (a, b, c) = (&net.pods[0], &net.pods[1], &net.pods[2]);
    service(&net, 3);
    let _servers = [Echo::new(b, &address(3), 8080), Echo::new(b, &address_v6(3), 8080)];
    let mut datapath = net.open();
    datapath.sync(&open_pods(3).plan).unwrap();
    net.tell_interfaces(&mut datapath);
    for vip in ["10.97.0.1", "fd00:97::1"] {
        assert!(reaches(a, vip, 80) && reaches(c, vip, 80) && reaches(&net.node, vip, 80));
        assert!(reaches(b, vip, 80), "hairpin");
    }
    assert!(reaches(&net.world, "192.168.50.1", 30080), "node port");
    // a may reach b's port 8080, by egress and ingress; no other pod may, and b itself may not.
    let plan = with_pod(open_pods(3), 3, 7, 0).isolated(7, 70).allow(7, 102, &[(Protocol::TCP, 8080)], 71, 70);
    let plan = with_pod(plan, 2, 0, 9).isolated(9, 90).allow(9, 103, &[(Protocol::TCP, 8080)], 91, 90);
    datapath.sync(&plan.plan).unwrap();
    for vip in ["10.97.0.1", "fd00:97::1"] {
        assert!(reaches(a, vip, 80));
        assert!(is_refused(c, vip, 80), "not c, through the Service neither");
        assert!(is_refused(b, vip, 80), "not b itself through the Service");
        assert!(reaches(&net.node, vip, 80), "the node is exempt");
    }
    assert!(reaches(b, &address(3), 8080), "its own address is no matter of policy");
    assert!(is_refused(&net.world, "192.168.50.1", 30080), "what the node forwards and masquerades is not its own");
    net.detach(datapath);
}

#[test]
fn errors_about_a_connection_reach_an_isolated_pod() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    // A narrow link behind the world: its error says how long packets may be.
    let far = Space::new("far");
    link(&net.world, "far0", &far, "eth0");
    net.world.run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    net.world.run("ip addr add 192.168.60.1/24 dev far0; ip addr add fd00:60::1/64 dev far0 nodad");
    far.run("ip addr add 192.168.60.2/24 dev eth0; ip addr add fd00:60::2/64 dev eth0 nodad");
    far.run("ip route add default via 192.168.60.1; ip route add default via fd00:60::1");
    net.world.run("ip link set far0 mtu 1300");
    net.node.run("ip route add 192.168.60.0/24 via 192.168.50.2; ip route add fd00:60::/64 via fd00:50::2");
    let _servers = [Echo::new(&far, "192.168.60.2", 80), Echo::new(&far, "fd00:60::2", 80)];
    let mut datapath = net.open();
    let plan = with_pod(Hand::default(), 2, 7, 8)
        .isolated(7, 70)
        .isolated(8, 80)
        .peer("192.168.60.0/24", 60)
        .peer("fd00:60::/64", 60)
        .allow(8, 60, &[TCP_80], 81, 80);
    datapath.sync(&plan.plan).unwrap();
    for to in ["192.168.60.2", "fd00:60::2"] {
        assert!(Connection::new(&net.pods[0], to, 80).carries(60_000), "path MTU to {to}");
    }
    assert!(net.pods[0].run("ip route get 192.168.60.2").contains("mtu 1300"), "the error came");
    // The same through a Service and masqueraded. The error is about the actual ends.
    net.node.run(
        "nft 'add table ip proxy; add chain ip proxy pre { type nat hook prerouting priority -100; }; \
         add chain ip proxy post { type nat hook postrouting priority 100; }; \
         add rule ip proxy pre ip daddr 10.97.0.9 dnat to 192.168.60.2; add rule ip proxy post oif up0 masquerade'",
    );
    assert!(Connection::new(&net.pods[0], "10.97.0.9", 80).carries(60_000), "path MTU through a Service");
    assert!(net.pods[0].run("ip route get 10.97.0.9").contains("mtu 1300"), "the error came");
    let before = datapath.drop_counters().unwrap().policy;
    ping(&net.world, &address(2));
    eventually("other ICMP is dropped", || datapath.drop_counters().unwrap().policy == before + 1);
    net.detach(datapath);
}

#[test]
fn fragments_are_judged_whole() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let net = Net::new(joint, 2);
        let pod = &net.pods[0];
        let _servers: Vec<_> = [address(2), address_v6(2)]
            .iter()
            .flat_map(|at| [Echo::new(pod, at, 80), Echo::new(pod, at, 81)])
            .collect();
        let mut datapath = net.open();
        let plan = with_pod(open_pods(2), 2, 7, 7)
            .isolated(7, 70)
            .peer("192.168.50.0/24", 50)
            .peer("fd00:50::/64", 50)
            .allow(7, 50, &[UDP_80], 71, 70)
            .allow(7, 103, &[UDP_80], 71, 70);
        datapath.sync(&plan.plan).unwrap();
        let ends = [(WORLD, address(2)), (WORLD_V6, address_v6(2))];
        for (from, to) in &ends {
            assert!(Datagrams::new(&net.world, from, to, 80).live(5_000));
            assert!(Datagrams::new(&net.world, from, to, 81).are_dead(5_000));
        }
        for (from, to) in [(address(3), address(2)), (address_v6(3), address_v6(2))] {
            assert!(Datagrams::new(&net.pods[1], &from, &to, 80).live(5_000));
            assert!(Datagrams::new(&net.pods[1], &from, &to, 81).are_dead(5_000));
        }
        net.detach(datapath);
    }
}

#[test]
fn spoofed_sources_are_dropped() {
    if !crate::kit::can_run() {
        return;
    }
    for joint in [Joint::Routes, Joint::Bridge] {
        let net = Net::new(joint, 2);
        let a = &net.pods[0];
        let _servers = [Echo::new(&net.world, WORLD, 80), Echo::new(&net.world, WORLD_V6, 80)];
        let mut datapath = net.open();
        datapath.sync(&open_pods(2).plan).unwrap();
        net.tell_interfaces(&mut datapath);
        a.run(&format!("ip addr add {}/32 dev eth0; ip addr add {}/128 dev eth0 nodad", address(3), address_v6(3)));
        a.run("ip addr add 10.9.9.9/32 dev eth0");
        assert!(Datagrams::new(a, &address(2), WORLD, 80).live(10));
        let spoofed = || datapath.drop_counters().unwrap().spoofed;
        assert_eq!(spoofed(), 0);
        for (from, to) in [(address(3), WORLD), (address_v6(3), WORLD_V6), ("10.9.9.9".into(), WORLD)] {
            let before = spoofed();
            assert!(Datagrams::new(a, &from, to, 80).are_dead(10), "{from}");
            assert_eq!(spoofed(), before + 1, "{from}");
        }
        // A packet from outside with the address of a pod.
        net.world.run(&format!("ip addr add {}/32 dev eth0", address(3)));
        let before = spoofed();
        assert!(Datagrams::new(&net.world, &address(3), &address(2), 80).are_dead(10));
        assert_eq!(spoofed(), before + 1);
        net.detach(datapath);
    }
}

#[test]
fn an_address_without_endpoint_in_a_closed_cidr_is_dropped() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 2);
    let a = &net.pods[0];
    let _server = Echo::new(a, &address(2), 80);
    let _elsewhere = Echo::new(&net.world, WORLD, 80);
    let mut datapath = net.open();
    datapath.sync(&Hand::default().cidr("10.1.0.0/24").cidr("fd00:1::/64").plan).unwrap();
    assert!(is_refused(a, WORLD, 80) && is_refused(&net.world, &address(2), 80));
    assert!(is_refused(&net.pods[1], &address(2), 80));
    assert!(reaches(&net.node, &address(2), 80), "the node probes its pods before they are ready");
    assert!(reaches(&net.node, "192.168.50.2", 80));
    assert!(datapath.drop_counters().unwrap().not_ready > 0);
    datapath.sync(&with_pod(Hand::default().cidr("10.1.0.0/24").cidr("fd00:1::/64"), 2, 0, 0).plan).unwrap();
    assert!(reaches(a, WORLD, 80) && reaches(&net.world, &address(2), 80));
    assert!(is_refused(&net.pods[1], &address(2), 80), "the other one still waits");
    net.detach(datapath);
}

#[test]
fn denials_are_counted_exactly_and_reported_now_and_then() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let mut datapath = net.open_with(Config { report_allowed: true, ..net.pins.config() });
    let plan = with_pod(Hand::default(), 2, 7, 0).isolated(7, 70).peer(WORLD, 50).allow(7, 50, &[UDP_80], 71, 70);
    datapath.sync(&plan.plan).unwrap();
    let mut events = datapath.events().unwrap();
    let _server = Echo::new(&net.pods[0], &address(2), 80);
    assert!(Datagrams::new(&net.world, WORLD, &address(2), 80).live(10));
    let denied = Datagrams::new(&net.world, WORLD, &address(2), 81);
    let started = Instant::now();
    for _ in 0..50 {
        denied.are_dead_at_once();
    }
    let seconds = started.elapsed().as_secs() + 1;
    eventually("all are counted", || datapath.drop_counters().unwrap().policy == 50);
    assert_eq!(datapath.rule_counters().unwrap()[&RuleId(70)].dropped, 50);
    let mut seen = Vec::new();
    eventually("both outcomes are reported", || {
        seen.extend(events.poll(Duration::from_millis(50)).unwrap());
        seen.len() >= 2
    });
    let allowed: Vec<_> = seen.iter().filter(|event| event.verdict == EventVerdict::Allowed(RuleId(71))).collect();
    assert_eq!((allowed.len(), allowed[0].destination_port, allowed[0].protocol), (1, 80, Protocol::UDP));
    let denials: Vec<_> = seen.iter().filter(|event| event.destination_port == 81).collect();
    assert!(!denials.is_empty() && denials.len() as u64 <= seconds, "{denials:?}");
    let first = denials[0];
    assert_eq!(first.verdict, EventVerdict::Denied(DropReason::Policy { rule_id: RuleId(70), cut: false }));
    assert_eq!((first.source.to_string(), first.destination.to_string()), (WORLD.to_owned(), address(2)));
    assert_eq!((first.direction, first.interface), (Some(Direction::Ingress), net.node.index("up0")));
    net.detach(datapath);
}
