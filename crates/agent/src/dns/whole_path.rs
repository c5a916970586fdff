//! From a pod that asks for a name to its connection: DNS servers, kernel program, queue, planning thread, all real.

mod place;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

use place::{BELIEVED, Place, ROGUE, Transport, eventually};

/// Long enough for a connection that is let through, even when its first packet is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Short enough to wait for one that is denied.
const DOUBT: Duration = Duration::from_millis(700);

/// What a server answers for a name, asked from the pod.
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
    let Some(place) = Place::new() else { return };
    let address = |last: u8| IpAddr::from([192, 168, 50, last]);
    eventually("answers are read", || place.learning());
    assert!(connects(&place, address(100), DOUBT).is_none(), "nobody has asked for it yet");

    // An answer is with the pod only when the kernel knows it: no first packet is lost, for any new name.
    for (number, transport) in (0..10).zip([Transport::Udp, Transport::Tcp].into_iter().cycle()) {
        let name = format!("W{number}.Example.com.");
        assert_eq!(resolve(&place, BELIEVED, transport, &name), [address(100 + number)], "{name} over {transport:?}");
        let lost = place.retransmissions();
        assert!(connects(&place, address(100 + number), PATIENCE).is_some(), "{name} over {transport:?}");
        assert_eq!(place.retransmissions(), lost, "{name} over {transport:?}: the first packet was let through");
    }
    // By way of an alias, and at least a hundred addresses.
    let many = resolve(&place, BELIEVED, Transport::Tcp, "many.example.org.");
    assert_eq!(many.len(), 120);
    assert!(connects(&place, many[119], PATIENCE).is_some());

    // What no rule names, and what somebody says who is no DNS server of the cluster.
    assert_eq!(resolve(&place, BELIEVED, Transport::Udp, "example.com."), [address(90)]);
    assert!(connects(&place, address(90), DOUBT).is_none(), "the wildcard does not mean the name below which it is");
    assert_eq!(resolve(&place, ROGUE, Transport::Udp, "rogue.example.com."), [address(91)]);
    assert!(connects(&place, address(91), DOUBT).is_none(), "not of a server that is believed");

    after_its_time(&place, address(100), address(101));
}

/// An address of `w0.example.com`, and another of which the time is over, too.
fn after_its_time(place: &Place, address: IpAddr, other: IpAddr) {
    let name_and_connect = || {
        assert_eq!(resolve(place, BELIEVED, Transport::Udp, "w0.example.com."), [address]);
        connects(place, address, PATIENCE).expect("it is known")
    };
    let open = name_and_connect();
    eventually("an address nobody uses is forgotten", || connects(place, other, DOUBT).is_none());
    eventually("new connections to one in use are denied, too", || connects(place, address, DOUBT).is_none());
    // Longer than until the next look at who uses it.
    for _ in 0..10 {
        assert!(place::echoes(&open), "an open connection outlives the time of the address");
        assert!(connects(place, address, DOUBT).is_none(), "and lets no new one pass");
    }
    let second = name_and_connect();
    assert!(place::echoes(&open), "asked for again, it is open for both");
    drop((open, second));
    eventually("an address without connections is forgotten", || place.addresses() == 0);
    assert!(connects(place, address, DOUBT).is_none());

    let open = name_and_connect();
    eventually("its time is over", || connects(place, address, DOUBT).is_none());
    assert!(place::echoes(&open));
    place.delete_rule();
    eventually("without its rule an open connection is cut", || !place::echoes(&open));
}
