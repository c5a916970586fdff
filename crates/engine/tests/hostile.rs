//! A namespace with demands beyond the limits is denied, and all others are not affected.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ringfence_engine::{Limits, Plan, Planner, Resource, RulesetId, Scope};
use ringfence_model::{
    Action, Connection, IpBlock, Namespace, NamespaceSelection, Node, Object, Origin, Peer, Peers, Pod, PodKey,
    PodPhase, PodSelection, Policy, PolicyId, PolicyKind, PortMatch, PortRange, Ports, Protocol, Reason, Requirement,
    Rule, Selector, Tier,
};

/// Below the demands of the policies of `blue` below.
const LIMITS: Limits =
    Limits { port_ranges: 4000, policy: 2000, ipcache_cidrs: 500, ipcache: 500, rule_counters: 500, ..Limits::NONE };

struct Cluster {
    planner: Planner,
    plan: Plan,
}

impl Cluster {
    /// Pods `red/victim`, `red/friend`, `blue/big` on this node; only `friend` may talk to `victim`.
    fn new() -> Self {
        let planner = Planner::with_limits(Scope::Node("n".into()), LIMITS);
        let mut cluster = Self { planner, plan: Plan::default() };
        for name in ["red", "blue", "green"] {
            let labels = [("name", name)].into_iter().collect();
            cluster.planner.apply(Object::Namespace(Namespace { name: name.into(), labels, terminating: false }));
        }
        cluster.pod("red/victim", 1, "app=victim");
        cluster.pod("red/friend", 2, "friend=true");
        cluster.pod("blue/big", 3, "app=big");
        cluster.policy("red/guard", "app=victim", vec![rule(Peers::List(vec![pods("friend=true")]), Ports::Any)]);
        cluster.commit();
        assert!(cluster.may("red/friend", "red/victim") && !cluster.may("blue/big", "red/victim"));
        cluster
    }

    fn pod(&mut self, key: &str, number: u8, label: &str) {
        self.pod_at(key, "n", [10, 0, 0, number].into(), label);
    }

    fn pod_at(&mut self, key: &str, node: &str, address: IpAddr, label: &str) {
        let (namespace, name) = key.split_once('/').expect("a namespace and a name");
        self.planner.apply(Object::Pod(Pod {
            key: PodKey { namespace: namespace.into(), name: name.into() },
            uid: key.into(),
            labels: label.split_once('=').into_iter().collect(),
            node: Some(node.into()),
            addresses: vec![address],
            host_network: false,
            phase: PodPhase::Running,
            terminating: false,
            created: 0,
            ports: Vec::new(),
        }));
    }

    fn policy(&mut self, key: &str, label: &str, ingress: Vec<Rule>) {
        self.planner.apply(Object::Policy(policy(key, label, ingress)));
    }

    fn commit(&mut self) {
        self.planner.commit().iter().for_each(|delta| self.plan.apply(delta));
        assert_eq!(self.plan, self.planner.plan());
    }

    fn ask(&self, from: &str, to: &str) -> ringfence_model::Verdict {
        let address = |pod: &str| {
            let found = self.plan.endpoints.iter().find(|(_, endpoint)| endpoint.pod.to_string() == pod);
            found.map_or_else(|| pod.parse().expect("an endpoint, or an address"), |(address, _)| *address)
        };
        let connection = Connection {
            source: address(from),
            destination: address(to),
            protocol: Protocol::TCP,
            port: 80,
            origin: Origin::Elsewhere,
            translated: false,
            established: false,
        };
        self.plan.evaluate(&connection).deciding().clone()
    }

    fn may(&self, from: &str, to: &str) -> bool {
        self.ask(from, to).allow
    }

    /// Changes of others take effect, and their earlier policies are in force.
    fn others_go_on(&mut self) {
        assert!(self.may("red/friend", "red/victim"));
        self.pod("red/friend", 2, "app=none");
        self.commit();
        assert!(!self.may("red/friend", "red/victim"), "a label");
        self.pod("red/friend", 2, "friend=true");
        self.policy("red/new", "friend=true", Vec::new());
        self.commit();
        assert!(self.may("red/friend", "red/victim") && !self.may("red/victim", "red/friend"), "a policy");
        self.pod("green/fresh", 9, "app=fresh");
        self.policy("green/open", "app=fresh", vec![rule(Peers::Any, Ports::Any)]);
        self.commit();
        assert!(self.may("red/victim", "green/fresh") && !self.may("green/fresh", "red/victim"), "a pod");
    }

    /// Checks that `blue/big` is denied because a resource is exhausted.
    fn blue_is_refused(&self, room: Resource) {
        assert_eq!(self.ask("red/friend", "blue/big").reason, Reason::NoRoom);
        let [refusal] = &self.planner.refusals()[..] else { panic!("{:?}", self.planner.refusals()) };
        assert_eq!((refusal.pods[0].to_string().as_str(), refusal.resource), ("blue/big", room));
        assert!(refusal.policies.iter().all(|policy| policy.namespace.as_deref() == Some("blue")));
    }
}

fn policy(key: &str, label: &str, ingress: Vec<Rule>) -> Policy {
    let (namespace, name) = key.split_once('/').expect("a namespace and a name");
    Policy {
        id: PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some(namespace.into()), name: name.into() },
        uid: key.into(),
        generation: 1,
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelection { namespaces: NamespaceSelection::Named(namespace.into()), pods: selector(label) },
        ingress: Some(ingress),
        egress: None,
        rules_withheld: false,
    }
}

fn selector(label: &str) -> Selector {
    let (key, value) = label.split_once('=').expect("a key and a value");
    [Requirement::In { key: key.into(), values: [value.into()].into() }].into_iter().collect()
}

fn pods(label: &str) -> Peer {
    let namespaces = NamespaceSelection::Matching(Selector::everything());
    Peer::Pods(PodSelection { namespaces, pods: selector(label) })
}

fn rule(peers: Peers, ports: Ports) -> Rule {
    Rule { name: None, action: Action::Accept, peers, ports }
}

fn odd_ports(count: u16) -> Ports {
    let range = |n| PortMatch::Range(PortRange::single(Protocol::TCP, 2 * n + 1));
    Ports::List((0..count).map(range).collect())
}

fn block(a: u8, b: u8, length: u8) -> Peer {
    Peer::Block(IpBlock::new(format!("172.{a}.{b}.0/{length}").parse().expect("a block"), []))
}

#[test]
fn many_ports() {
    let mut cluster = Cluster::new();
    for number in 0..5 {
        let rule = rule(Peers::List(vec![block(number, 0, 16)]), odd_ports(500 + u16::from(number)));
        cluster.policy(&format!("blue/big{number}"), "app=big", vec![rule]);
        cluster.commit();
    }
    cluster.blue_is_refused(Resource::PortRanges);
    cluster.others_go_on();
    cluster.blue_is_refused(Resource::PortRanges);
    // Deleted policies free their share.
    for number in 0..3 {
        let id = PolicyId {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some("blue".into()),
            name: format!("big{number}").as_str().into(),
        };
        cluster.planner.delete(&ringfence_model::ObjectKey::Policy(id));
    }
    cluster.commit();
    assert_eq!(cluster.planner.refusals(), []);
    assert!(matches!(cluster.ask("red/friend", "blue/big").reason, Reason::Isolated { .. }));
    assert!(cluster.plan.policy.keys().all(|key| key.ruleset != RulesetId::NO_ROOM));
}

#[test]
fn many_blocks_and_addresses() {
    for (length, room) in [(24, Resource::IpcacheCidrs), (32, Resource::Ipcache)] {
        let mut cluster = Cluster::new();
        let blocks = (0..3).flat_map(|a| (0..200).map(move |b| block(a, b, length))).collect();
        cluster.policy("blue/blocks", "app=big", vec![rule(Peers::List(blocks), Ports::Any)]);
        cluster.commit();
        cluster.blue_is_refused(room);
        assert!(!cluster.plan.ipcache.keys().any(|net| net.to_string().starts_with("172.")), "nothing of it is kept");
        cluster.others_go_on();
    }
}

#[test]
fn many_rules() {
    let mut cluster = Cluster::new();
    let rules = (0..600).map(|_| rule(Peers::Any, odd_ports(1))).collect();
    cluster.policy("blue/rules", "app=big", rules);
    cluster.commit();
    cluster.blue_is_refused(Resource::RuleCounters);
    cluster.others_go_on();
}

#[test]
fn many_peers() {
    let mut cluster = Cluster::new();
    // Each pod is in a peer set of its own, and each ruleset of `blue` has an entry for all of them.
    for number in 0..60_u8 {
        cluster.pod(&format!("blue/pod{number}"), 100 + number, &format!("n={number}"));
        let peers = (0..60).map(|peer| pods(&format!("n={peer}"))).collect();
        cluster.policy(&format!("blue/p{number}"), &format!("n={number}"), vec![rule(Peers::List(peers), Ports::Any)]);
    }
    cluster.commit();
    let refusals = cluster.planner.refusals();
    assert!(!refusals.is_empty() && refusals.iter().all(|refusal| refusal.resource == Resource::Policy));
    assert!(refusals.len() < 60, "what fits into the share is admitted");
    cluster.others_go_on();
}

/// Rules and ports that are not laid out cost no more than their own storage.
#[test]
fn what_is_refused_before_it_is_laid_out_takes_no_time() {
    let mut cluster = Cluster::new();
    for number in 0..40 {
        let rule = rule(Peers::List(vec![block(number, 0, 16)]), odd_ports(32_000));
        cluster.policy(&format!("blue/big{number}"), "app=big", vec![rule]);
    }
    let started = Instant::now();
    cluster.commit();
    cluster.blue_is_refused(Resource::PortRanges);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    cluster.others_go_on();
}

/// The rules of a policy are withheld because of memory, although there is room in all maps.
#[test]
fn a_policy_without_its_rules_denies_whom_it_selects() {
    let mut cluster = Cluster::new();
    cluster.planner.set_limits(Limits::NONE);
    cluster.policy("blue/open", "app=big", vec![rule(Peers::Any, Ports::Any)]);
    cluster.commit();
    assert!(cluster.may("red/friend", "blue/big"));
    cluster
        .planner
        .apply(Object::Policy(policy("blue/more", "app=big", vec![rule(Peers::Any, Ports::Any)]).without_rules()));
    cluster.commit();
    cluster.blue_is_refused(Resource::Memory);
    assert!(cluster.may("blue/big", "10.9.9.9"), "it does not govern egress");
    cluster.others_go_on();
    cluster.blue_is_refused(Resource::Memory);
    cluster.policy("blue/more", "app=big", vec![rule(Peers::Any, Ports::Any)]);
    cluster.commit();
    assert!(cluster.planner.refusals().is_empty() && cluster.may("red/friend", "blue/big"));
}

/// A namespace with more pods than fit. They are on two nodes, of which one has a pod CIDR.
#[test]
fn many_pods() {
    let mut cluster = Cluster::new();
    let range = "10.1.0.0/20".parse().expect("a range");
    cluster.planner.apply(Object::Node(Node {
        name: "far".into(),
        labels: [("name", "far")].into_iter().collect(),
        addresses: Vec::new(),
        pod_cidrs: vec![range],
    }));
    let far = |number: u16| -> IpAddr { [10, 1, number.to_be_bytes()[0], number.to_be_bytes()[1]].into() };
    let stray = |number: u16| -> IpAddr { [10, 2, number.to_be_bytes()[0], number.to_be_bytes()[1]].into() };
    cluster.pod("red/open", 20, "app=open");
    cluster.pod("red/lenient", 21, "app=lenient");
    // Pods labelled `bad` are denied and all others are allowed, so a pod that the Deny rule misses would be allowed.
    cluster.policy("red/all", "app=lenient", vec![rule(Peers::Any, Ports::Any)]);
    let bad = Rule { action: Action::Deny, ..rule(Peers::List(vec![pods("bad=true")]), Ports::Any) };
    cluster.planner.apply(Object::Policy(Policy {
        id: PolicyId { kind: PolicyKind::AdminNetworkPolicy, namespace: None, name: "no-bad".into() },
        uid: "no-bad".into(),
        generation: 1,
        tier: Tier::Admin,
        priority: 1,
        subject: PodSelection { namespaces: NamespaceSelection::Named("red".into()), pods: selector("app=lenient") },
        ingress: Some(vec![bad.clone()]),
        egress: Some(vec![bad]),
        rules_withheld: false,
    }));
    cluster.pod_at("green/quiet", "far", far(1), "app=quiet");
    cluster.pod_at("green/stray", "else", stray(1), "app=quiet");
    cluster.commit();
    let before = cluster.plan.clone();
    for number in 0..400 {
        cluster.pod_at(&format!("blue/far{number}"), "far", far(10 + number), "bad=true");
        cluster.pod_at(&format!("blue/stray{number}"), "else", stray(10 + number), "bad=true");
    }
    cluster.commit();
    let out: Vec<_> = cluster.planner.overflowed_addresses().collect();
    assert!((300..400).contains(&out.len()), "{} have no room", out.len());
    assert!(out.iter().all(|(_, who)| &*who.pod.namespace == "blue"), "who asks for the most goes without");
    let mut without_room = 0;
    for address in (10..410).flat_map(|number| [far(number), stray(number)]) {
        let address = address.to_string();
        for (from, to) in [(&*address, "red/lenient"), ("red/lenient", &*address)] {
            let verdict = cluster.ask(from, to);
            assert!(!verdict.allow, "{from} to {to}: {verdict:?}");
            without_room += usize::from(verdict.reason == Reason::NoRoom);
        }
        assert!(
            cluster.may(&address, "red/open") && cluster.may("red/open", &address),
            "who has no policy asks nobody"
        );
    }
    assert_eq!(without_room, 2 * out.len());
    // Pods of others in the same range, next to them, on the same node, and outside.
    let strangers = ["10.1.0.1", "10.2.0.1", "192.0.2.1", "10.2.4.1", "10.0.0.2"];
    for stranger in strangers {
        assert!(cluster.may(stranger, "red/lenient") && cluster.may("red/lenient", stranger), "{stranger}");
    }
    cluster.others_go_on();
    assert!(cluster.plan.ipcache.len() <= LIMITS.ipcache + LIMITS.ipcache_cidrs);
    // After they are deleted, everything is as before.
    for number in 0..400 {
        for name in [format!("far{number}"), format!("stray{number}")] {
            let key = PodKey { namespace: "blue".into(), name: name.as_str().into() };
            cluster.planner.delete(&ringfence_model::ObjectKey::Pod(key));
        }
    }
    cluster
        .planner
        .delete(&ringfence_model::ObjectKey::Pod(PodKey { namespace: "green".into(), name: "fresh".into() }));
    cluster.commit();
    assert_eq!(cluster.planner.overflowed_addresses().count(), 0);
    assert!(cluster.plan.ipcache.keys().all(|net| before.ipcache.contains_key(net)), "{:?}", cluster.plan.ipcache);
}
