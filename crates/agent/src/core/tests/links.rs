//! The links of pods: what reaches the kernel of them, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use ringfence_api as api;
use ringfence_datapath::{Interface, PodLink};
use ringfence_netns::Tunnel;
use tokio::sync::oneshot;

use super::support::{Call, Fixture, deny_all, pod};
use super::{apply, event, wait_for};
use crate::cni_cache::Told;
use crate::core::{Message, Question};
use crate::enforcer::EnforceError;
use crate::interfaces::{Found, Nudge};
use crate::ports::Ports;
use ringfence_k8s::watch::Event;

fn port(pod: bool) -> PodLink {
    PodLink { bridge: Some(3), mac: Some([2, 0, 0, 0, 0, 7]), pod, idle: false }
}

/// Addresses and the links they are behind, all of them ports of one bridge.
fn ports(pairs: &[(&str, u32)]) -> Ports {
    let interface = |(text, index): &(&str, u32)| (text.parse().unwrap(), Interface { index: *index, bridge: Some(3) });
    Ports {
        interfaces: pairs.iter().map(interface).collect(),
        links: pairs.iter().map(|(_, index)| (*index, port(true))).collect(),
        names: pairs.iter().map(|(_, index)| (*index, format!("veth{index}"))).collect(),
    }
}

fn found(pairs: &[(&str, u32)], news: u64) -> Message {
    let bridge = Some(api::BridgeNetfilter { ipv4: true, ipv6: true });
    Message::Found(Found { ports: ports(pairs), bridge, tunnels: BTreeSet::from([Tunnel::udp(8472)]), news })
}

fn told(text: &str) -> Told {
    let (addresses, links) = (vec![text.parse().unwrap()], vec!["veth9".to_owned()]);
    Told { at: SystemTime::now(), addresses, links, hardware_address: None }
}

fn guarded(fixture: &Fixture) -> Option<BTreeSet<u32>> {
    let last = |call| match call {
        Call::Guard(links) => Some(links.into_keys().collect()),
        _ => None,
    };
    fixture.calls().into_iter().filter_map(last).next_back()
}

#[test]
fn links_reach_the_kernel_once_and_are_looked_at_after_that() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "more", "10.244.0.3"))]);
    fixture.calls();
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    let tunnels = Call::Tunnels(BTreeSet::from([Tunnel::udp(8472)]));
    let guard = Call::Guard(BTreeMap::from([(7, port(true))]));
    assert_eq!(fixture.calls(), [Call::Interfaces(1), tunnels, guard, Call::LookAtGuards]);
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    assert_eq!(fixture.calls(), [Call::LookAtGuards]);
    let status = fixture.status();
    let told: Vec<_> = status.endpoints.iter().map(|endpoint| (endpoint.interface, endpoint.guarded)).collect();
    assert_eq!(told, [(Some(7), true), (None, false)]);
    // An endpoint that comes or goes takes along what the kernel knows of its link.
    fixture.step([apply(pod("a", "more", "10.244.0.4"))]);
    assert_eq!(guarded(&fixture), Some(BTreeSet::from([7])));
}

#[test]
fn nothing_is_guarded_before_the_whole_view_is_in_the_kernel_and_all_links_were_looked_at() {
    let mut fixture = Fixture::new();
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    assert_eq!(fixture.calls(), [], "what an agent before this one guards stays");
    fixture.step(Fixture::listing().into_iter().chain([event(Event::InSync)]));
    assert_eq!(guarded(&fixture), Some(BTreeSet::from([7])));
    let mut fixture = Fixture::in_sync();
    fixture.step([Message::Placed(told("10.244.0.9"), ports(&[("10.244.0.9", 9)]), None)]);
    assert_eq!(fixture.calls(), []);
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    assert_eq!(guarded(&fixture), Some(BTreeSet::from([7, 9])));
}

#[test]
fn a_pod_starts_only_behind_a_guarded_link_whatever_was_found_meanwhile() {
    let mut fixture = Fixture::in_sync();
    let nudges = fixture.with_scout();
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    fixture.step([apply(pod("a", "starting", ""))]);
    fixture.calls();
    let (reply, mut answer) = oneshot::channel();
    fixture.step([
        Message::Placed(told("10.244.0.9"), ports(&[("10.244.0.9", 9)]), None),
        Message::Ask(Question::Wait(wait_for("starting", &["10.244.0.9"]), reply)),
    ]);
    assert_eq!(answer.try_recv().unwrap().len(), 1);
    assert_eq!(guarded(&fixture), Some(BTreeSet::from([7, 9])));
    assert!(nudges.try_iter().any(|nudge| matches!(nudge, Nudge::Told(1, _))));
    // Looked at before that was told.
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    assert_eq!(guarded(&fixture), None, "nothing else than before");
    fixture.step([found(&[("10.244.0.2", 7)], 1)]);
    assert_eq!(guarded(&fixture), Some(BTreeSet::from([7])), "it was looked for, and is gone");
}

#[test]
fn a_pod_starts_only_when_its_link_is_guarded_and_nothing_else_waits_for_that() {
    let mut fixture = Fixture::in_sync();
    let _nudges = fixture.with_scout();
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    fixture.step([apply(pod("a", "starting", ""))]);
    fixture.idle = true;
    let (reply, mut answer) = oneshot::channel();
    fixture.step([
        Message::Placed(told("10.244.0.9"), ports(&[("10.244.0.9", 9)]), None),
        Message::Ask(Question::Wait(wait_for("starting", &["10.244.0.9"]), reply)),
    ]);
    fixture.step([apply(deny_all("a", 1))]);
    assert_eq!(fixture.kernel(), fixture.core.planner.plan());
    assert!(answer.try_recv().is_err());
    let check = fixture.ask(|reply| Question::Check(wait_for("starting", &["10.244.0.9"]), reply));
    assert_eq!(check.unwrap_err(), "the pod's link is not guarded yet");
    let status = fixture.status();
    assert!(status.ready && status.endpoints.iter().filter(|endpoint| endpoint.guarded).count() == 1);
    fixture.idle = false;
    fixture.step([apply(deny_all("b", 1))]);
    assert_eq!(answer.try_recv().unwrap().len(), 1);
}

#[test]
fn a_pod_whose_link_cannot_be_guarded_waits_and_the_node_is_not_ready() {
    let mut fixture = Fixture::in_sync();
    let _nudges = fixture.with_scout();
    fixture.step([apply(pod("a", "starting", ""))]);
    fixture.refuse(&[(9, "no room")]);
    let (reply, mut answer) = oneshot::channel();
    fixture.step([
        Message::Placed(told("10.244.0.9"), ports(&[("10.244.0.9", 9)]), None),
        Message::Ask(Question::Wait(wait_for("starting", &["10.244.0.9"]), reply)),
    ]);
    assert!(answer.try_recv().is_err(), "nobody has looked at the links yet");
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    assert!(answer.try_recv().is_err());
    let check = fixture.ask(|reply| Question::Check(wait_for("starting", &["10.244.0.9"]), reply));
    assert_eq!(check.unwrap_err(), "the pod's link cannot be guarded: no room");
    let why = fixture.ask(Question::Ready).unwrap_err();
    assert!(why.contains("veth9: no room"), "{why}");
    let status = fixture.status();
    assert!(!status.ready && status.warnings.contains(&why));
    assert_eq!(status.enforcement.host_interfaces.unguarded, ["veth9: no room"]);
    fixture.refuse(&[]);
    fixture.step([found(&[("10.244.0.2", 7), ("10.244.0.9", 9)], 1)]);
    assert_eq!(answer.try_recv().unwrap().len(), 1);
    assert_eq!(fixture.ask(Question::Ready), Ok("ok".into()));
}

#[test]
fn a_pod_waits_while_its_bridge_shows_nothing_of_it() {
    let mut fixture = Fixture::in_sync();
    let _nudges = fixture.with_scout();
    fixture.step([Message::Found(Found::default()), apply(pod("a", "starting", ""))]);
    let (reply, mut answer) = oneshot::channel();
    let shut = Some(api::BridgeNetfilter { ipv4: false, ipv6: true });
    fixture.step([
        Message::Placed(told("10.244.0.9"), ports(&[("10.244.0.9", 9)]), shut),
        Message::Ask(Question::Wait(wait_for("starting", &["10.244.0.9"]), reply)),
    ]);
    assert!(answer.try_recv().is_err(), "it is the first on a bridge");
    fixture.step([found(&[("10.244.0.9", 9)], 1)]);
    assert_eq!(answer.try_recv().unwrap().len(), 1);
}

#[test]
fn guards_that_somebody_takes_away_are_counted() {
    let mut fixture = Fixture::in_sync();
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    fixture.take_away(&[7]);
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    let status = fixture.status();
    assert_eq!(status.enforcement.host_interfaces.guarded, 1);
    let [repair] = &status.repairs[..] else { panic!("{:?}", status.repairs) };
    assert_eq!((&*repair.component, repair.count), ("guards", 1));
    assert!(repair.found.contains("(veth7)"), "{}", repair.found);
    let page = fixture.metrics();
    assert!(page.contains("ringfence_repairs_total{component=\"guards\"} 1"), "{page}");
}

#[test]
fn a_bridge_that_shows_nothing_and_a_kernel_that_takes_nothing_make_the_node_not_ready() {
    let mut fixture = Fixture::in_sync();
    let bridge = Some(api::BridgeNetfilter { ipv4: true, ipv6: false });
    fixture.step([Message::Found(Found { bridge, ..Found::default() })]);
    let why = fixture.ask(Question::Ready).unwrap_err();
    assert!(why.contains("bridge-nf-call-ip6tables is not 1"), "{why}");
    fixture.step([found(&[], 0)]);
    assert_eq!(fixture.ask(Question::Ready), Ok("ok".into()));
    fixture.fail(EnforceError::Kernel("no".into()));
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    assert!(fixture.ask(Question::Ready).unwrap_err().ends_with(": no"));
    fixture.step([found(&[("10.244.0.2", 7)], 0)]);
    assert_eq!(fixture.ask(Question::Ready), Ok("ok".into()), "the next look tries again");
    fixture.age();
    assert!(fixture.ask(Question::Ready).unwrap_err().starts_with("this kernel cannot guard links"));
}

#[test]
fn ports_of_nobody_are_closed_and_named() {
    let mut fixture = Fixture::in_sync();
    let mut seen = ports(&[("10.244.0.2", 7)]);
    seen.links.insert(8, port(false));
    seen.names.insert(8, "veth8".into());
    fixture.step([Message::Found(Found { ports: seen, ..Found::default() })]);
    let status = fixture.status();
    assert_eq!(status.enforcement.host_interfaces.closed, ["veth8"]);
    assert!(status.ready && status.warnings.iter().any(|warning| warning.contains("veth8")), "{:?}", status.warnings);
}
