//! Packets that hide their ports or their destination are dropped, and no others.

use ringfence_datapath::{DropReason, PacketContext, TestVerdict};
use ringfence_model::Protocol;

use crate::kit::fixture::{Fixture, NEW};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;

/// Pods of both families that accept TCP port 80 from some, and everything from others.
fn plan() -> Hand {
    Hand::web().endpoint("fd00::2", 7, 0).peer("fd00:1::/64", 9).peer("fd00:2::/64", 10).allow_all(7, 10, 100)
}

fn v4(port: u16) -> Packet {
    Packet::new("10.0.1.5", "10.0.0.2", Protocol::TCP, port)
}

fn v6(port: u16) -> Packet {
    Packet::new("fd00:1::5", "fd00::2", Protocol::TCP, port)
}

/// True if the port is parsed: the same packet passes with one port and not with another.
fn is_read(fixture: &Fixture, shape: impl Fn(u16) -> Packet) -> bool {
    let [open, closed] = [80, 81].map(|port| fixture.run(&shape(port), &NEW));
    match (open.accepted, closed.dropped) {
        (true, Some(DropReason::Policy { .. })) => true,
        (false, Some(DropReason::Unparseable)) if open.dropped == closed.dropped => false,
        _ => panic!("{open:?}, {closed:?}"),
    }
}

#[test]
fn extension_headers_are_followed_up_to_eight() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    for count in 0..=10 {
        for kind in [0, 43, 60, 51] {
            let read = is_read(&fixture, |port| Packet { extensions: vec![kind; count], ..v6(port) });
            assert_eq!(read, count <= 8, "{count} headers of kind {kind}");
        }
    }
    assert!(is_read(&fixture, |port| Packet { extensions: vec![0, 60, 43, 51, 60], fragment: Some(0), ..v6(port) }));
    // The chain ends before the header does.
    let packet = Packet { extensions: vec![60], payload: 0, ..v6(80) };
    assert_eq!(fixture.run(&packet, &NEW).dropped, Some(DropReason::Unparseable));
    fixture.close();
}

#[test]
fn extension_headers_may_be_long() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    // Lengths beyond the first 8 bytes count units of 8; those of AH words of 4, less two.
    for (kind, length, bytes) in [(0, 1, 16), (60, 2, 24), (60, 255, 2048), (43, 4, 40), (51, 4, 24), (51, 1, 12)] {
        let verdict = [80, 81].map(|port| {
            let mut packet = v6(port).bytes();
            let next = std::mem::replace(&mut packet[6], kind);
            let mut header = vec![0; bytes];
            header[..2].copy_from_slice(&[next, length]);
            packet.splice(40..40, header);
            fixture.run_bytes(&packet, &NEW)
        });
        assert!(verdict[0].accepted, "{bytes} bytes of kind {kind}: {:?}", verdict[0]);
        assert!(
            matches!(verdict[1].dropped, Some(DropReason::Policy { .. })),
            "{bytes} bytes of kind {kind}: {:?}",
            verdict[1]
        );
    }
    fixture.close();
}

#[test]
fn headers_that_are_no_extensions_are_protocols_without_ports() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    for protocol in [50, 59, 135, 47, 4, 41].map(Protocol) {
        let packet = |source: &str| Packet::new(source, "fd00::2", protocol, 80);
        let verdict = fixture.run(&packet("fd00:1::5"), &NEW);
        assert!(matches!(verdict.dropped, Some(DropReason::Policy { .. })), "{protocol:?}: {verdict:?}");
        assert!(fixture.run(&packet("fd00:2::5"), &NEW).accepted, "{protocol:?}");
    }
    fixture.close();
}

#[test]
fn options_of_ipv4_are_walked_to_their_end() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    let at_the_end = [vec![1; 36], vec![7, 4, 4, 0]].concat();
    let past_the_end = [vec![1; 36], vec![7, 5, 4, 0]].concat();
    for (options, read) in [
        (vec![1; 40], true),
        (vec![7, 3, 4], true),
        (vec![68, 8, 9, 0, 0, 0, 0, 0], true),
        (vec![0, 131, 3, 4], true),
        (at_the_end, true),
        (past_the_end, false),
        (vec![7, 0, 0, 0], false),
        (vec![7, 1, 0, 0], false),
        (vec![131, 3, 4], false),
        (vec![137, 7, 4, 10, 0, 0, 1], false),
        (vec![1, 1, 1, 131, 3, 4], false),
        (vec![1, 7, 3, 4, 137, 3, 4], false),
    ] {
        assert_eq!(is_read(&fixture, |port| Packet { options: options.clone(), ..v4(port) }), read, "{options:?}");
    }
    fixture.close();
}

#[test]
fn what_is_cut_short_or_in_pieces_is_dropped_if_a_pod_is_concerned() {
    let Some(fixture) = Fixture::new(&plan()) else { return };
    for whole in [v4, v6] {
        for payload in 0..=5 {
            assert_eq!(is_read(&fixture, |port| Packet { payload, ..whole(port) }), payload >= 4, "{payload} bytes");
        }
        assert!(is_read(&fixture, |port| Packet { fragment: Some(0), ..whole(port) }));
        for offset in [1, 32, 0x1fff] {
            assert!(!is_read(&fixture, |port| Packet { fragment: Some(offset), ..whole(port) }), "{offset}");
        }
    }
    let verdict = |bytes: &[u8]| fixture.run_bytes(bytes, &NEW).dropped;
    let mut short = v4(80).bytes();
    short[0] = 0x44;
    assert_eq!(verdict(&short), Some(DropReason::Unparseable), "a header of 16 bytes");
    let mut routed = Packet { extensions: vec![43], ..v6(80) }.bytes();
    routed[43] = 1;
    assert_eq!(verdict(&routed), Some(DropReason::Unparseable), "segments left");
    let piece = Packet { fragment: Some(9), ..v4(80) };
    let dropped = |packet: &Packet, given: &PacketContext| -> Option<DropReason> {
        let TestVerdict { dropped, .. } = fixture.run(packet, given);
        dropped
    };
    assert_eq!(dropped(&piece.reply(), &NEW), Some(DropReason::Unparseable), "from the pod");
    assert_eq!(dropped(&piece, &PacketContext { interface: None, ..NEW }), None, "from the node");
    let elsewhere = Packet { fragment: Some(9), ..Packet::new("10.0.1.5", "10.0.1.6", Protocol::TCP, 80) };
    assert_eq!(dropped(&elsewhere, &NEW), None, "between others");
    fixture.close();
}
