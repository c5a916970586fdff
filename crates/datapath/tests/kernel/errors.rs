//! ICMP errors about connections, and neighbour discovery, which pass without being connections of their own.

use ringfence_datapath::{Conntrack, DropReason, PacketContext, PolicyResult, TestVerdict, TrackedConnection};
use ringfence_engine::RuleId;
use ringfence_model::{Direction, Protocol};

use crate::kit::fixture::{Fixture, NEW};
use crate::kit::net::{Joint, Net, WORLD, address};
use crate::kit::packet::Packet;
use crate::kit::plan::{Hand, ip};
use crate::kit::talk::{Datagrams, Sink, unreachable};

const UNREACHABLE: u16 = 3;
const REDIRECT: u16 = 5;

/// `10.0.0.2` accepts `10.0.1.0/24` at TCP port 80; `10.0.0.3` may connect to no address.
fn plan() -> Hand {
    Hand::web().endpoint("fd00::2", 7, 0).peer("fd00:1::/64", 9).endpoint("10.0.0.3", 0, 8).isolated(8, 80)
}

fn about(source: &str, destination: &str, port: u16) -> PacketContext {
    let about = TrackedConnection { source: ip(source), destination: ip(destination), protocol: Protocol::TCP, port };
    PacketContext { conntrack: Conntrack::Related, related_to: Some(about), ..NEW }
}

fn error(source: &str, destination: &str) -> Packet {
    Packet::new(source, destination, Protocol::ICMP, UNREACHABLE)
}

fn denied_by(verdict: &TestVerdict, direction: Direction, rule_id: u64) -> bool {
    verdict.dropped == Some(DropReason::Policy { rule_id: RuleId(rule_id), cut: false })
        && verdict.direction == Some(direction)
}

#[test]
fn errors_are_judged_like_the_connection_they_are_about() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    let (allowed, denied) = (about("10.0.1.5", "10.0.0.2", 80), about("10.0.1.5", "10.0.0.2", 81));
    // Errors from the other end, from a router on the way, and from the pod.
    for (from, to) in [("10.0.1.5", "10.0.0.2"), ("10.9.9.9", "10.0.0.2"), ("10.0.0.2", "10.0.1.5")] {
        let verdict = fixture.run(&error(from, to), &allowed);
        assert!(verdict.accepted && verdict.ingress == PolicyResult::Related, "{from} to {to}: {verdict:?}");
        let verdict = fixture.run(&error(from, to), &denied);
        assert!(denied_by(&verdict, Direction::Ingress, 70), "{from} to {to}: {verdict:?}");
    }
    let verdict = fixture.run(&error("10.9.9.9", "10.0.0.3"), &about("10.0.0.3", "10.9.9.9", 443));
    assert!(denied_by(&verdict, Direction::Egress, 80), "{verdict:?}");
    // IPv6: unreachable, too big, time exceeded, parameter problem.
    for kind in 1..=4 {
        let error = Packet::new("fd00:9::9", "fd00::2", Protocol::ICMPV6, kind);
        assert!(fixture.run(&error, &about("fd00:1::5", "fd00::2", 80)).accepted, "{kind}");
        assert!(!fixture.run(&error, &about("fd00:1::5", "fd00::2", 81)).accepted, "{kind}");
    }
    // A pod that talks to itself: by its own address, and through a Service.
    let itself = about("10.0.0.2", "10.0.0.2", 81);
    assert!(fixture.run(&error("10.0.0.2", "10.0.0.2"), &itself).accepted);
    assert!(!fixture.run(&error("10.0.0.2", "10.0.0.2"), &PacketContext { translated: true, ..itself }).accepted);
    fixture.close();
}

#[test]
fn only_errors_of_who_has_a_say_about_the_connection_are() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    let allowed = about("10.0.1.5", "10.0.0.2", 80);
    let verdict = fixture.run(&error("10.0.0.3", "10.0.0.2"), &allowed);
    assert!(denied_by(&verdict, Direction::Egress, 80), "a pod that is neither end: {verdict:?}");
    let verdict = fixture.run(&error("10.9.9.9", "10.0.0.2"), &about("10.0.1.5", "10.0.2.2", 80));
    assert!(denied_by(&verdict, Direction::Ingress, 70), "to a pod that is neither end: {verdict:?}");
    for other in [
        Packet { port: REDIRECT, ..error("10.9.9.9", "10.0.0.2") },
        Packet::new("10.9.9.9", "10.0.0.2", Protocol::TCP, 443),
    ] {
        assert!(denied_by(&fixture.run(&other, &allowed), Direction::Ingress, 70), "no error: {other:?}");
    }
    fixture.close();
}

/// The pod is on another node. It is known as a peer that is a pod, or by its pod CIDR.
#[test]
fn a_pod_elsewhere_is_no_router() {
    let plan = plan().peer("10.0.2.9", 40).peer("fd00:2::9", 40);
    let Some(mut fixture) = Fixture::new(&plan) else { return };
    fixture.datapath.set_pod_cidrs(["10.0.3.0/24", "fd00:3::/64"].map(|range| range.parse().unwrap())).unwrap();
    fixture.datapath.set_infra_addresses([ip("10.0.3.1"), ip("fd00:3::1")], []).unwrap();
    let v4 = [3, 11, 12].map(|kind| (Protocol::ICMP, kind, "10.0.1.5", "10.0.0.2"));
    let v6 = [1, 2, 3, 4].map(|kind| (Protocol::ICMPV6, kind, "fd00:1::5", "fd00::2"));
    for (protocol, kind, client, server) in v4.into_iter().chain(v6) {
        let given = about(client, server, 80);
        let is_v4 = protocol == Protocol::ICMP;
        let routers = if is_v4 { [client, "10.9.9.9", "10.0.3.1"] } else { [client, "fd00:9::9", "fd00:3::1"] };
        for from in routers {
            let verdict = fixture.run(&Packet::new(from, server, protocol, kind), &given);
            assert!(verdict.accepted && verdict.ingress == PolicyResult::Related, "{kind} from {from}: {verdict:?}");
        }
        for pod in if is_v4 { ["10.0.2.9", "10.0.3.9"] } else { ["fd00:2::9", "fd00:3::9"] } {
            let verdict = fixture.run(&Packet::new(pod, server, protocol, kind), &given);
            assert!(denied_by(&verdict, Direction::Ingress, 70), "{kind} from {pod}: {verdict:?}");
        }
    }
    fixture.close();
}

/// With real packets: the socket of an isolated pod receives errors of a router, and none of a pod on another node.
#[test]
fn a_pod_elsewhere_ends_nobodys_connection() {
    const THIRD: &str = "192.168.50.9";
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    net.world.run(&format!("ip addr add {THIRD}/32 dev eth0"));
    let mut datapath = net.open();
    datapath.sync(&Hand::default().endpoint(&address(2), 7, 0).isolated(7, 70).plan).unwrap();
    let sink = Sink::new(&net.world, WORLD, 514);
    let talk = Datagrams::new(&net.pods[0], &address(2), WORLD, 514);
    talk.are_dead_at_once();
    assert!(sink.receives());
    let error = || unreachable(&net.world, THIRD, &talk, (&address(2), WORLD, 514));
    error();
    assert!(talk.are_refused(), "a router's");
    datapath.set_pod_cidrs([format!("{THIRD}/32").parse().unwrap()]).unwrap();
    error();
    assert!(!talk.are_refused(), "a pod's");
    assert_eq!(datapath.drop_counters().unwrap().policy, 1);
    net.detach(datapath);
}

#[test]
fn the_node_tells_and_hears_errors_about_its_own_connections() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    let made_here = PacketContext { interface: None, ..about("10.0.1.5", "10.0.0.2", 81) };
    assert_eq!(fixture.run(&error("192.0.2.9", "10.0.0.2"), &made_here).ingress, PolicyResult::Related);
    // From the pod, about what the node opened, and about what the pod opened.
    let probe = PacketContext { local_in: true, ..about("192.0.2.9", "10.0.0.2", 81) };
    assert!(fixture.run(&error("10.0.0.2", "192.0.2.9"), &probe).accepted);
    let call = PacketContext { local_in: true, ..about("10.0.0.3", "192.0.2.9", 443) };
    assert!(denied_by(&fixture.run(&error("10.0.0.3", "192.0.2.9"), &call), Direction::Egress, 80));
    fixture.close();
}

#[test]
fn neighbour_discovery_is_only_what_no_router_passed_on() {
    let Some(fixture) = Fixture::new(&plan().endpoint("fd00::3", 0, 8)) else { return };
    for kind in 133..=137 {
        let packet = Packet::new("fd00::3", "fd00::9", Protocol::ICMPV6, kind);
        assert_eq!(fixture.run(&packet, &NEW).egress, PolicyResult::NeighbourDiscovery);
        let verdict = fixture.run(&Packet { hops: 254, ..packet }, &NEW);
        assert!(denied_by(&verdict, Direction::Egress, 80), "{kind} from afar: {verdict:?}");
        let over_v4 = Packet::new("10.0.0.3", "10.9.9.9", Protocol::ICMPV6, kind);
        assert!(denied_by(&fixture.run(&over_v4, &NEW), Direction::Egress, 80), "{kind} over IPv4");
    }
    for kind in [132, 138] {
        assert!(!fixture.run(&Packet::new("fd00::3", "fd00::9", Protocol::ICMPV6, kind), &NEW).accepted, "{kind}");
    }
    fixture.close();
}
