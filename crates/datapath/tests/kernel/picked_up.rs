//! TCP connections that connection tracking picks up in the middle: it takes the sender of the first packet for the
//! client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ringfence_datapath::{Conntrack, ConntrackEntry, Datapath, DropReason, PacketContext, delete_conntrack_entries};
use ringfence_engine::RuleId;
use ringfence_model::Protocol;

use crate::kit::eventually;
use crate::kit::fixture::{Fixture, NEW, clear};
use crate::kit::net::{Joint, Net, address};
use crate::kit::packet::Packet;
use crate::kit::plan::Hand;
use crate::kit::stream::{Ends, reset_that_dies};

const PORT: u16 = 8099;
const CLIENT: u64 = 102;
const SERVER: u64 = 103;

/// Client `10.1.0.2` and server `10.1.0.3`, without policy.
fn open_pods() -> Hand {
    pods((0, 0), (0, 0))
}

fn pods(client: (u64, u64), server: (u64, u64)) -> Hand {
    let hand = Hand::default().endpoint(&address(2), client.0, client.1).endpoint(&address(3), server.0, server.1);
    hand.peer(&address(2), CLIENT).peer(&address(3), SERVER)
}

/// The server accepts no connection.
fn closed() -> Hand {
    pods((0, 0), (7, 0)).isolated(7, 70)
}

/// The client may connect to the server, and neither may connect elsewhere.
fn one_way() -> Hand {
    let tcp = [(Protocol::TCP, PORT)];
    let hand = pods((8, 9), (7, 10)).isolated(8, 80).isolated(10, 100);
    let hand = hand.isolated(7, 70).allow(7, CLIENT, &tcp, 71, 70);
    hand.isolated(9, 90).allow(9, SERVER, &tcp, 91, 90)
}

/// A way to make connection tracking lose a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgotten {
    /// By `conntrack -F`.
    Flushed,
    /// By a reset of the client that does not reach the server.
    Reset,
    /// The same with windows ignored (`nf_conntrack_tcp_be_liberal`).
    ResetLiberally,
}

fn forget(net: &Net, ends: &Ends, how: Forgotten) {
    if how == Forgotten::Flushed {
        net.node.enter(|| delete_conntrack_entries(|_| true)).unwrap();
    } else {
        reset_that_dies(&net.pods[0], ends);
    }
    eventually("connection tracking has forgotten", || {
        let known = AtomicBool::new(false);
        let look = |tracked: &ConntrackEntry| {
            known.fetch_or(tracked.original_destination.port() == PORT, Ordering::Relaxed);
            false
        };
        net.node.enter(|| delete_conntrack_entries(look)).unwrap();
        !known.into_inner()
    });
}

fn net(how: Forgotten) -> Net {
    let net = Net::new(Joint::Routes, 2);
    net.node.run("echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close");
    net.node.run("echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_unacknowledged");
    let liberal = u8::from(how == Forgotten::ResetLiberally);
    net.node.run(&format!("echo {liberal} > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"));
    net
}

/// Sends data until the flow table has the connection, or checks that it does not.
fn remember(net: &Net, datapath: &Datapath, ends: &mut Ends, remembered: bool) {
    eventually("the connection is remembered", || {
        assert!(ends.both_ways());
        datapath.flows().unwrap().iter().any(|flow| flow.destination_port == PORT)
    });
    if !remembered {
        clear(&net.pins.map("flows"));
    }
}

#[test]
fn a_client_does_not_keep_a_denied_connection_by_having_it_forgotten() {
    for how in [Forgotten::Reset, Forgotten::ResetLiberally, Forgotten::Flushed] {
        for remembered in [false, true] {
            if !crate::kit::can_run() {
                return;
            }
            let net = net(how);
            let mut datapath = net.open();
            datapath.sync(&open_pods().plan).unwrap();
            let mut ends = Ends::new(&net.pods[0], &net.pods[1], &address(3), PORT);
            remember(&net, &datapath, &mut ends, remembered);
            forget(&net, &ends, how);
            assert!(ends.server_reaches(), "{how:?}: nothing is denied yet");
            assert!(ends.client_reaches(), "{how:?}: nothing is denied yet");
            datapath.sync(&closed().plan).unwrap();
            assert!(ends.client_is_cut(), "{how:?}, remembered: {remembered}");
            assert!(ends.server_is_cut(), "{how:?}, remembered: {remembered}");
            let drops = datapath.drop_counters().unwrap();
            assert!(drops.policy > 0 && drops.total() == drops.policy, "{drops:?}");
            net.detach(datapath);
        }
    }
}

/// The server sends first after `conntrack -F`, but may open no connection itself.
#[test]
fn what_is_remembered_goes_on_whoever_speaks_first() {
    if !crate::kit::can_run() {
        return;
    }
    let net = net(Forgotten::Flushed);
    let mut datapath = net.open();
    datapath.sync(&one_way().plan).unwrap();
    let mut ends = Ends::new(&net.pods[0], &net.pods[1], &address(3), PORT);
    for _ in 0..3 {
        remember(&net, &datapath, &mut ends, true);
        forget(&net, &ends, Forgotten::Flushed);
        assert!(ends.server_reaches() && ends.both_ways());
    }
    assert_eq!(datapath.drop_counters().unwrap().total(), 0);
    let other = one_way().isolated(7, 70).allow(7, CLIENT, &[], 71, 70);
    datapath.sync(&other.plan).unwrap();
    assert!(ends.client_is_cut() && ends.server_is_cut());
    net.detach(datapath);
}

#[test]
fn what_is_not_remembered_goes_on_when_the_client_speaks() {
    if !crate::kit::can_run() {
        return;
    }
    let net = net(Forgotten::Flushed);
    let mut datapath = net.open();
    datapath.sync(&one_way().plan).unwrap();
    let mut ends = Ends::new(&net.pods[0], &net.pods[1], &address(3), PORT);
    remember(&net, &datapath, &mut ends, false);
    eventually("to all appearance the server opens one, which it may not", || {
        // Again if the client was first, whose acknowledgement may arrive late.
        if !datapath.flows().unwrap().is_empty() {
            clear(&net.pins.map("flows"));
        }
        forget(&net, &ends, Forgotten::Flushed);
        ends.server_is_cut()
    });
    let start = Instant::now();
    assert!(ends.client_reaches(), "the client's port says who opened it");
    assert!(ends.both_ways(), "what was lost is sent again");
    eprintln!("goes on {:?} after the client spoke", start.elapsed());
    net.detach(datapath);
}

/// Until then nothing tracked connections, and the flow table was empty.
#[test]
fn what_was_open_before_the_first_installation_goes_on_when_the_client_speaks() {
    if !crate::kit::can_run() {
        return;
    }
    let net = net(Forgotten::Flushed);
    let [mut spoken, mut heard] = [PORT, PORT].map(|port| {
        let mut ends = Ends::new(&net.pods[0], &net.pods[1], &address(3), port);
        assert!(ends.both_ways());
        ends
    });
    let mut datapath = net.open();
    datapath.sync(&one_way().plan).unwrap();
    assert!(spoken.both_ways());
    assert!(heard.server_is_cut(), "to all appearance the server opens one, which it may not");
    assert!(heard.client_reaches() && heard.both_ways());
    net.detach(datapath);
}

const PICKED_UP: PacketContext = PacketContext { picked_up: true, conntrack: Conntrack::Established, ..NEW };
const PICKED_UP_REPLY: PacketContext = PacketContext { conntrack: Conntrack::Reply, ..PICKED_UP };

fn tcp(from: (&str, u16), to: (&str, u16)) -> Packet {
    Packet { source_port: from.1, ..Packet::new(from.0, to.0, Protocol::TCP, to.1) }
}

/// `10.0.0.3` may connect to no address, and accepts all connections.
#[test]
fn a_pod_cannot_make_itself_out_to_answer() {
    let Some(fixture) = Fixture::new(&Hand::default().endpoint("10.0.0.3", 0, 8).isolated(8, 80)) else { return };
    let (caged, world) = ("10.0.0.3", "10.9.9.9");
    for (own, far) in [(80, 40_000), (80, 80), (40_000, 40_001), (40_000, 80)] {
        for given in [PICKED_UP, PacketContext { conntrack: Conntrack::Unanswered, ..PICKED_UP }] {
            let verdict = fixture.run(&tcp((caged, own), (world, far)), &given);
            let denied = Some(DropReason::Policy { rule_id: RuleId(80), cut: false });
            assert_eq!(verdict.dropped, denied, "{own} to {far}, who began to all appearance");
        }
        // A packet from a server port to a client port counts as a reply.
        let verdict = fixture.run(&tcp((caged, own), (world, far)), &PICKED_UP_REPLY);
        assert_eq!(verdict.accepted, own == 80 && far == 40_000, "{own} answers {far}: {verdict:?}");
        let verdict = fixture.run(&tcp((world, far), (caged, own)), &PICKED_UP);
        assert_eq!(verdict.accepted, own == 80 && far == 40_000, "{far} calls {own}: {verdict:?}");
    }
    fixture.close();
}

#[test]
fn what_nobody_knows_has_to_be_allowed_both_ways() {
    let both = Hand::default().endpoint("10.0.0.2", 7, 8).isolated(7, 70).isolated(8, 80).peer("10.0.1.5", 9);
    let there = |hand: Hand| hand.allow(8, 9, &[(Protocol::TCP, 81)], 81, 80);
    let back = |hand: Hand| hand.allow(7, 9, &[(Protocol::TCP, 80)], 71, 70);
    for (plan, allowed) in [(there(both.clone()), false), (back(both.clone()), false), (there(back(both)), true)] {
        let Some(fixture) = Fixture::new(&plan) else { return };
        for _ in 0..3 {
            let packet = tcp(("10.0.0.2", 80), ("10.0.1.5", 81));
            for (packet, given) in [(packet.reply(), PICKED_UP), (packet.clone(), PICKED_UP_REPLY), (packet, PICKED_UP)]
            {
                let verdict = fixture.run(&packet, &PacketContext { flows: true, ..given });
                assert_eq!((verdict.accepted, verdict.hit), (allowed, false), "{verdict:?}");
            }
        }
        assert!(fixture.datapath.flows().unwrap().is_empty(), "it is not known who opened it");
        fixture.close();
    }
}
