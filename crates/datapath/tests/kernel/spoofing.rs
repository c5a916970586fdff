//! The sender and receiver of a packet: identified by address if it belongs to the interface, else by interface.

use ringfence_datapath::{Conntrack, DropReason, Interface, PacketContext};
use ringfence_engine::RuleId;
use ringfence_model::Protocol;

use crate::kit::fixture::{Fixture, NEW};
use crate::kit::packet::Packet;
use crate::kit::plan::{Hand, ip};

/// Interfaces of two pods, one of them a port of a bridge; of a pod with unknown interface; of the world.
const A: u32 = 10;
const B: u32 = 11;
const BRIDGE: u32 = 5;
const UPLINK: u32 = 2;

/// `10.0.0.2` and `fd00::2` are A, isolated both ways with rule id 70; `10.0.0.3` and `fd00::3` are B; `10.0.0.4` has
/// no interface.
fn fixture() -> Option<Fixture> {
    let plan = Hand::default().isolated(7, 70).endpoint("10.0.0.2", 7, 7).endpoint("fd00::2", 7, 7);
    let plan = plan.endpoint("10.0.0.3", 0, 0).endpoint("fd00::3", 0, 0).endpoint("10.0.0.4", 0, 0);
    let mut fixture = Fixture::new(&plan)?;
    let (a, b) = (Interface { index: A, bridge: None }, Interface { index: B, bridge: Some(BRIDGE) });
    let interfaces = [("10.0.0.2", a), ("fd00::2", a), ("10.0.0.3", b), ("fd00::3", b)];
    fixture.datapath.set_interfaces(interfaces.map(|(address, interface)| (ip(address), interface))).unwrap();
    Some(fixture)
}

fn to_the_world(source: &str) -> Packet {
    let destination = if source.contains(':') { "fd00:9::9" } else { "10.9.9.9" };
    Packet::new(source, destination, Protocol::UDP, 53)
}

#[test]
fn a_source_is_believed_only_from_its_own_interface() {
    let Some(fixture) = fixture() else { return };
    let policy = Some(DropReason::Policy { rule_id: RuleId(70), cut: false });
    let spoofed = Some(DropReason::Spoofed);
    for (source, interface, expected) in [
        ("10.0.0.2", A, policy),
        ("fd00::2", A, policy),
        ("10.0.0.3", B, None),
        ("10.0.0.3", BRIDGE, None),
        ("fd00::3", B, None),
        // From another pod, from the world, from another bridge.
        ("10.0.0.3", A, spoofed),
        ("fd00::3", A, spoofed),
        ("10.0.0.2", B, spoofed),
        ("10.0.0.2", UPLINK, spoofed),
        ("10.0.0.2", BRIDGE, spoofed),
        ("fd00::2", UPLINK, spoofed),
        // An unknown address.
        ("10.7.7.7", A, spoofed),
        ("fd00:7::7", B, spoofed),
        ("127.0.0.1", A, spoofed),
        ("169.254.1.1", B, spoofed),
        ("224.0.0.1", A, spoofed),
        ("ff02::1", A, spoofed),
        ("10.7.7.7", UPLINK, None),
        // The address of a pod with unknown interface, from the interface of another pod.
        ("10.0.0.4", UPLINK, None),
        ("10.0.0.4", A, spoofed),
        // An address of the pod behind the interface.
        ("fe80::1", A, policy),
        ("febf::1", A, policy),
        ("::", A, policy),
        ("0.0.0.0", A, policy),
        ("fe80::1", B, None),
        ("fe80::1", UPLINK, None),
        ("fec0::1", A, spoofed),
    ] {
        for local_in in [false, true] {
            let given = PacketContext { interface: Some(interface), local_in, ..NEW };
            let verdict = fixture.run(&to_the_world(source), &given);
            assert_eq!(verdict.dropped, expected, "{source} from {interface}, local_in: {local_in}");
        }
    }
    fixture.close();
}

#[test]
fn conntrack_vouches_for_nobody_and_the_node_may_bear_any_source() {
    let Some(fixture) = fixture() else { return };
    for conntrack in [Conntrack::None, Conntrack::Established, Conntrack::Reply, Conntrack::Related] {
        let given = PacketContext { interface: Some(A), conntrack, ..NEW };
        assert_eq!(fixture.run(&to_the_world("10.0.0.3"), &given).dropped, Some(DropReason::Spoofed), "{conntrack:?}");
    }
    let flows = PacketContext { interface: Some(B), flows: true, ..NEW };
    for _ in 0..2 {
        assert!(fixture.run(&to_the_world("10.0.0.3"), &flows).accepted);
        let stolen = PacketContext { interface: Some(A), ..flows };
        assert_eq!(fixture.run(&to_the_world("10.0.0.3"), &stolen).dropped, Some(DropReason::Spoofed), "a known flow");
    }
    assert!(fixture.run(&to_the_world("10.0.0.3"), &PacketContext { interface: None, ..NEW }).accepted);
    fixture.close();
}

#[test]
fn what_leaves_by_a_pods_interface_is_for_that_pod() {
    let Some(fixture) = fixture() else { return };
    let policy = Some(DropReason::Policy { rule_id: RuleId(70), cut: false });
    let given = |out| PacketContext { interface: Some(UPLINK), out_interface: Some(out), ..NEW };
    for destination in ["ff02::1", "fe80::2", "fd00:7::7"] {
        let packet = Packet::new("fd00:9::9", destination, Protocol::UDP, 53);
        assert_eq!(fixture.run(&packet, &given(A)).dropped, policy, "{destination}");
        assert_eq!(fixture.run(&packet, &given(B)).dropped, None, "{destination}");
    }
    for destination in ["224.0.0.251", "255.255.255.255", "10.7.7.7"] {
        let packet = Packet::new("10.9.9.9", destination, Protocol::UDP, 53);
        assert_eq!(fixture.run(&packet, &given(A)).dropped, policy, "{destination}");
        let local = PacketContext { local_in: true, ..given(A) };
        assert_eq!(fixture.run(&packet, &local).dropped, None, "{destination}: for the node itself");
    }
    fixture.close();
}
