//! The time to delete the connections of some addresses among many others.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use ringfence_datapath::delete_conntrack_entries_of;

use crate::kit::net::{Joint, Net};

/// Opens connections of a node with itself.
fn track(own: IpAddr, count: u32) {
    let sockets: Vec<_> = (0..=count / 60_000).map(|_| UdpSocket::bind((own, 0)).unwrap()).collect();
    for number in 0..count {
        let (socket, port) = (number / 60_000, u16::try_from(1024 + number % 60_000).unwrap());
        let _refused = sockets[socket as usize].send_to(b"x", (own, port));
    }
}

#[test]
fn many_addresses_are_forgotten_in_one_go_beside_200_000_connections_of_others() {
    if !crate::kit::can_run() {
        return;
    }
    let net = Net::new(Joint::Routes, 1);
    let datapath = net.open_with(net.pins.config());
    net.node.enter(|| {
        let size = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
        let each = (size.trim().parse::<u32>().unwrap() / 3).min(100_000);
        track("127.0.0.1".parse().unwrap(), each);
        track("::1".parse().unwrap(), each);
        let count = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
        let before: u32 = count().trim().parse().unwrap();
        assert!(before > each, "{before} connections are tracked");
        let timed = |addresses: &BTreeSet<IpAddr>| {
            let start = Instant::now();
            assert_eq!(delete_conntrack_entries_of(addresses).unwrap(), 0, "nobody else's");
            start.elapsed()
        };
        let four: BTreeSet<IpAddr> = [IpAddr::from([10, 9, 9, 9])].into();
        let six: BTreeSet<IpAddr> = ["fd00:9::9".parse().unwrap()].into();
        let many: BTreeSet<IpAddr> =
            (0..100).map(|number| IpAddr::from([10, 9, 8, number])).chain(six.iter().copied()).collect();
        let [one, sixth, all] = [&four, &six, &many].map(timed);
        println!("beside {before} connections: IPv4 {one:?}, IPv6 {sixth:?}, 100 addresses and IPv6 {all:?}");
        assert!(all < 20 * (one + sixth), "100 addresses take {all:?}, one of each {one:?} and {sixth:?}");
        track("127.0.0.2".parse().unwrap(), 20);
        assert!(delete_conntrack_entries_of(&[IpAddr::from([127, 0, 0, 2])].into()).unwrap() >= 20);
    });
    net.detach(datapath);
}
