//! Addresses that names open: none inside of the cluster by a name outside, or by a wildcard.

use std::net::IpAddr;

use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{Connection, Direction, Domain, DomainName, Name, ObjectKey, Origin, Protocol};
use serde_json::json;

use super::support::{Fixture, node, pod};
use super::{apply, event};
use crate::core::Message;
use crate::services::{Addresses, News};

/// Those that the cluster gave a Service.
fn addresses(texts: &[&str]) -> Addresses {
    Addresses { cluster: texts.iter().map(|text| text.parse().unwrap()).collect(), outside: Vec::new() }
}

/// Inside: a pod of another node, that node, an address of this node's range nobody has, a Service's, one of the range
/// of Services, and those of machines and links.
const INSIDE: [&str; 9] = [
    "10.244.9.2",
    "10.90.0.12",
    "10.244.0.77",
    "10.96.0.7",
    "10.97.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "fe80::1",
    "64:ff9b::af4:902",
];
const OUTSIDE: &str = "203.0.113.9";

/// A response of DNS for a name, and the addresses at which it lingers.
fn answered(name: &str, addresses: &[&str], lingering: &[&str]) -> Message {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let domain = Domain {
        name: DomainName::new(name),
        addresses: parse(addresses),
        lingering: parse(lingering),
        inside: [].into(),
    };
    Message::Domains { domains: vec![domain], change: 1 }
}

/// A node whose pod may call these names, and nothing else.
fn fixture(patterns: &[&str]) -> Fixture {
    let mut fixture = Fixture::in_sync();
    let egress = json!([
        {"action": "Accept", "to": [{"domainNames": patterns}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
    ]);
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": egress});
    let object = json!({"metadata": {"name": "names", "uid": "n", "generation": 1}, "spec": spec});
    let (object, diagnostics) = Kind::ClusterNetworkPolicy.convert(&object);
    assert_eq!(diagnostics, []);
    let service = News::One(("b".into(), "web".into()), addresses(&["10.96.0.7"]));
    fixture.step([
        apply(object),
        apply(node("other", "10.90.0.12", "10.244.8.0/24")),
        apply(pod("b", "db", "10.244.9.2")),
        Message::Services(service),
        Message::Services(News::Ranges(vec!["10.96.0.0/12".parse().unwrap()])),
    ]);
    fixture
}

/// True if the pod here may open connections to an address, or may go on with an open one.
fn opens(fixture: &Fixture, address: &str, established: bool) -> bool {
    let destination: IpAddr = address.parse().unwrap();
    let connection = Connection {
        source: "10.244.0.2".parse().unwrap(),
        destination,
        protocol: Protocol::TCP,
        port: 443,
        origin: Origin::Elsewhere,
        translated: false,
        established,
    };
    fixture.kernel().evaluate_direction(&connection, Direction::Egress).allow
}

#[test]
fn a_name_outside_opens_no_address_inside_whatever_is_answered() {
    for pattern in ["*.evil.com", "w.evil.com"] {
        let mut fixture = fixture(&[pattern]);
        let addresses: Vec<_> = INSIDE.into_iter().chain([OUTSIDE]).collect();
        fixture.step([answered("w.evil.com", &addresses, &[])]);
        let open: Vec<_> = addresses.iter().filter(|address| opens(&fixture, address, false)).collect();
        assert_eq!(open, [&OUTSIDE], "{pattern}");
        let status = fixture.status();
        assert_eq!((status.fqdns.addresses, status.fqdns.withheld), (1, INSIDE.len()));
        let warning = status.warnings.iter().find(|warning| warning.contains("names outside")).unwrap();
        assert!(warning.contains("no rule opens 9 addresses") && warning.contains("w.evil.com"), "{warning}");
        let text = fixture.metrics();
        assert!(text.contains("ringfence_fqdn_addresses_withheld_total 9\n"), "{text}");

        // Where they only linger they are as closed; and the name goes.
        fixture.step([answered("w.evil.com", &[], &addresses)]);
        let open: Vec<_> = addresses.iter().filter(|address| opens(&fixture, address, true)).collect();
        assert_eq!(open, [&OUTSIDE], "{pattern}");
        fixture.step([answered("w.evil.com", &[], &[])]);
        assert_eq!((fixture.status().fqdns.names, fixture.status().fqdns.withheld), (0, 0));
    }
}

#[test]
fn a_name_of_the_cluster_opens_pods_and_nodes_where_the_rule_has_that_very_name() {
    let name = "db.b.svc.cluster.local";
    for (patterns, is_open) in [
        (&["DB.b.svc.cluster.local."][..], true),
        (&["*.b.svc.cluster.local"], false),
        (&["*.cluster.local", "*.b.svc.cluster.local", "db.b.svc.cluster.local"], true),
    ] {
        let mut fixture = fixture(patterns);
        fixture.step([answered(name, &["10.244.9.2", "10.90.0.12", "169.254.169.254", OUTSIDE], &[])]);
        for address in ["10.244.9.2", "10.90.0.12"] {
            assert_eq!(opens(&fixture, address, false), is_open, "{patterns:?} {address}");
        }
        assert!(!opens(&fixture, "169.254.169.254", false), "that is nobody's in the cluster");
        assert!(opens(&fixture, OUTSIDE, false), "{patterns:?}");
    }
}

#[test]
fn an_address_that_becomes_one_of_the_cluster_is_closed_with_the_same_commit() {
    let mut fixture = fixture(&["*.example.com"]);
    fixture.step([answered("a.example.com", &["203.0.113.9"], &["203.0.113.10"])]);
    let open =
        |fixture: &Fixture| [("203.0.113.9", false), ("203.0.113.10", true)].map(|(at, old)| opens(fixture, at, old));
    assert_eq!(open(&fixture), [true, true]);

    fixture.calls();
    fixture.step([apply(pod("b", "taker", "203.0.113.9"))]);
    assert_eq!(open(&fixture), [false, true], "a pod has it now");
    fixture.step([apply(node("third", "203.0.113.10", "10.244.7.0/24"))]);
    assert_eq!(open(&fixture), [false, false], "and a node the other");
    let key = ringfence_model::PodKey { namespace: "b".into(), name: "taker".into() };
    fixture.step([event(Event::Delete(ObjectKey::Pod(key)))]);
    fixture.step([event(Event::Delete(ObjectKey::Node(Name::from("third"))))]);
    assert_eq!(open(&fixture), [true, true], "nobody has them any more");
    fixture.step([apply(node("third", "10.90.0.13", "203.0.113.0/24"))]);
    assert_eq!(open(&fixture), [false, false], "a range of pods is around them");
    fixture.step([apply(node("third", "10.90.0.13", "10.244.7.0/24"))]);
    let service = |texts: &[&str]| Message::Services(News::One(("b".into(), "late".into()), addresses(texts)));
    fixture.step([service(&["203.0.113.9"])]);
    assert_eq!(open(&fixture), [false, true], "a Service has it");
    fixture.step([service(&[])]);
    fixture.step([Message::Services(News::Ranges(vec!["203.0.113.0/24".parse().unwrap()]))]);
    assert_eq!(open(&fixture), [false, false], "it is in the range of Services");
}
