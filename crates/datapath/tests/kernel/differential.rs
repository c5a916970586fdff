//! Generated clusters and packets: the kernel says what the reference says.

use std::net::IpAddr;

use ringfence_datapath::{Circumstances, Conntrack, Datapath, Drop, Ground, Tried};
use ringfence_engine::generate::{Rng, Settings};
use ringfence_engine::{Plan, Planner, Scope, reference};
use ringfence_model::{Connection, Direction, Name, Origin, Peer, Peers, Protocol, Reason, Tier, Verdict, World};

use crate::kit::packet::Packet;
use crate::kit::space::Bench;

/// `RINGFENCE_CASES` packets are tried, by default these.
const PACKETS: usize = 12_000;
const PACKETS_PER_PLAN: usize = 25;
const NODE: &str = "node0";

#[test]
fn the_kernel_decides_as_the_reference() {
    if !crate::kit::can_run() {
        return;
    }
    let packets = std::env::var("RINGFENCE_CASES").map_or(PACKETS, |cases| cases.parse().unwrap());
    let bench = Bench::new();
    let mut datapath = bench.open();
    let trial = datapath.trial().unwrap();
    let mut tally = Tally::default();
    let mut seed = 0;
    while tally.packets < packets {
        let mut rng = Rng::new(seed);
        // Now and then as clusters without cluster-wide policies are.
        let settings = Settings { tiers: seed % 4 != 0, ..Settings::default() };
        let mut world = settings.world(&mut rng);
        let mut planner = Planner::new(Scope::Node(NODE.into()));
        world.objects().for_each(|object| planner.apply(object));
        planner.commit();
        datapath.sync(&planner.plan()).unwrap();
        for round in 0..4 {
            if round > 0 {
                change(&mut datapath, &settings, &mut rng, &mut world, &mut planner);
            }
            let plan = planner.plan();
            let pods: Vec<_> = plan.endpoints.keys().copied().collect();
            for packet in 0..PACKETS_PER_PLAN {
                let lingering = (packet == 0).then(|| settings.lingering(&mut rng, &world, &pods)).flatten();
                let case = Case::new(&settings, &mut rng, &world, lingering);
                let said = trial.run(&case.bytes(), &case.circumstances(), 1).unwrap();
                case.check(seed, &world, &plan, &said, &mut tally);
            }
        }
        seed += 1;
    }
    datapath.detach().unwrap();
    tally.assert_varied();
}

/// Something happens to the cluster, and its change reaches the kernel.
fn change(datapath: &mut Datapath, settings: &Settings, rng: &mut Rng, world: &mut World, planner: &mut Planner) {
    for _ in 0..3 {
        let event = settings.event(rng, world);
        event.happen(world);
        match event {
            ringfence_engine::generate::Event::Apply(object) => planner.apply(object),
            ringfence_engine::generate::Event::Delete(key) => planner.delete(&key),
        }
    }
    for delta in planner.commit() {
        datapath.apply(&delta).unwrap();
    }
}

/// How a packet is made unreadable, or harder to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Plain,
    Options,
    Truncated,
    LaterFragment,
    FirstFragment,
    SourceRoute,
    TooManyHeaders,
}

struct Case {
    connection: Connection,
    packet: Packet,
    shape: Shape,
    conntrack: Conntrack,
}

impl Case {
    fn new(settings: &Settings, rng: &mut Rng, world: &World, mut given: Option<Connection>) -> Self {
        let connection = loop {
            let mut connection = given.take().unwrap_or_else(|| settings.connection(rng, world));
            // The program looks at translation only where it matters.
            connection.translated &= connection.source.to_canonical() == connection.destination.to_canonical();
            if family(&connection.source) == family(&connection.destination) {
                break connection;
            }
        };
        let (source, destination) = match (connection.source, connection.destination) {
            (IpAddr::V6(_), IpAddr::V6(_)) => (connection.source, connection.destination),
            (source, destination) => (source.to_canonical(), destination.to_canonical()),
        };
        let mut packet =
            Packet { source, destination, ..Packet::new("::", "::", connection.protocol, connection.port) };
        let shape = match rng.below(20) {
            0 | 1 => Shape::Options,
            2 => Shape::Truncated,
            3 => Shape::LaterFragment,
            4 => Shape::FirstFragment,
            5 => Shape::SourceRoute,
            6 => Shape::TooManyHeaders,
            _ => Shape::Plain,
        };
        reshape(&mut packet, shape, rng);
        let conntrack = *rng.pick(if connection.established {
            &[Conntrack::Unanswered, Conntrack::Established]
        } else {
            &[Conntrack::None, Conntrack::New]
        });
        Self { connection, packet, shape, conntrack }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.packet.bytes();
        if self.shape == Shape::SourceRoute && self.packet.source.is_ipv6() {
            // One segment left.
            bytes[40 + 3] = 1;
        }
        bytes
    }

    fn is_from_this_node(&self) -> bool {
        matches!(&self.connection.origin, Origin::Node(node) if **node == *NODE)
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances {
            interface: (!self.is_from_this_node()).then_some(1000),
            out_interface: Some(1001),
            conntrack: self.conntrack,
            about: None,
            called: None,
            guessed: false,
            translated: self.connection.translated,
            local_in: false,
            flows: false,
            tell: false,
        }
    }

    fn is_unparseable(&self) -> bool {
        let protocol = self.connection.protocol;
        let read = protocol.has_ports() || protocol == Protocol::ICMP || protocol == Protocol::ICMPV6;
        match self.shape {
            Shape::Plain | Shape::Options | Shape::FirstFragment => false,
            Shape::Truncated => read,
            Shape::LaterFragment | Shape::SourceRoute => true,
            // IPv4 has no such headers.
            Shape::TooManyHeaders => self.packet.source.is_ipv6(),
        }
    }

    /// What should be: the reference for ends that are pods of this node, after what is no matter of policy.
    fn expected(&self, world: &World, plan: &Plan) -> Result<(), Expected> {
        let connection = &self.connection;
        let (source, destination) = (connection.source.to_canonical(), connection.destination.to_canonical());
        let local = |address: &IpAddr| plan.endpoints.contains_key(address);
        let gated = |address: &IpAddr| plan.gates.iter().any(|gate| gate.contains(address)) && !local(address);
        let node = self.is_from_this_node();
        if connection.is_neighbour_discovery() && !self.is_unparseable() {
            return Ok(());
        }
        if !node && (gated(&source) || gated(&destination)) {
            return Err(Expected::NotReady);
        }
        if self.is_unparseable() {
            let concerned = local(&source) || (local(&destination) && !node);
            return if concerned { Err(Expected::Unparseable) } else { Ok(()) };
        }
        let ends = [(Direction::Egress, &source), (Direction::Ingress, &destination)];
        for (direction, address) in ends {
            let verdict = judge(world, connection, direction);
            let owned = verdict.reason != Reason::NotAPod;
            assert_eq!(owned, local(address), "the plan has just the pods of the node");
            if owned && !verdict.allow {
                return Err(Expected::Policy(direction, verdict));
            }
        }
        Ok(())
    }

    fn check(&self, seed: u64, world: &World, plan: &Plan, said: &Tried, tally: &mut Tally) {
        let expected = self.expected(world, plan);
        let agree = match (&expected, said.dropped) {
            (Ok(()), None)
            | (Err(Expected::NotReady), Some(Drop::EndpointNotReady))
            | (Err(Expected::Unparseable), Some(Drop::Unparseable)) => true,
            // Whose address it is cannot be known: there is nothing to look up.
            (Err(Expected::Policy(_, verdict)), Some(Drop::Incomplete)) => verdict.reason == Reason::Undecided,
            (Err(Expected::Policy(direction, verdict)), Some(Drop::Policy { cause, .. })) => {
                said.direction == Some(*direction) && plan.causes.get(&cause) == Some(&verdict.reason)
            }
            _ => false,
        };
        assert!(
            agree && said.accepted == expected.is_ok() && self.grounds_agree(world, plan, said),
            "seed {seed}: {:?} as {:?}: expected {expected:?}, the kernel said {said:?}",
            self.connection,
            self.shape
        );
        tally.add(self, &expected);
        self.count_deciders(world, plan, tally);
    }

    /// Who decides at the ends that are pods of this node, up to the first that denies.
    fn count_deciders(&self, world: &World, plan: &Plan, tally: &mut Tally) {
        let Connection { source, destination, .. } = &self.connection;
        for (direction, address) in [(Direction::Egress, source), (Direction::Ingress, destination)] {
            if self.is_unparseable() || !plan.endpoints.contains_key(&address.to_canonical()) {
                continue;
            }
            let verdict = judge(world, &self.connection, direction);
            tally.decided(world, &verdict);
            let other = Connection { established: !self.connection.established, ..self.connection.clone() };
            tally.lingering += usize::from(judge(world, &other, direction) != verdict);
            if !verdict.allow {
                return;
            }
        }
    }

    /// Why it was accepted.
    fn grounds_agree(&self, world: &World, plan: &Plan, said: &Tried) -> bool {
        if !said.accepted || self.is_unparseable() {
            return true;
        }
        let agree = |ground, address: IpAddr, direction| {
            let verdict = judge(world, &self.connection, direction);
            let local = plan.endpoints.contains_key(&address.to_canonical());
            match ground {
                Ground::NeighbourDiscovery => self.connection.is_neighbour_discovery(),
                Ground::NotAPod => !local,
                Ground::OwnAddress => verdict.reason == Reason::OwnAddress,
                Ground::LocalNode => verdict.reason == Reason::LocalNode,
                Ground::Decided(cause) if cause.0 == 0 => verdict.reason == Reason::Default,
                Ground::Decided(cause) => plan.causes.get(&cause) == Some(&verdict.reason),
                Ground::Related | Ground::NotAsked => false,
            }
        };
        agree(said.egress, self.connection.source, Direction::Egress)
            && agree(said.ingress, self.connection.destination, Direction::Ingress)
    }
}

#[derive(Debug)]
enum Expected {
    NotReady,
    Unparseable,
    Policy(Direction, Verdict),
}

/// What an end says, as this node knows it.
fn judge(world: &World, connection: &Connection, direction: Direction) -> Verdict {
    reference::judge_at(world, Some(&Name::from(NODE)), connection, direction)
}

fn family(address: &IpAddr) -> bool {
    address.to_canonical().is_ipv4()
}

fn reshape(packet: &mut Packet, shape: Shape, rng: &mut Rng) {
    match shape {
        Shape::Plain => {}
        Shape::Options => {
            // No-operation, timestamp of 12 bytes, router alert, end; hop-by-hop, routing done, destination, AH.
            packet.options = vec![1, 68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 148, 4, 0, 0];
            packet.extensions = vec![0, 43, 60, 51][..=rng.below(4)].to_vec();
        }
        Shape::Truncated => packet.payload = rng.below(4),
        Shape::LaterFragment => packet.fragment = Some(1 + u16::try_from(rng.below(8000)).unwrap()),
        Shape::FirstFragment => packet.fragment = Some(0),
        Shape::SourceRoute => {
            packet.options = vec![*rng.pick(&[131, 137]), 7, 4, 10, 0, 0, 1];
            packet.extensions = vec![43];
        }
        Shape::TooManyHeaders => packet.extensions = vec![60; 9],
    }
}

/// That the packets were not all alike.
#[derive(Default)]
struct Tally {
    packets: usize,
    accepted: usize,
    policy: usize,
    not_ready: usize,
    unparseable: usize,
    v6: usize,
    /// Ends for which a rule of a tier decided, and one that means nobody but hosts, nodes or domain names among them.
    admin: usize,
    network_policy: usize,
    baseline: usize,
    nodes: usize,
    domains: usize,
    /// It mattered that the connection was open before, or that it was not.
    lingering: usize,
}

impl Tally {
    fn add(&mut self, case: &Case, expected: &Result<(), Expected>) {
        self.packets += 1;
        self.v6 += usize::from(case.packet.source.is_ipv6());
        *match expected {
            Ok(()) => &mut self.accepted,
            Err(Expected::NotReady) => &mut self.not_ready,
            Err(Expected::Unparseable) => &mut self.unparseable,
            Err(Expected::Policy(..)) => &mut self.policy,
        } += 1;
    }

    fn decided(&mut self, world: &World, verdict: &Verdict) {
        let Reason::Rule(reference) = &verdict.reason else { return };
        let policy = &world.policies[&reference.policy];
        *match policy.tier {
            Tier::Admin => &mut self.admin,
            Tier::NetworkPolicy => &mut self.network_policy,
            Tier::Baseline => &mut self.baseline,
        } += 1;
        let rule = &policy.rules(reference.direction).unwrap()[reference.index];
        let Peers::List(peers) = &rule.peers else { return };
        if peers.iter().all(|peer| matches!(peer, Peer::Nodes(_) | Peer::Domain(_))) {
            self.nodes += usize::from(peers.iter().any(|peer| matches!(peer, Peer::Nodes(_))));
            self.domains += usize::from(peers.iter().any(|peer| matches!(peer, Peer::Domain(_))));
        }
    }

    fn assert_varied(&self) {
        for (what, count) in [
            ("the Admin tier", self.admin),
            ("the Baseline tier", self.baseline),
            ("NetworkPolicy", self.network_policy),
            ("a rule about nodes", self.nodes),
            ("a rule about domain names", self.domains),
        ] {
            assert!(count * 1000 > self.packets, "only {count} ends of {} packets are decided by {what}", self.packets);
        }
        assert!(self.lingering * 2000 > self.packets, "only {} of {} lingered", self.lingering, self.packets);
        for (what, count) in [
            ("accepted", self.accepted),
            ("denied by policy", self.policy),
            ("not ready", self.not_ready),
            ("unparseable", self.unparseable),
            ("IPv6", self.v6),
        ] {
            assert!(count * 50 > self.packets, "only {count} of {} are {what}", self.packets);
        }
    }
}
