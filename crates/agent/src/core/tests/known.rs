//! Addresses of nodes and Services reach the kernel when all are known, and again only if something differs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::ObjectKey;

use super::support::{Call, Fixture, namespace, node};
use super::{apply, event};
use crate::core::Message;
use crate::enforcer::EnforceError;
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

#[test]
fn a_namespace_with_more_addresses_of_services_than_fit_goes_without_and_nobody_else_notices() {
    let mut fixture = Fixture::in_sync();
    fixture.shrink(33);
    let many: Vec<IpAddr> = (0..200).map(|number| IpAddr::from([192, 0, 2, number])).collect();
    let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    let greedy = Addresses { cluster: vec!["10.96.0.7".parse().unwrap()], outside: many };
    let all = BTreeMap::from([(key("shop", "web"), service("10.96.0.1", "192.0.3.7")), (key("blue", "big"), greedy)]);
    fixture.step([Message::Services(News::All(all))]);
    let [(nodes, services)] = &known(&fixture)[..] else { panic!("told once") };
    assert!(nodes.len() == 3 && services.len() == 30, "{} nodes, {} Services", nodes.len(), services.len());
    assert!(services.is_superset(&set(&["10.96.0.1", "192.0.3.7", "10.96.0.7"])), "{services:?}");
    let status = fixture.status();
    assert!(status.ready);
    let warning = status.warnings.iter().find(|warning| warning.contains("infra_addresses")).unwrap();
    assert!(warning.contains("for 173 addresses of Services of namespaces blue (173):"), "{warning}");
    let text = fixture.metrics();
    assert!(text.contains("\nringfence_service_addresses_over_capacity 173\n"), "{text}");
    // Others' news take effect.
    fixture.step([Message::Services(News::One(key("shop", "db"), service("10.96.0.2", "")))]);
    assert!(known(&fixture)[0].1.contains(&"10.96.0.2".parse().unwrap()));
    fixture.step([Message::Services(News::One(key("blue", "big"), Addresses::default()))]);
    assert!(!fixture.status().warnings.iter().any(|warning| warning.contains("infra_addresses")));
}

#[test]
fn what_is_known_and_cannot_be_told_makes_the_node_not_ready_until_it_is() {
    let mut fixture = Fixture::in_sync();
    fixture.fail(EnforceError::Capacity("no room".into()));
    fixture.step([Message::Services(News::All(BTreeMap::default()))]);
    assert!(fixture.ask(crate::core::Question::Ready).unwrap_err().contains("no room"));
    fixture.step([apply(namespace("c"))]);
    assert_eq!(fixture.ask(crate::core::Question::Ready), Ok("ok".into()));
}
