//! Answers of DNS servers are held until they are released; other packets pass.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ringfence_datapath::dns_queue::{self, DnsQueue, Packet};
use ringfence_datapath::open_connections;

use crate::kit::eventually;
use crate::kit::net::{Joint, Net, WORLD, address, address_v6};
use crate::kit::talk::{Connection, Datagrams, Echo, reaches};

fn servers(addresses: &[&str]) -> BTreeSet<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 53)).collect()
}

fn hold(net: &Net, dns_queue: &DnsQueue, from: &[&str]) {
    let pods = ["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()].into();
    net.node.enter(|| dns_queue::hold(dns_queue.number(), &servers(from), &pods)).unwrap();
}

/// Waits for packets and returns those that are held.
fn held(dns_queue: &DnsQueue) -> Vec<Packet> {
    let mut packets = Vec::new();
    eventually("a packet is held", || {
        packets.extend(dns_queue.receive().unwrap());
        !packets.is_empty()
    });
    packets
}

#[test]
fn with_pods_joined_by_routes() {
    answers_wait(Joint::Routes);
}

#[test]
fn with_pods_joined_by_a_bridge() {
    answers_wait(Joint::Bridge);
}

fn answers_wait(joint: Joint) {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(joint, 2);
    let datapath = net.open();
    let server = &net.pods[1];
    let (rogue, name) = (Echo::new(&net.world, WORLD, 53), "service address");
    let dns_queue = net.node.enter(DnsQueue::open).unwrap();
    // If the client uses a Service address, the server's own address counts.
    net.node.run(
        "nft 'add table ip proxy; add chain ip proxy p { type nat hook prerouting priority -100; }; \
         add rule ip proxy p ip daddr 10.96.0.10 dnat to 10.1.0.3'",
    );
    assert!(!net.node.enter(dns_queue::are_held).unwrap());
    hold(&net, &dns_queue, &[&address(3), &address_v6(3)]);
    assert!(net.node.enter(dns_queue::are_held).unwrap());
    for (from, own, to) in [
        (address(2), address(3), address(3)),
        (address_v6(2), address_v6(3), address_v6(3)),
        (address(2), address(3), "10.96.0.10".into()),
    ] {
        let _server = Echo::new(server, &own, 53);
        let client = Datagrams::new(&net.pods[0], &from, &to, 53);
        assert!(client.are_dead(10), "{to}: nobody lets the answer go");
        for packet in held(&dns_queue) {
            assert!(packet.bytes.ends_with(&[7; 10]), "{name} {to}: the packet is whole");
            dns_queue.release(packet.id).unwrap();
        }
        assert!(client.arrives(), "{to}: it was let go");
    }
    // Unsolicited answers, answers of other servers, and answers to other hosts pass.
    assert!(Datagrams::new(&net.pods[0], &address(2), WORLD, 53).live(10), "not one of the servers");
    let _client = Echo::new(&net.pods[0], &address(2), 4000);
    assert!(
        Datagrams::bound(server, format!("{}:53", address(3)), &address(2), 4000).live(10),
        "a request of a server"
    );
    let _server = Echo::new(server, &address(3), 53);
    assert!(Datagrams::new(&net.world, WORLD, &address(3), 53).live(10), "to somebody who is no pod of this node");
    assert!(dns_queue.receive().unwrap().is_empty());
    // The servers change in one step; then no process reads the queue.
    let pods = ["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()].into();
    net.node.enter(|| dns_queue::change(&servers(&[WORLD]), &pods)).unwrap();
    assert!(Datagrams::new(&net.pods[0], &address(2), &address(3), 53).live(10));
    assert!(Datagrams::new(&net.pods[0], &address(2), WORLD, 53).are_dead(10));
    drop(dns_queue);
    assert!(Datagrams::new(&net.pods[0], &address(2), WORLD, 53).live(10), "the queue is gone");
    assert!(reaches(&net.pods[0], WORLD, 53));
    net.node.enter(dns_queue::stop).unwrap();
    assert!(!net.node.run("nft list table inet ringfence").contains("dns"));
    drop(rogue);
    net.detach(datapath);
}

#[test]
fn a_queue_that_nobody_reads_lets_packets_pass_in_the_end() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 2);
    let datapath = net.open();
    let _server = Echo::new(&net.pods[1], &address(3), 53);
    let dns_queue = net.node.enter(DnsQueue::open).unwrap();
    hold(&net, &dns_queue, &[&address(3)]);
    let client = Datagrams::new(&net.pods[0], &address(2), &address(3), 53);
    eventually("packets pass", || {
        (0..1000).for_each(|_| client.are_dead_at_once());
        client.arrives()
    });
    drop(dns_queue);
    net.detach(datapath);
}

#[test]
fn open_connections_are_found_until_they_are_closed() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let datapath = net.open();
    let _server = Echo::new(&net.world, WORLD, 80);
    let open = || {
        let (sources, destinations) = ([address(2).parse().unwrap()].into(), [WORLD.parse().unwrap()].into());
        net.node.enter(|| open_connections(&sources, &destinations)).unwrap().len()
    };
    assert_eq!(open(), 0);
    let connection = Connection::new(&net.pods[0], WORLD, 80);
    assert_eq!(open(), 1);
    drop(connection);
    eventually("both sides have closed", || open() == 0);
    net.detach(datapath);
}
