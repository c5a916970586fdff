//! Many domain names with many addresses. Names that no rule matches are not planned, and deltas are as small as the
//! change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ringfence_engine::generate::Segmented;
use ringfence_engine::{Delta, Planner, Scope, reference};
use ringfence_model::{
    Action, Connection, Domain, DomainName, DomainPattern, NamespaceSelection, Object, ObjectKey, Origin, Peer, Peers,
    PodSelection, Policy, PolicyId, PolicyKind, Ports, Protocol, Rule, Selector, Tier, World,
};

const NAMES: u32 = 3000;
const ADDRESSES: u32 = 100;

fn address(name: u32, number: u32) -> IpAddr {
    Ipv4Addr::from(0x1400_0000 + name * 256 + number).into()
}

/// Every tenth name is below `wanted.example`.
fn domain(number: u32) -> Domain {
    let parent = if number.is_multiple_of(10) { "wanted.example" } else { "other.example" };
    let addresses = (0..ADDRESSES).map(|host| address(number, host)).collect();
    Domain {
        name: DomainName::new(&format!("n{number}.{parent}")),
        addresses,
        lingering: Vec::new(),
        inside: BTreeSet::new(),
    }
}

/// All pods may connect to `*.wanted.example`, and to no other address outside of the cluster.
fn policy() -> Policy {
    let rule = |action, peers| Rule { name: None, action, peers, ports: Ports::Any };
    let wanted = Peers::List(vec![Peer::Domain(DomainPattern::new("*.wanted.example"))]);
    Policy {
        id: PolicyId { kind: PolicyKind::ClusterNetworkPolicy, namespace: None, name: "names".into() },
        uid: "names".into(),
        generation: 1,
        tier: Tier::Admin,
        priority: 1,
        subject: PodSelection {
            namespaces: NamespaceSelection::Matching(Selector::everything()),
            pods: Selector::everything(),
        },
        ingress: None,
        egress: Some(vec![rule(Action::Accept, wanted), rule(Action::Deny, Peers::Any)]),
        rules_withheld: false,
    }
}

/// Returns the verdict about an address of a name, which has to be equal in plan and reference.
fn evaluate_direction(world: &World, planner: &Planner, (number, host): (u32, u32), established: bool, expected: bool) {
    let connection = Connection {
        source: world.pods.values().next().expect("a pod").addresses[0],
        destination: address(number, host),
        protocol: Protocol::TCP,
        port: 443,
        origin: Origin::Elsewhere,
        translated: false,
        established,
    };
    let decision = planner.plan().evaluate(&connection);
    assert_eq!(decision, reference::evaluate(world, &connection));
    assert_eq!(decision.allow(), expected, "{number}, {host}");
}

/// Adds, changes or removes a name.
fn change(event: Result<Domain, u32>, world: &mut World, planner: &mut Planner) -> Vec<Delta> {
    match event {
        Ok(domain) => {
            world.apply(Object::Domain(domain.clone()));
            planner.apply(Object::Domain(domain));
        }
        Err(gone) => {
            let key = ObjectKey::Domain(domain(gone).name);
            world.delete(&key);
            planner.delete(&key);
        }
    }
    planner.commit()
}

/// Pods under the policy, and some names.
fn cluster(names: u32) -> (World, Planner) {
    let cluster = Segmented { namespaces: 2, workloads: 2, pods: 8, local: 8, ..Segmented::default() };
    let pods = cluster.objects().filter(|object| !matches!(object, Object::Policy(_)));
    let names = (0..names).map(|number| Object::Domain(domain(number)));
    let world: World = pods.chain(names).chain([Object::Policy(policy())]).collect();
    let mut planner = Planner::new(Scope::Cluster);
    planner.reset(world.objects());
    planner.commit();
    (world, planner)
}

#[test]
fn a_change_of_a_name_is_as_big_as_what_changed() {
    let (mut world, mut planner) = cluster(NAMES);
    assert_eq!(planner.plan().ipcache.len(), (NAMES / 10 * ADDRESSES) as usize, "only what is asked for");

    let agree = |world: &World, planner: &Planner, number: u32, host: u32, expected: bool| {
        evaluate_direction(world, planner, (number, host), false, expected);
    };
    agree(&world, &planner, 20, 99, true);
    agree(&world, &planner, 21, 99, false);

    assert_eq!(change(Err(21), &mut world, &mut planner), [], "nobody asks for it");
    let mut moved = domain(20);
    moved.addresses[99] = address(20, 200);
    let deltas = change(Ok(moved), &mut world, &mut planner);
    let [Delta { put_ipcache, delete_ipcache, .. }] = &deltas[..] else { panic!("{deltas:?}") };
    assert_eq!(put_ipcache.iter().map(|(net, _)| net.addr()).collect::<Vec<_>>(), [address(20, 200)]);
    assert_eq!(delete_ipcache.iter().map(ipnet::IpNet::addr).collect::<Vec<_>>(), [address(20, 99)]);
    let deltas = change(Err(30), &mut world, &mut planner);
    assert_eq!(deltas.iter().map(|delta| delta.delete_ipcache.len()).sum::<usize>(), ADDRESSES as usize);
    agree(&world, &planner, 20, 200, true);
    agree(&world, &planner, 20, 99, false);
    agree(&world, &planner, 30, 0, false);
}

#[test]
fn an_address_lingers_for_connections_that_were_open_before() {
    let (mut world, mut planner) = cluster(41);
    let mut older = domain(40);
    older.lingering = older.addresses.split_off(1);
    let deltas = change(Ok(older.clone()), &mut world, &mut planner);
    let [Delta { put_ipcache, delete_ipcache, .. }] = &deltas[..] else { panic!("{deltas:?}") };
    assert_eq!((put_ipcache.len(), delete_ipcache.len()), (older.lingering.len(), 0));
    older.addresses.append(&mut older.lingering.split_off(50));
    let deltas = change(Ok(older.clone()), &mut world, &mut planner);
    assert_eq!(deltas.iter().map(|delta| delta.put_ipcache.len()).sum::<usize>(), ADDRESSES as usize - 51);
    older.lingering.truncate(25);
    let deltas = change(Ok(older), &mut world, &mut planner);
    assert_eq!(deltas.iter().map(|delta| delta.delete_ipcache.len()).sum::<usize>(), 25);
    for (host, opened, open) in [(0, true, true), (1, false, true), (26, false, false), (51, true, true)] {
        evaluate_direction(&world, &planner, (40, host), false, opened);
        evaluate_direction(&world, &planner, (40, host), true, open);
    }
}
