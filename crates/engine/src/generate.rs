//! Random clusters, connections and events, for tests: small, dense, and with every corner the model has.
//!
//! Names, labels, ports and addresses come from small pools, so that selectors match, CIDRs cover addresses and
//! addresses collide. Everything follows from a seed.

mod domains;
mod policies;
mod segmented;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ringfence_model::{
    Connection, ContainerPort, Labels, Name, Namespace, Node, Object, ObjectKey, Origin, Pod, PodKey, PodPhase,
    Protocol, World,
};

pub use segmented::Segmented;

/// Runs work on this thread with ids of so few bytes that contents collide. Planners made outside must not be used
/// inside.
pub fn with_short_ids<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    crate::planner::short_ids(bytes, work)
}

/// A seeded source of choices (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed makes the same choices.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() >> 33).unwrap_or_default() % bound
    }

    /// True with a probability in percent.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// Returns an element of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Puts a list into a random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// Size and variety of clusters.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest number of namespaces.
    pub namespaces: usize,
    /// Largest number of pods.
    pub pods: usize,
    /// Largest number of policies.
    pub policies: usize,
    /// Number of nodes, named `node0` and so on.
    pub nodes: usize,
    /// True for cluster-wide policies and domain names too.
    pub tiers: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { namespaces: 3, pods: 16, policies: 12, nodes: 3, tiers: true }
    }
}

/// A change of the world.
#[derive(Clone, Debug)]
pub enum Event {
    /// An object is added or replaced.
    Apply(Object),
    /// An object is removed.
    Delete(ObjectKey),
}

impl Event {
    /// Applies the event to a world.
    pub fn happen(&self, world: &mut World) {
        match self {
            Self::Apply(object) => world.apply(object.clone()),
            Self::Delete(key) => world.delete(key),
        }
    }
}

impl Settings {
    /// A random cluster.
    pub fn world(&self, rng: &mut Rng) -> World {
        let mut world = World::default();
        for number in 0..self.nodes {
            world.apply(Object::Node(node(rng, number)));
        }
        for _ in 0..rng.below(6) {
            if self.tiers {
                world.apply(Object::Domain(domains::domain(rng)));
            }
        }
        for number in 0..self.namespaces {
            // The last is a name that pods and policies use, but whose object is often unknown.
            if number + 1 < self.namespaces || rng.percent(50) {
                world.apply(Object::Namespace(namespace(rng, number)));
            }
        }
        for _ in 0..=self.pods / 2 + rng.below(self.pods) {
            world.apply(Object::Pod(self.pod(rng)));
        }
        for _ in 0..=self.policies / 2 + rng.below(self.policies) {
            world.apply(Object::Policy(self.policy(rng)));
        }
        let names: Vec<_> = world.domains.keys().cloned().collect();
        if !names.is_empty() && rng.percent(50) {
            // Random names rarely match a rule.
            let mut policy = self.policy(rng);
            let egress = policy.egress.take().unwrap_or_default();
            policy.egress = Some([domains::rule(rng.pick(&names))].into_iter().chain(egress).collect());
            world.apply(Object::Policy(policy));
        }
        world
    }

    /// A random change of a cluster.
    pub fn event(&self, rng: &mut Rng, world: &World) -> Event {
        let mut keys: Vec<ObjectKey> = world.objects().map(|object| object.key()).collect();
        keys.retain(|key| !matches!(key, ObjectKey::Node(_)) || rng.percent(20));
        match rng.below(12) {
            0..=3 => Event::Apply(Object::Pod(self.pod(rng))),
            4..=6 => Event::Apply(Object::Policy(self.policy(rng))),
            7 => {
                let number = rng.below(self.namespaces);
                Event::Apply(Object::Namespace(namespace(rng, number)))
            }
            8 if rng.percent(50) => {
                let number = rng.below(self.nodes);
                Event::Apply(Object::Node(node(rng, number)))
            }
            9 | 10 if self.tiers => Event::Apply(Object::Domain(domains::domain(rng))),
            _ if keys.is_empty() => Event::Apply(Object::Pod(self.pod(rng))),
            _ => Event::Delete(rng.pick(&keys).clone()),
        }
    }

    /// A random pod.
    pub fn pod(&self, rng: &mut Rng) -> Pod {
        let node = rng.below(self.nodes);
        // Some have an address of another node's range, or of none.
        let net = u8::try_from(if rng.percent(88) { node } else { rng.below(self.nodes + 1) }).unwrap_or_default();
        let v4 = IpAddr::from([10, 0, net, small(rng, 16)]);
        let v6 = IpAddr::from([0xfd00, 0, 0, net.into(), 0, 0, 0, 1 + u16::from(small(rng, 16))]);
        let mut addresses = match rng.below(8) {
            0 => vec![],
            1 => vec![v6],
            2 => vec![v4, v6],
            3 => vec![v4, v6, IpAddr::from([10, 0, net, small(rng, 16)])],
            4 => vec![v6, v4],
            _ => vec![v4],
        };
        let host_network = rng.percent(8);
        if host_network {
            addresses = node_addresses(node);
        }
        Pod {
            key: PodKey {
                namespace: name("n", rng.below(self.namespaces)),
                name: name("pod", rng.below(self.pods * 2)),
            },
            uid: format!("uid-{:016x}", rng.bits()).into(),
            labels: labels(rng),
            node: rng.percent(95).then(|| name("node", node)),
            addresses,
            host_network,
            phase: *rng.pick(&[
                PodPhase::Running,
                PodPhase::Running,
                PodPhase::Running,
                PodPhase::Running,
                PodPhase::Pending,
                PodPhase::Unknown,
                PodPhase::Succeeded,
                PodPhase::Failed,
            ]),
            terminating: rng.percent(10),
            created: *rng.pick(&[0, 1, 2, 3, 1_700_000_000, i64::MAX, -1]),
            ports: (0..rng.below(4)).map(|_| container_port(rng)).collect(),
        }
    }

    /// A random connection, with pods of the world at most of the ends, and addresses of nodes and domain names.
    pub fn connection(&self, rng: &mut Rng, world: &World) -> Connection {
        let v6 = rng.percent(30);
        let source = Self::address(rng, world, v6);
        let destination = match rng.below(20) {
            0 => source,
            1..=4 => Self::host_address(rng, world, v6),
            _ => Self::address(rng, world, v6),
        };
        let (protocol, port) = Self::asked(rng, world.owners(destination, None).first().copied());
        Connection {
            source,
            destination,
            protocol,
            port,
            origin: if rng.percent(15) { Origin::Node(name("node", rng.below(self.nodes))) } else { Origin::Elsewhere },
            translated: rng.percent(20),
            established: rng.percent(40),
        }
    }

    /// Returns a connection of one of these pods whose verdict depends on whether it was open before, if one is found.
    /// An address has to be lingering and a rule about its name has to decide, which random connections hardly ever
    /// meet.
    pub fn lingering(&self, rng: &mut Rng, world: &World, sources: &[IpAddr]) -> Option<Connection> {
        let lingering = domains::lingering(world);
        let mut tried = (0..200).filter(|_| !lingering.is_empty() && !sources.is_empty()).map(|_| {
            let (source, destination) = (*rng.pick(sources), *rng.pick(&lingering));
            Connection { source, destination, ..self.connection(rng, world) }
        });
        tried.find(|connection| {
            connection.source.is_ipv6() == connection.destination.is_ipv6() && domains::matters(world, connection)
        })
    }

    /// Returns a protocol and a destination port, sometimes one that the destination declares.
    fn asked(rng: &mut Rng, destination: Option<&Pod>) -> (Protocol, u16) {
        let declared = destination.map_or(&[][..], |pod| &pod.ports);
        if !declared.is_empty() && rng.percent(40) {
            let declared = rng.pick(declared);
            return (declared.protocol, declared.port);
        }
        let protocol = match rng.below(12) {
            0..=5 => Protocol::TCP,
            6 | 7 => Protocol::UDP,
            8 => Protocol::SCTP,
            9 => Protocol::ICMP,
            10 => Protocol::ICMPV6,
            _ => Protocol(47),
        };
        let port = match protocol {
            Protocol::ICMP => 8,
            Protocol::ICMPV6 => *rng.pick(&[128, 132, 133, 135, 137, 138]),
            // Nothing listens there, but packets may name it.
            _ if protocol.has_ports() && rng.percent(3) => 0,
            _ if protocol.has_ports() => port(rng),
            _ => 0,
        };
        (protocol, port)
    }

    fn address(rng: &mut Rng, world: &World, v6: bool) -> IpAddr {
        let strangers = rng.percent(15);
        let all = world.pods.values().filter(|pod| strangers || pod.is_endpoint());
        let all = all.flat_map(|pod| pod.addresses.iter().copied());
        let pods: Vec<_> = all.filter(|address| address.is_ipv6() == v6).collect();
        let address = match rng.below(10) {
            0..=6 if !pods.is_empty() => *rng.pick(&pods),
            7 => Self::host_address(rng, world, v6),
            8 => {
                let net = policies::net(rng, v6);
                if rng.percent(50) { net.network() } else { net.broadcast() }
            }
            _ if v6 => IpAddr::from([0xfd00, 0, 0, small(rng, 4).into(), 0, 0, 0, small(rng, 16).into()]),
            _ => IpAddr::from([10, small(rng, 2), small(rng, 4), small(rng, 16)]),
        };
        match address {
            IpAddr::V4(v4) if rng.percent(5) => IpAddr::V6(v4.to_ipv6_mapped()),
            _ => address,
        }
    }
}

impl Settings {
    /// An address that some node or domain name of the world has, or might have.
    fn host_address(rng: &mut Rng, world: &World, v6: bool) -> IpAddr {
        let nodes = world.nodes.values().flat_map(|node| &node.addresses);
        let hosts = nodes.chain(world.domains.values().flat_map(|domain| &domain.addresses));
        let hosts: Vec<_> = hosts.copied().filter(|address| address.is_ipv6() == v6).collect();
        if hosts.is_empty() || rng.percent(20) { domains::address(rng, v6) } else { *rng.pick(&hosts) }
    }
}

fn small(rng: &mut Rng, bound: usize) -> u8 {
    u8::try_from(rng.below(bound)).unwrap_or_default()
}

fn name(prefix: &str, number: usize) -> Name {
    format!("{prefix}{number}").into()
}

fn node_addresses(number: usize) -> Vec<IpAddr> {
    let number = u8::try_from(number).unwrap_or_default();
    vec![Ipv4Addr::new(192, 168, 0, number).into(), Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number.into()).into()]
}

fn node(rng: &mut Rng, number: usize) -> Node {
    let other = number + usize::from(rng.percent(10));
    let nets = [format!("10.0.{other}.0/24"), format!("fd00:0:0:{other}::/64")];
    // Not every node has a range of both families, and a few have one that is another's too.
    let (first, count) = (rng.below(2), *rng.pick(&[0, 1, 2, 2, 2, 2]));
    let mut addresses = node_addresses(number);
    // Some have one address, others one more, which may be that of another node, of a pod or of a domain name.
    addresses.truncate(rng.below(8));
    if rng.percent(30) {
        let v6 = rng.percent(30);
        addresses.push(domains::address(rng, v6));
    }
    Node {
        name: name("node", number),
        labels: labels(rng),
        addresses,
        pod_cidrs: nets.iter().cycle().skip(first).take(count).filter_map(|net| net.parse::<IpNet>().ok()).collect(),
    }
}

fn namespace(rng: &mut Rng, number: usize) -> Namespace {
    let mut labels = labels(rng);
    let name = name("n", number);
    labels.insert("kubernetes.io/metadata.name", Name::clone(&name));
    Namespace { name, labels, terminating: false }
}

fn labels(rng: &mut Rng) -> Labels {
    (0..rng.below(3)).map(|_| (label_key(rng), name("v", rng.below(2)))).collect()
}

/// Few keys, so that selectors select; some differ in a prefix, or in case alone.
fn label_key(rng: &mut Rng) -> Name {
    (*rng.pick(&["k0", "k1", "k2", "k0", "k1", "k2", "example.com/k0", "example.org/k0", "K0"])).into()
}

fn port(rng: &mut Rng) -> u16 {
    *rng.pick(&[1, 79, 80, 80, 81, 82, 443, 8080, 65535])
}

fn protocol(rng: &mut Rng) -> Protocol {
    *rng.pick(&[Protocol::TCP, Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::SCTP])
}

fn container_port(rng: &mut Rng) -> ContainerPort {
    ContainerPort { name: name("p", rng.below(3)), protocol: protocol(rng), port: port(rng) }
}
