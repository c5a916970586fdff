//! From a pod that asks for a name to its connection: DNS servers, kernel program, queue, planning thread, all real.

mod place;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

use place::{BELIEVED, Place, ROGUE, Transport, eventually};

/// Long enough for a connection that is let through, even when its first packet is lost.
const ALLOWED_TIMEOUT: Duration = Duration::from_secs(10);
/// Short enough to wait for one that is denied.
const DENIED_TIMEOUT: Duration = Duration::from_millis(700);

/// The response of a server for a name, asked from the pod.
fn resolve(place: &Place, server: &str, transport: Transport, name: &str) -> Vec<IpAddr> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let answer = place.ask(server, transport, &question.to_vec().unwrap());
    let answers = Message::from_vec(&answer).unwrap().answers;
    answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn site(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 80)
}

fn connects(place: &Place, address: IpAddr, patience: Duration) -> Option<TcpStream> {
    place.in_pod(|| TcpStream::connect_timeout(&site(address), patience)).ok()
}

#[test]
fn a_name_is_resolved_and_its_addresses_are_open_at_once_and_for_its_time() {
    let Some(place) = Place::new("time") else { return };
    let address = |last: u8| IpAddr::from([192, 168, 50, last]);
    eventually("answers are read", || place.learning());
    assert!(connects(&place, address(100), DENIED_TIMEOUT).is_none(), "nobody has asked for it yet");

    // An answer is with the pod only when the kernel knows it: no first packet is lost, for any new name.
    for (number, transport) in (0..10).zip([Transport::Udp, Transport::Tcp].into_iter().cycle()) {
        let name = format!("W{number}.Example.com.");
        assert_eq!(resolve(&place, BELIEVED, transport, &name), [address(100 + number)], "{name} over {transport:?}");
        let lost = place.retransmissions();
        assert!(connects(&place, address(100 + number), ALLOWED_TIMEOUT).is_some(), "{name} over {transport:?}");
        assert_eq!(place.retransmissions(), lost, "{name} over {transport:?}: the first packet was let through");
    }
    // By way of an alias, and at least a hundred addresses.
    let many = resolve(&place, BELIEVED, Transport::Tcp, "many.example.org.");
    assert_eq!(many.len(), 120);
    assert!(connects(&place, many[119], ALLOWED_TIMEOUT).is_some());

    // What no rule names, and what somebody says who is no DNS server of the cluster.
    assert_eq!(resolve(&place, BELIEVED, Transport::Udp, "example.com."), [address(90)]);
    assert!(
        connects(&place, address(90), DENIED_TIMEOUT).is_none(),
        "the wildcard does not mean the name below which it is"
    );
    assert_eq!(resolve(&place, ROGUE, Transport::Udp, "rogue.example.com."), [address(91)]);
    assert!(connects(&place, address(91), DENIED_TIMEOUT).is_none(), "not of a server that is believed");

    // What is inside of the cluster, by a name outside.
    assert_eq!(resolve(&place, BELIEVED, Transport::Udp, "inside.example.com."), [address(1), address(95)]);
    assert!(connects(&place, address(95), ALLOWED_TIMEOUT).is_some());
    assert!(connects(&place, address(1), DENIED_TIMEOUT).is_none(), "the node is not opened");
    assert_eq!(place.withheld(), 1);

    after_its_time(&place, address(100), address(101));
}

/// An address of `w0.example.com`, and another of which the time is over, too.
fn after_its_time(place: &Place, address: IpAddr, other: IpAddr) {
    let name_and_connect = || {
        assert_eq!(resolve(place, BELIEVED, Transport::Udp, "w0.example.com."), [address]);
        connects(place, address, ALLOWED_TIMEOUT).expect("it is known")
    };
    let open = name_and_connect();
    eventually("an address nobody uses is forgotten", || connects(place, other, DENIED_TIMEOUT).is_none());
    eventually("new connections to one in use are denied, too", || connects(place, address, DENIED_TIMEOUT).is_none());
    // Longer than until the next look at who uses it.
    for _ in 0..10 {
        assert!(place::echoes(&open), "an open connection outlives the time of the address");
        assert!(connects(place, address, DENIED_TIMEOUT).is_none(), "and lets no new one pass");
    }
    let second = name_and_connect();
    assert!(place::echoes(&open), "asked for again, it is open for both");
    drop((open, second));
    eventually("an address without connections is forgotten", || place.addresses() == 0);
    assert!(connects(place, address, DENIED_TIMEOUT).is_none());

    let open = name_and_connect();
    eventually("its time is over", || connects(place, address, DENIED_TIMEOUT).is_none());
    assert!(place::echoes(&open));
    place.delete_rule();
    eventually("without its rule an open connection is cut", || !place::echoes(&open));
}

#[test]
fn a_flushed_ruleset_is_back_within_a_second_with_answers_to_the_pod_and_new_addresses_of_names() {
    const REPAIR_LIMIT: Duration = Duration::from_secs(1);
    let Some(place) = Place::new("flush") else { return };
    let address = |last: u8| IpAddr::from([192, 168, 50, last]);
    eventually("answers are read", || place.learning());
    let served = place.call_pod();
    assert!(place::echoes(&served));
    for (number, name) in (1..4).zip(["w1.example.com.", "w2.example.com.", "w3.example.com."]) {
        place.on_node("nft flush ruleset");
        let flushed = Instant::now();
        eventually("a server with an egress policy answers again", || place.call_pod_at_once().is_some());
        eventually("answers are read again", || place.learning());
        let took = flushed.elapsed();
        assert!(took < REPAIR_LIMIT, "it took {took:?}");
        assert!(place::echoes(&served), "and so goes on what was open");
        assert_eq!(resolve(&place, BELIEVED, Transport::Udp, name), [address(100 + number)]);
        assert!(connects(&place, address(100 + number), ALLOWED_TIMEOUT).is_some(), "{name} is learnt");
    }
    assert_eq!(place.repairs("connection-tracking"), 3);
    // What others do that takes nothing of ours.
    for (number, line) in (4..6).zip(["conntrack -F 2>&1", "iptables -F && ip6tables -F"]) {
        if !place.has(line.split(' ').next().unwrap_or_default()) {
            println!("skipped: {line}: there is no such program");
            continue;
        }
        place.on_node(line);
        assert!(place::echoes(&served), "{line}: what was open goes on");
        assert!(place.call_pod_at_once().is_some(), "{line}");
        let name = format!("w{number}.example.com.");
        assert_eq!(resolve(&place, BELIEVED, Transport::Udp, &name), [address(100 + number)]);
        assert!(connects(&place, address(100 + number), ALLOWED_TIMEOUT).is_some(), "{line}: {name} is learnt");
    }
}

#[test]
fn answers_that_no_rule_means_do_not_wait_for_work_on_others() {
    const CONNECTIONS: u32 = 200_000;
    /// To read so many connections takes longer than that; to hand a packet to a program and back a hundredth of it.
    const MAX_LATENCY: Duration = Duration::from_millis(300);
    /// Long enough for somebody to look at connections.
    const MEASURED: Duration = Duration::from_secs(8);
    let Some(place) = Place::new("latency") else { return };
    eventually("answers are read", || place.learning());
    // An address lingers, so somebody has to look who uses it, again and again.
    let [address] = resolve(&place, BELIEVED, Transport::Udp, "w0.example.com.")[..] else { panic!("one address") };
    let open = connects(&place, address, ALLOWED_TIMEOUT).expect("it is known");
    eventually("it lingers", || connects(&place, address, DENIED_TIMEOUT).is_none());
    let idle = latencies(&place, MEASURED);
    place.track(CONNECTIONS);
    let tracked = place.tracked();
    assert!(tracked > CONNECTIONS / 2, "only {tracked} connections");
    let busy = latencies(&place, MEASURED);
    println!("answers with {tracked} connections on the node: {busy:?}; without: {idle:?}");
    assert!(busy.longest < MAX_LATENCY, "an answer took {:?}", busy.longest);
    assert!(place::echoes(&open) && place.addresses() > 0, "it was in use all the while");
}

#[test]
fn the_end_holds_up_no_answer() {
    /// Less than after which a resolver asks again, and than answers are held at the longest.
    const MAX_LATENCY: Duration = Duration::from_millis(800);
    let Some(place) = Place::new("end") else { return };
    eventually("answers are read", || place.learning());
    let took = std::thread::scope(|scope| {
        let asking = scope.spawn(|| latencies(&place, Duration::from_secs(3)));
        place.stop_learning();
        asking.join().unwrap()
    });
    assert!(took.longest < MAX_LATENCY, "{took:?}");
    place.on_node("! nft list table inet ringfence | grep -q goto");
    assert_eq!(resolve(&place, BELIEVED, Transport::Tcp, "w0.example.com.").len(), 1, "DNS works without us");
}

/// Latencies of responses.
#[derive(Debug)]
struct Latencies {
    #[expect(dead_code, reason = "printed")]
    median: Duration,
    #[expect(dead_code, reason = "printed")]
    p999: Duration,
    longest: Duration,
}

/// Asks every 5 ms for a name that no rule means.
fn latencies(place: &Place, time: Duration) -> Latencies {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A));
    let mut took = place.ask_often(BELIEVED, &question.to_vec().unwrap(), time, Duration::from_millis(5));
    took.sort_unstable();
    let at = |part: usize| took[(took.len() * part / 1000).min(took.len() - 1)];
    Latencies { median: at(500), p999: at(999), longest: at(1000) }
}
