//! The pod of each address, in whichever order plugin and API report it.

use ringfence_api::{CollectRequest, ReleaseRequest, WaitRequest};
use ringfence_k8s::watch::Event;
use ringfence_model::{Object, ObjectKey, PodKey};
use tokio::sync::oneshot;

use super::support::{Fixture, deny_all, pod};
use super::{apply, event, wait_for};
use crate::core::{Message, Question};
use crate::dns::Learning;
use crate::enforcer::EnforceError;

#[test]
fn addresses_the_api_does_not_know_yet_come_with_the_request() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "starting", ""))]);
    let (reply, mut answer) = oneshot::channel();
    fixture.step([Message::Ask(Question::Wait(wait_for("starting", &["10.244.0.8"]), reply))]);
    fixture.step([Message::Learning(Learning::default())]);
    assert_eq!(answer.try_recv().unwrap().len(), 1);
    // Another event about the pod, still without addresses, does not take them away.
    fixture.step([apply(pod("a", "starting", ""))]);
    assert!(fixture.kernel().endpoints.contains_key(&"10.244.0.8".parse().unwrap()));
    // Whatever the API says: the network plugin knows better.
    fixture.step([apply(pod("a", "starting", "10.244.0.99"))]);
    let addresses: Vec<_> = fixture.kernel().endpoints.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.244.0.2", "10.244.0.8"]);
}

/// Asks for a pod in a sandbox, and whether its policy is in the kernel now.
fn add(fixture: &mut Fixture, name: &str, address: &str, container: &str) -> bool {
    let (reply, mut answer) = oneshot::channel();
    let request = WaitRequest { container: Some(container.into()), ..wait_for(name, &[address]) };
    fixture.step([Message::Ask(Question::Wait(request, reply))]);
    fixture.step([Message::Learning(Learning::default())]);
    answer.try_recv().is_ok()
}

fn release(fixture: &mut Fixture, name: &str, container: &str) {
    let (namespace, uid) = ("a".into(), format!("uid-{name}"));
    let request = ReleaseRequest { namespace, name: name.into(), uid, container: container.into() };
    fixture.ask(|reply| Question::Release(request, reply));
}

fn owner(fixture: &mut Fixture, address: &str) -> Option<String> {
    let plan = fixture.kernel();
    plan.endpoints.get(&address.parse().unwrap()).map(|endpoint| endpoint.pod.name.to_string())
}

#[test]
fn the_address_of_a_sandbox_that_is_gone_is_closed_until_somebody_else_has_it() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "old", "")), apply(pod("a", "new", ""))]);
    assert!(add(&mut fixture, "old", "10.244.0.8", "c1"));
    fixture.step([apply(pod("a", "old", "10.244.0.8"))]);
    release(&mut fixture, "old", "c1");
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    // The API goes on saying that it has the address for a while.
    fixture.step([apply(pod("a", "old", "10.244.0.8"))]);
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    assert!(add(&mut fixture, "new", "10.244.0.8", "c2"));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "new");
}

#[test]
fn a_new_sandbox_of_the_same_pod_opens_again_and_late_tidying_does_not_close_it() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "again", "10.244.0.8"))]);
    for (container, address) in [("c1", "10.244.0.8"), ("c2", "10.244.0.8"), ("c3", "10.244.0.9")] {
        assert!(add(&mut fixture, "again", address, container), "{container}");
        release(&mut fixture, "again", "c0");
        fixture.step([apply(pod("a", "again", "10.244.0.8"))]);
        assert_eq!(owner(&mut fixture, address).unwrap(), "again", "{container}");
        if container != "c3" {
            release(&mut fixture, "again", container);
            assert_eq!(owner(&mut fixture, address), None, "{container}");
        }
    }
}

/// A pod that was created at some time.
fn created(name: &str, address: &str, at: i64) -> Message {
    let Object::Pod(mut pod) = pod("a", name, address) else { panic!("a pod is a pod") };
    pod.created = at;
    apply(Object::Pod(pod))
}

#[test]
fn whoever_is_given_an_address_has_it_though_nobody_said_that_it_was_free() {
    let mut fixture = Fixture::in_sync();
    // The pod that ran before is the younger one, so the API alone would leave the address to it.
    fixture.step([created("younger", "10.244.0.8", 9), created("waiting", "", 1)]);
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "younger");
    assert!(add(&mut fixture, "waiting", "10.244.0.8", "c2"));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "waiting");
    // The API goes on saying that the other has it, and then says that both do.
    fixture.step([created("younger", "10.244.0.8", 9)]);
    fixture.step([created("waiting", "10.244.0.8", 1)]);
    fixture.step([created("younger", "10.244.0.8", 9)]);
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "waiting");
    // It does not come back when the other goes, but with a sandbox of its own.
    fixture.step([event(Event::Delete(ObjectKey::Pod(PodKey { namespace: "a".into(), name: "waiting".into() })))]);
    fixture.step([created("younger", "10.244.0.8", 9)]);
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    assert!(add(&mut fixture, "younger", "10.244.0.8", "c3"));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "younger");
}

#[test]
fn late_news_of_an_earlier_sandbox_is_none() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "again", ""))]);
    assert!(add(&mut fixture, "again", "10.244.0.8", "c1"));
    assert!(add(&mut fixture, "again", "10.244.0.9", "c2"));
    fixture.step([apply(pod("a", "again", "10.244.0.8"))]);
    assert_eq!(owner(&mut fixture, "10.244.0.9").unwrap(), "again");
    fixture.step([apply(pod("a", "again", "10.244.0.9"))]);
    assert_eq!(owner(&mut fixture, "10.244.0.9").unwrap(), "again");
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
}

#[test]
fn checking_changes_nothing() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "again", ""))]);
    assert!(add(&mut fixture, "again", "10.244.0.9", "c2"));
    let old = WaitRequest { container: Some("c1".into()), ..wait_for("again", &["10.244.0.8"]) };
    fixture.ask(|reply| Question::Check(old, reply)).unwrap_err();
    release(&mut fixture, "again", "c2");
    assert_eq!(owner(&mut fixture, "10.244.0.9"), None, "the newest sandbox still was c2");
}

#[test]
fn sandboxes_that_nobody_lists_are_closed_and_those_of_other_networks_stay() {
    let mut fixture = Fixture::in_sync();
    for (name, address, container) in [("one", "10.244.0.8", "c1"), ("two", "10.244.0.9", "c2")] {
        fixture.step([apply(pod("a", name, ""))]);
        assert!(add(&mut fixture, name, address, container));
    }
    let collect = |network: &str| CollectRequest { network: network.into(), containers: vec!["c2".into()] };
    fixture.ask(|reply| Question::Collect(collect("others"), reply));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "one");
    fixture.ask(|reply| Question::Collect(collect("pods"), reply));
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
    assert_eq!(owner(&mut fixture, "10.244.0.9").unwrap(), "two");
    assert_eq!(owner(&mut fixture, "10.244.0.2").unwrap(), "web", "nobody told of its sandbox");
}

#[test]
fn an_agent_that_comes_back_knows_the_sandboxes_of_the_one_before() {
    let told = |name: &str, address: &str, container: &str| WaitRequest {
        container: Some(container.into()),
        ..wait_for(name, &[address])
    };
    let before = vec![(told("old", "10.244.0.7", "c0"), false), (told("new", "10.244.0.8", "c1"), true)];
    let mut fixture = Fixture::after(before);
    fixture.step(Fixture::listing().into_iter().chain([
        // Its sandbox went while nobody was there to hear it.
        created("younger", "10.244.0.8", 9),
        created("new", "", 1),
        apply(pod("a", "old", "10.244.0.6")),
        event(Event::InSync),
    ]));
    assert_eq!(owner(&mut fixture, "10.244.0.8").unwrap(), "new");
    assert_eq!(owner(&mut fixture, "10.244.0.6").unwrap(), "old", "the API knows better what is long ago");
    release(&mut fixture, "new", "c1");
    assert_eq!(owner(&mut fixture, "10.244.0.8"), None);
}

#[test]
fn a_pod_is_not_ready_before_the_policy_that_is_known_already() {
    let mut fixture = Fixture::in_sync();
    let (reply, mut answer) = oneshot::channel();
    fixture.fail(EnforceError::Kernel("no".into()));
    fixture.step([apply(deny_all("a", 1)), Message::Ask(Question::Wait(wait_for("web", &[]), reply))]);
    assert!(answer.try_recv().is_err(), "the policy came first and is not in the kernel");
}

/// Something that happens to pods `p0`, `p1`, …, which have had sandboxes `old` and get sandboxes `new`.
#[derive(Clone, Copy, Debug)]
enum Happens {
    /// A new sandbox is given an address.
    Add(usize, usize),
    /// The old sandbox is gone.
    Del(usize),
    /// The API says that a pod has an address.
    Report(usize, usize),
}

impl Happens {
    fn happen(self, fixture: &mut Fixture) {
        let (name, address) = (|pod: usize| format!("p{pod}"), |number: usize| format!("10.244.0.{}", 10 + number));
        match self {
            Self::Add(pod, number) => drop(add(fixture, &name(pod), &address(number), "new")),
            Self::Del(pod) => release(fixture, &name(pod), "old"),
            Self::Report(pod, number) => fixture.step([apply(super::support::pod("a", &name(pod), &address(number)))]),
        }
    }
}

/// Pods that exchange addresses have in the end what their newest sandboxes were given. `known`: the agent was told of
/// the old sandboxes.
fn exchange(events: &[Happens], pods: usize, known: bool) {
    let mut fixture = Fixture::in_sync();
    for number in 0..pods {
        Happens::Report(number, number).happen(&mut fixture);
        if known {
            let address = format!("10.244.0.{}", 10 + number);
            add(&mut fixture, &format!("p{number}"), &address, "old");
        }
    }
    for event in events {
        event.happen(&mut fixture);
    }
    let given = events.iter().filter_map(|event| match *event {
        Happens::Add(pod, number) => Some((format!("10.244.0.{}", 10 + number), format!("p{pod}"))),
        Happens::Del(_) | Happens::Report(..) => None,
    });
    for (address, pod) in given {
        let owner = owner(&mut fixture, &address);
        assert_eq!(owner.as_deref(), Some(pod.as_str()), "{address} after {events:?}, known: {known}");
    }
}

/// All orders of some events.
fn orders(events: &[Happens]) -> Vec<Vec<Happens>> {
    let [first, rest @ ..] = events else { return vec![Vec::new()] };
    let with = |order: Vec<Happens>| {
        (0..=order.len()).map(move |place| [&order[..place], &[*first], &order[place..]].concat()).collect::<Vec<_>>()
    };
    orders(rest).into_iter().flat_map(with).collect()
}

#[test]
fn two_pods_that_exchange_addresses_have_what_they_were_given_in_every_order() {
    use Happens::{Add, Del, Report};
    let events = [Add(0, 1), Add(1, 0), Report(0, 1), Report(1, 0), Del(0), Del(1)];
    let orders = orders(&events);
    assert_eq!(orders.len(), 720);
    for order in &orders {
        exchange(order, 2, false);
        exchange(order, 2, true);
    }
}

#[test]
fn many_pods_that_exchange_addresses_have_what_they_were_given() {
    let rng = &mut ringfence_engine::generate::Rng::new(1);
    for round in 0..300 {
        let pods = 2 + rng.below(6);
        let mut addresses: Vec<usize> = (0..pods).collect();
        rng.shuffle(&mut addresses);
        let mut events = Vec::new();
        for (pod, number) in addresses.into_iter().enumerate() {
            events.extend([Happens::Add(pod, number), Happens::Report(pod, number), Happens::Del(pod)]);
            // Late news of the time before.
            events.push(Happens::Report(pod, pod));
        }
        rng.shuffle(&mut events);
        exchange(&events, pods, round % 2 == 0);
    }
}

#[test]
fn a_predecessor_of_the_same_name_takes_nothing_with_it() {
    let mut fixture = Fixture::in_sync();
    fixture.step([apply(pod("a", "db-0", "10.244.0.7"))]);
    let (reply, mut answer) = oneshot::channel();
    let mut request = WaitRequest { container: Some("c2".into()), ..wait_for("db-0", &["10.244.0.8"]) };
    request.uid = "second".into();
    fixture.step([Message::Ask(Question::Wait(request, reply))]);
    fixture.step([event(Event::Delete(ObjectKey::Pod(PodKey { namespace: "a".into(), name: "db-0".into() })))]);
    assert!(answer.try_recv().is_err(), "the pod is not known yet");
    let Object::Pod(mut second) = pod("a", "db-0", "") else { panic!("a pod is a pod") };
    second.uid = "second".into();
    fixture.step([apply(Object::Pod(second))]);
    assert_eq!(answer.try_recv().unwrap(), ["10.244.0.8".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(owner(&mut fixture, "10.244.0.7"), None);
}

/// True if an address is closed: no pod has it, and it is guarded.
fn closed(fixture: &Fixture, address: &str) -> bool {
    let (plan, address) = (fixture.kernel(), address.parse().unwrap());
    !plan.endpoints.contains_key(&address) && plan.closed_cidrs.iter().any(|gate| gate.contains(&address))
}

/// A node whose pods have addresses outside of every range, as with a network plugin that has them of a cloud.
fn without_ranges() -> Fixture {
    let mut fixture = Fixture::in_sync();
    let Object::Node(mut node) = super::support::node("here", "10.90.0.11", "10.244.0.0/24") else {
        panic!("a node is a node")
    };
    node.pod_cidrs.clear();
    fixture.step([apply(Object::Node(node)), apply(pod("a", "cloudy", ""))]);
    assert!(add(&mut fixture, "cloudy", "10.9.0.8", "c1"));
    fixture
}

/// The same pod with something else about it.
fn changed(change: impl FnOnce(&mut ringfence_model::Pod)) -> Message {
    let Object::Pod(mut pod) = pod("a", "cloudy", "") else { panic!("a pod is a pod") };
    change(&mut pod);
    apply(Object::Pod(pod))
}

#[test]
fn an_address_of_a_sandbox_is_never_unguarded() {
    let mut fixture = without_ranges();
    assert_eq!(owner(&mut fixture, "10.9.0.8").unwrap(), "cloudy");
    let warnings = fixture.status().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("podCIDRs")), "{warnings:?}");
    // Its object says that it has ended, or goes; its namespace's object goes.
    for phase in [ringfence_model::PodPhase::Succeeded, ringfence_model::PodPhase::Failed] {
        fixture.step([changed(|pod| pod.phase = phase)]);
        assert!(closed(&fixture, "10.9.0.8"), "{phase:?}");
    }
    fixture.step([changed(|_| {})]);
    assert_eq!(owner(&mut fixture, "10.9.0.8").unwrap(), "cloudy");
    fixture.step([event(Event::Delete(ObjectKey::Namespace("a".into())))]);
    assert!(closed(&fixture, "10.9.0.8"));
    fixture.step([apply(super::support::namespace("a"))]);
    fixture.step([event(Event::Delete(ObjectKey::Pod(PodKey { namespace: "a".into(), name: "cloudy".into() })))]);
    assert!(closed(&fixture, "10.9.0.8"), "deleted by force, while something still runs");
    release(&mut fixture, "cloudy", "c1");
    fixture.step([Message::Learning(Learning::default())]);
    assert!(!closed(&fixture, "10.9.0.8"), "another node may have it now");
}

#[test]
fn a_pod_of_another_node_cannot_take_an_address_of_this_one() {
    let with_ranges = {
        let mut fixture = Fixture::in_sync();
        fixture.step([apply(pod("a", "cloudy", ""))]);
        assert!(add(&mut fixture, "cloudy", "10.244.0.8", "c1"));
        fixture
    };
    let fixtures = [without_ranges(), with_ranges];
    for mut fixture in fixtures {
        let endpoints = fixture.kernel().endpoints;
        let (address, _) = endpoints.iter().find(|(_, endpoint)| &*endpoint.pod.name == "cloudy").unwrap();
        let address = address.to_string();
        for created in [-1, 0, 1] {
            fixture.step([changed(|pod| {
                *pod = ringfence_model::Pod {
                    key: PodKey { namespace: "b".into(), name: "twin".into() },
                    uid: "twin".into(),
                    node: Some("node-9".into()),
                    addresses: vec![address.parse().unwrap()],
                    created,
                    ..pod.clone()
                };
            })]);
            assert_eq!(owner(&mut fixture, &address).unwrap(), "cloudy", "{created}");
        }
        let status = fixture.status();
        assert!(status.warnings.iter().any(|warning| warning.contains("not believed of b/twin")), "{status:?}");
        assert!(status.diagnostics.iter().any(|remark| remark.object == "Pod b/twin"), "{status:?}");
        let twin = ObjectKey::Pod(PodKey { namespace: "b".into(), name: "twin".into() });
        fixture.step([event(Event::Delete(twin))]);
        assert_eq!(fixture.status().diagnostics, []);
    }
}

#[test]
fn ranges_that_the_network_plugin_does_not_use_say_nothing() {
    let mut fixture = Fixture::new();
    fixture.step(Fixture::listing());
    let reset =
        event(Event::Reset { kind: ringfence_k8s::convert::Kind::Pod, objects: Vec::new(), diagnostics: Vec::new() });
    fixture.step([reset, event(Event::InSync), apply(pod("a", "cloudy", ""))]);
    assert!(add(&mut fixture, "cloudy", "10.9.0.8", "c1"));
    let gates: Vec<_> = fixture.kernel().closed_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(gates, ["10.9.0.8/32"], "what is in the node's range may be another node's");
    // One inside is enough: they are in use.
    fixture.step([apply(pod("a", "usual", ""))]);
    assert!(add(&mut fixture, "usual", "10.244.0.9", "c2"));
    let gates: Vec<_> = fixture.kernel().closed_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(gates, ["10.9.0.8/32", "10.244.0.0/24"]);
}
