//! Connections whose destination a node translates. They are allowed only if both the original and the translated
//! destination are, unless the original is a Service or a node.

use std::net::SocketAddr;
use std::time::Duration;

use ringfence_datapath::{Conntrack, Datapath, DropReason, EventVerdict, PacketContext, TrackedConnection};
use ringfence_engine::{Planner, RuleId, Scope};
use ringfence_model::{
    Action, Direction, IpBlock, Labels, Namespace, NamespaceSelection, Node, Object, Peer, Peers, Pod, PodKey,
    PodPhase, PodSelection, Policy, PolicyId, PolicyKind, Ports, Protocol, Rule, Selector, Tier,
};

use crate::kit::fixture::{Fixture, NEW};
use crate::kit::net::{Joint, Net, WORLD, WORLD_V6, address, address_v6};
use crate::kit::packet::Packet;
use crate::kit::plan::{Hand, ip};
use crate::kit::talk::{Datagrams, Echo, is_refused, reaches};

/// `10.0.0.3` may talk to everybody, but not to the metadata service, and to `192.0.2.7` at TCP port 80 only.
fn plan() -> Hand {
    let hand = Hand::default().endpoint("10.0.0.3", 0, 8).isolated(8, 80).allow_all(8, 0, 81).allow_all(8, 1, 81);
    let hand = hand.peer("169.254.169.254", 50).allow(8, 50, &[], 85, 85);
    hand.peer("192.0.2.7", 51).allow(8, 51, &[(Protocol::TCP, 80)], 81, 86)
}

fn original_destination(address: &str) -> PacketContext {
    PacketContext { original_destination: Some(address.parse().unwrap()), notify: true, ..NEW }
}

fn call() -> Packet {
    Packet::new("10.0.0.3", "10.9.9.9", Protocol::TCP, 8080)
}

fn tell(datapath: &mut Datapath) {
    datapath.set_infra_addresses([ip("192.168.50.1")], [ip("10.97.0.1"), ip("fd00:97::1")]).unwrap();
}

#[test]
fn both_destinations_have_to_be_allowed() {
    let Some(mut fixture) = Fixture::new(&plan()) else { return };
    tell(&mut fixture.datapath);
    for (whom, allowed) in
        [("10.7.7.7:80", true), ("169.254.169.254:80", false), ("192.0.2.7:80", true), ("192.0.2.7:81", false)]
    {
        for conntrack in [Conntrack::New, Conntrack::Unanswered, Conntrack::Established, Conntrack::Reply] {
            let packet = if conntrack == Conntrack::Reply { call().reply() } else { call() };
            let said = fixture.run(&packet, &PacketContext { conntrack, ..original_destination(whom) });
            assert_eq!((said.accepted, said.by_original), (allowed, !allowed), "{whom} {conntrack:?}: {said:?}");
        }
    }
    // The original destination is allowed, but not the translated one.
    let to_it = Packet::new("10.0.0.3", "169.254.169.254", Protocol::TCP, 80);
    let said = fixture.run(&to_it, &original_destination("192.0.2.7:80"));
    assert_eq!(said.dropped, Some(DropReason::Policy { rule_id: RuleId(85), cut: false }));
    assert!(!said.by_original);
    // A sender without rules, or one that is no pod, needs no permission.
    for source in ["10.0.0.4", "10.9.9.8"] {
        let packet = Packet::new(source, "10.9.9.9", Protocol::TCP, 8080);
        assert!(fixture.run(&packet, &original_destination("169.254.169.254:80")).accepted);
    }
    fixture.close();
}

#[test]
fn addresses_of_services_and_nodes_are_not_asked_about() {
    let closed = Hand::default().endpoint("10.0.0.3", 0, 8).isolated(8, 80);
    let closed = closed.peer("10.9.9.9", 60).allow_all(8, 60, 81);
    let Some(mut fixture) = Fixture::new(&closed) else { return };
    assert!(
        fixture.run(&call(), &original_destination("10.97.0.1:80")).accepted,
        "nobody said yet which addresses are of Services"
    );
    tell(&mut fixture.datapath);
    for known in ["10.97.0.1:80", "192.168.50.1:30080"] {
        assert!(fixture.run(&call(), &original_destination(known)).accepted, "{known}");
    }
    assert!(!fixture.run(&call(), &original_destination("10.97.0.2:80")).accepted, "what nobody knows is asked about");
    fixture.close();
}

#[test]
fn the_denial_names_whom_the_pod_called() {
    let Some(mut fixture) = Fixture::new(&plan()) else { return };
    tell(&mut fixture.datapath);
    let mut events = fixture.datapath.events().unwrap();
    assert!(!fixture.run(&call(), &original_destination("169.254.169.254:80")).accepted);
    let event = events.poll(Duration::from_secs(1)).unwrap().pop().unwrap();
    assert_eq!(event.verdict, EventVerdict::Denied(DropReason::Policy { rule_id: RuleId(85), cut: false }));
    assert_eq!(event.direction, Some(Direction::Egress));
    let named = SocketAddr::new(event.destination, event.destination_port);
    assert_eq!((event.source, named), (ip("10.0.0.3"), "169.254.169.254:80".parse().unwrap()));
    fixture.close();
}

#[test]
fn errors_about_them_are_judged_alike() {
    let Some(mut fixture) = Fixture::new(&plan()) else { return };
    tell(&mut fixture.datapath);
    let about =
        TrackedConnection { source: ip("10.0.0.3"), destination: ip("10.9.9.9"), protocol: Protocol::TCP, port: 8080 };
    for (whom, allowed) in [("10.7.7.7:80", true), ("169.254.169.254:80", false)] {
        let given =
            PacketContext { conntrack: Conntrack::Related, related_to: Some(about), ..original_destination(whom) };
        for (from, to) in [("10.9.9.9", "10.0.0.3"), ("10.0.0.3", "10.9.9.9")] {
            let said = fixture.run(&Packet::new(from, to, Protocol::ICMP, 3), &given);
            assert_eq!(said.accepted, allowed, "{from} to {to}: {said:?}");
        }
    }
    fixture.close();
}

const METADATA: &str = "169.254.169.254";
const METADATA_V6: &str = "fd00:ec2::254";

/// The rules of workload identity agents: they redirect to themselves on the node, to its loopback address, or
/// elsewhere.
fn rewrite(net: &Net, to: &str, to_v6: &str) {
    net.node.run("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    net.node.run(&format!(
        "nft -f - <<E
        table inet metadata
        delete table inet metadata
        table inet metadata {{
            chain pre {{
                type nat hook prerouting priority -100
                ip daddr {METADATA} meta l4proto {{ tcp, udp }} th dport 80 dnat ip to {to}
                ip6 daddr {METADATA_V6} meta l4proto {{ tcp, udp }} th dport 80 dnat ip6 to {to_v6}
            }}
        }}
E"
    ));
}

fn cluster() -> Vec<Object> {
    let pod = |number: usize| Pod {
        key: PodKey { namespace: "default".into(), name: format!("pod{number}").into() },
        uid: format!("uid{number}").into(),
        labels: Labels::default(),
        node: Some("node-1".into()),
        addresses: vec![ip(&address(number)), ip(&address_v6(number))],
        host_network: false,
        phase: PodPhase::Running,
        terminating: false,
        created: 0,
        ports: Vec::new(),
    };
    let node = Node {
        name: "node-1".into(),
        labels: Labels::default(),
        addresses: vec![ip("192.168.50.1"), ip("fd00:50::1")],
        pod_cidrs: Vec::new(),
    };
    let namespace = Namespace { name: "default".into(), labels: Labels::default(), terminating: false };
    vec![Object::Node(node), Object::Namespace(namespace), Object::Pod(pod(2))]
}

fn policy(kind: PolicyKind, tier: Tier, rules: Vec<Rule>) -> Object {
    let of_network_policy = tier == Tier::NetworkPolicy;
    let namespaces = if of_network_policy {
        NamespaceSelection::Named("default".into())
    } else {
        NamespaceSelection::Matching(Selector::default())
    };
    Object::Policy(Policy {
        id: PolicyId { kind, namespace: of_network_policy.then(|| "default".into()), name: "guard-rails".into() },
        uid: "uid".into(),
        generation: 1,
        tier,
        priority: 0,
        subject: PodSelection { namespaces, pods: Selector::default() },
        ingress: None,
        egress: Some(rules),
        rules_withheld: false,
    })
}

fn rule(action: Action, tables: Vec<IpBlock>) -> Rule {
    Rule { name: None, action, peers: Peers::List(tables.into_iter().map(Peer::Block).collect()), ports: Ports::Any }
}

fn table(cidr: &str, except: &str) -> IpBlock {
    IpBlock::new(cidr.parse().unwrap(), (!except.is_empty()).then(|| except.parse().unwrap()))
}

/// Denies the metadata service by a rule of an Admin policy, and by an exception in a NetworkPolicy.
fn guard_rails() -> [Object; 2] {
    let (v4, v6) = (format!("{METADATA}/32"), format!("{METADATA_V6}/128"));
    let deny = rule(Action::Deny, vec![table(&v4, ""), table(&v6, "")]);
    let except = rule(Action::Accept, vec![table("0.0.0.0/0", &v4), table("::/0", &v6)]);
    [
        policy(PolicyKind::ClusterNetworkPolicy, Tier::Admin, vec![deny]),
        policy(PolicyKind::NetworkPolicy, Tier::NetworkPolicy, vec![except]),
    ]
}

#[test]
fn no_metadata_service_means_none_wherever_the_node_sends_it() {
    if !crate::kit::can_run() {
        return;
    }
    for guard_rails in guard_rails() {
        let net = Net::new(Joint::Routes, 2);
        let (guarded, free) = (&net.pods[0], &net.pods[1]);
        let mut planner = Planner::new(Scope::Node("node-1".into()));
        planner.reset(cluster());
        planner.commit();
        let mut datapath = net.open();
        datapath.sync(&planner.plan()).unwrap();
        datapath.set_infra_addresses([ip("192.168.50.1"), ip("fd00:50::1")], []).unwrap();
        let _servers = [
            Echo::new(&net.node, "192.168.50.1", 8080),
            Echo::new(&net.node, "127.0.0.1", 8080),
            Echo::new(&net.node, "fd00:50::1", 8080),
            Echo::new(&net.world, WORLD, 8080),
            Echo::new(&net.world, WORLD_V6, 8080),
        ];
        let places = [
            ("192.168.50.1:8080", "[fd00:50::1]:8080"),
            ("127.0.0.1:8080", "[fd00:50::1]:8080"),
            ("192.168.50.2:8080", "[fd00:50::2]:8080"),
        ];
        for (v4, v6) in places {
            rewrite(&net, v4, v6);
            assert!([METADATA, METADATA_V6].iter().all(|to| reaches(guarded, to, 80)), "{v4}: no rule yet");
        }
        planner.apply(guard_rails);
        planner.commit().iter().for_each(|delta| datapath.apply(delta).unwrap());
        for (v4, v6) in places {
            rewrite(&net, v4, v6);
            for (from, to) in [(address(2), METADATA), (address_v6(2), METADATA_V6)] {
                assert!(is_refused(guarded, to, 80), "{to} at {v4}");
                assert!(Datagrams::new(guarded, &from, to, 80).are_dead(10), "{to} at {v4}");
                assert!(reaches(free, to, 80), "another pod");
            }
        }
        assert!(reaches(guarded, WORLD, 8080) && reaches(guarded, WORLD_V6, 8080), "what nobody named");
        // A port of the node that is redirected: the original destination is the node.
        net.node.run(
            "nft 'add table ip port; add chain ip port pre { type nat hook prerouting priority -100; }; \
             add rule ip port pre ip daddr 192.168.50.1 tcp dport 30080 dnat to 192.168.50.2:8080'",
        );
        assert!(reaches(guarded, "192.168.50.1", 30080));
        net.detach(datapath);
    }
}
