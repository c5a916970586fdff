//! Addresses of nodes and Services reach the kernel when all are known, and again only if something differs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::ObjectKey;

use super::support::{Call, Fixture, namespace, node};
use super::{apply, event};
use crate::core::Message;
use crate::services::{Addresses, News};
use ringfence_k8s::watch::Event;

fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn service(cluster: &str, outside: &str) -> Addresses {
    let list = |text: &str| text.split(' ').filter_map(|text| text.parse().ok()).collect();
    Addresses { cluster: list(cluster), outside: list(outside) }
}

fn known(fixture: &Fixture) -> Vec<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)> {
    let pair = |call| match call {
        Call::Known(nodes, services) => Some((nodes, services)),
        _ => None,
    };
    fixture.calls().into_iter().filter_map(pair).collect()
}

#[test]
fn nodes_and_services_are_told_once_both_are_listed_and_when_something_differs() {
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(node("other", "10.90.0.12", "10.244.1.0/24"))]);
    fixture.step([Message::Services(News::One(key("early"), service("10.96.0.9", "")))]);
    assert_eq!(known(&fixture), [], "what an agent before this one told stands until the Services are listed");
    let all = BTreeMap::from([(key("web"), service("10.96.0.1 fd00::1", "192.0.2.7"))]);
    fixture.step([Message::Services(News::All(all.clone()))]);
    let nodes = set(&["10.90.0.11", "10.244.0.0", "10.244.0.1", "10.90.0.12", "10.244.1.0", "10.244.1.1"]);
    assert_eq!(known(&fixture), [(nodes.clone(), set(&["10.96.0.1", "fd00::1", "192.0.2.7"]))]);

    let same = apply(node("other", "10.90.0.12", "10.244.1.0/24"));
    fixture.step([same, Message::Services(News::All(all)), apply(namespace("c"))]);
    assert_eq!(known(&fixture), []);

    fixture.step([Message::Services(News::One(key("db"), service("10.96.0.2", "")))]);
    assert_eq!(known(&fixture), [(nodes, set(&["10.96.0.1", "fd00::1", "192.0.2.7", "10.96.0.2"]))]);
    let gone = [key("web"), key("db")].map(|key| Message::Services(News::One(key, Addresses::default())));
    fixture.step(gone.into_iter().chain([event(Event::Delete(ObjectKey::Node("other".into())))]));
    assert_eq!(known(&fixture), [(set(&["10.90.0.11", "10.244.0.0", "10.244.0.1"]), set(&[]))]);
}

#[test]
fn the_ranges_of_all_nodes_pods_are_told() {
    let told = |fixture: &Fixture| {
        let ranges = |call| match call {
            Call::PodRanges(ranges) => Some(ranges.iter().map(ToString::to_string).collect::<Vec<_>>()),
            _ => None,
        };
        fixture.calls().into_iter().filter_map(ranges).collect::<Vec<_>>()
    };
    let mut fixture = Fixture::in_sync();
    fixture
        .step([apply(node("other", "10.90.0.12", "10.244.1.0/24")), Message::Services(News::All(BTreeMap::default()))]);
    assert_eq!(told(&fixture), [["10.244.0.0/24", "10.244.1.0/24"]]);
    fixture.step([event(Event::Delete(ObjectKey::Node("other".into())))]);
    assert_eq!(told(&fixture), [["10.244.0.0/24"]]);
}
