//! Tests of reading probes: from patterns, and from packets between namespaces that lose some.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, mpsc};

use ipnet::IpNet;
use ringfence_netns::{Namespace, VethEnd};

use super::super::prober;
use super::*;
use crate::nft;

/// Probes a millisecond apart; `#` answered, `.` not.
fn seen(pattern: &str) -> (Seen, mpsc::Sender<Told>, Instant) {
    let (sender, receiver) = mpsc::channel();
    let begin = Instant::now();
    for (number, outcome) in (0..).zip(pattern.chars()) {
        let sent = begin + Duration::from_millis(number);
        sender.send(Told::Sent(sent)).unwrap();
        sender.send(Told::Decided { sent, answered: outcome == '#' }).unwrap();
    }
    (Seen::new(receiver), sender, begin)
}

#[test]
fn a_denial_begins_with_its_first_unanswered_packet() {
    let (mut seen, _sender, begin) = seen(&format!("###.#{}", ".".repeat(RUN)));
    assert_eq!(seen.begin(false, begin), Some(begin + Duration::from_millis(5)));
}

#[test]
fn an_allowance_begins_with_the_first_answer() {
    let (mut seen, _sender, begin) = seen(&format!("..#.{}", "#".repeat(RUN)));
    assert_eq!(seen.begin(true, begin), Some(begin + Duration::from_millis(2)));
}

#[test]
fn contradictions_are_counted_up_to_the_last_probe_sent() {
    let (mut seen, sender, begin) = seen(&format!("{}#.##", "#".repeat(RUN)));
    seen.begin(true, begin).unwrap();
    // Sent, and decided only after a while.
    let late = begin + Duration::from_millis(100);
    sender.send(Told::Sent(late)).unwrap();
    let decides = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        sender.send(Told::Decided { sent: late, answered: false }).unwrap();
        sender
    });
    assert!(seen.hold(true, Duration::from_millis(1)));
    assert_eq!(seen.tally(), Tally { all: RUN + 5, known: 6, strays: 2 });
    drop(decides.join().unwrap());
    assert!(!seen.hold(true, Duration::from_millis(1)), "the prober has ended");
}

/// Two namespaces, and a filter before the second.
struct Net {
    near: Namespace,
    far: Namespace,
}

const FAR: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 2);

impl Net {
    fn new() -> Self {
        let create = |role: &str| Namespace::create(&format!("rfbenchtest{}{role}", std::process::id())).unwrap();
        let net = Self { near: create("n"), far: create("f") };
        let ends = [&net.near, &net.far].map(|namespace| VethEnd { name: "eth0", namespace });
        net.near.netlink().unwrap().add_veth(ends[0], ends[1], None).unwrap();
        for (namespace, address) in [(&net.near, Ipv4Addr::new(10, 245, 0, 1)), (&net.far, FAR)] {
            let mut netlink = namespace.netlink().unwrap();
            netlink.set_up("eth0").unwrap();
            netlink.add_address("eth0", IpNet::new(IpAddr::V4(address), 24).unwrap()).unwrap();
        }
        net
    }

    /// Lets a rule decide about packets that come in; most probes have even source ports.
    fn filter(&self, rule: &str) {
        let table = "table inet bench";
        let chain = "chain in { type filter hook input priority filter";
        nft::load(&self.far, &format!("{table}\ndelete {table}\n{table} {{ {chain}; {rule}; }}; }}\n")).unwrap();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            Namespace::delete(namespace.name()).unwrap();
        }
    }
}

/// Result of probes in a steady state with a few packets decided otherwise.
fn measured(net: &Net, allowed: bool, leak: &str) -> Tally {
    let (sender, receiver) = mpsc::channel();
    let mut seen = Seen::new(receiver);
    let steady = if allowed { "accept" } else { "drop" };
    net.filter(steady);
    let near = Arc::new(Namespace::open(net.near.name()).unwrap());
    let begin = Instant::now();
    let end = prober::start(near, FAR, Duration::from_micros(500), sender);
    seen.begin(allowed, begin).unwrap();
    net.filter(leak);
    assert!(seen.hold(allowed, Duration::from_millis(400)));
    net.filter(steady);
    drop(end);
    seen.tally()
}

#[test]
fn packets_lost_or_leaked_are_counted_and_nothing_else() {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI must run this as root");
    if !root {
        println!("skipped: needs root");
        return;
    }
    let net = Net::new();
    for (allowed, steady) in [(true, "accept"), (false, "drop")] {
        let sound = measured(&net, allowed, steady);
        assert!(sound.known > 200 && sound.strays == 0, "{allowed}: {sound:?}");
        // About one of sixteen, decided the other way.
        let leak = if allowed { "tcp sport & 31 == 2 drop" } else { "tcp sport & 31 != 2 drop" };
        let broken = measured(&net, allowed, leak);
        assert!(broken.strays > broken.known / 64 && broken.strays < broken.known / 4, "{allowed}: {broken:?}");
    }
}
