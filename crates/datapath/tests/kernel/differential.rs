//! Generated clusters and packets: the kernel's verdicts equal those of the reference evaluator.

use std::net::IpAddr;

use ringfence_datapath::{Conntrack, Datapath, DropReason, PacketContext, PolicyResult, TestVerdict};
use ringfence_engine::generate::{Rng, Settings};
use ringfence_engine::{Plan, Planner, Scope, reference};
use ringfence_model::{Connection, Direction, Name, Origin, Peer, Peers, Protocol, Reason, Tier, Verdict, World};

use crate::kit::packet::Packet;
use crate::kit::space::Bench;

/// Number of packets, unless `RINGFENCE_CASES` gives another.
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
    let test_run = datapath.test_run().unwrap();
    let mut tally = Tally::default();
    let mut seed = 0;
    while tally.packets < packets {
        let mut rng = Rng::new(seed);
        // Some clusters have no cluster-wide policies.
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
                let said = test_run.run(&case.bytes(), &case.circumstances(), 1).unwrap();
                case.check(seed, &world, &plan, &said, &mut tally);
            }
        }
        seed += 1;
    }
    datapath.detach().unwrap();
    tally.assert_varied();
}

/// Changes the cluster, and applies the change to the kernel.
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

/// A way in which a packet is malformed, or harder to parse.
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

    fn circumstances(&self) -> PacketContext {
        PacketContext {
            interface: (!self.is_from_this_node()).then_some(1000),
            out_interface: Some(1001),
            conntrack: self.conntrack,
            related_to: None,
            original_destination: None,
            picked_up: false,
            translated: self.connection.translated,
            local_in: false,
            flows: false,
            notify: false,
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

    /// Returns the expected result: that of the reference evaluator for local pods, after the checks that do not depend
    /// on policy.
    fn expected(&self, world: &World, plan: &Plan) -> Result<(), Expected> {
        let connection = &self.connection;
        let (source, destination) = (connection.source.to_canonical(), connection.destination.to_canonical());
        let local = |address: &IpAddr| plan.endpoints.contains_key(address);
        let is_closed =
            |address: &IpAddr| plan.closed_cidrs.iter().any(|cidr| cidr.contains(address)) && !local(address);
        let node = self.is_from_this_node();
        if connection.is_neighbour_discovery() && !self.is_unparseable() {
            return Ok(());
        }
        if !node && (is_closed(&source) || is_closed(&destination)) {
            return Err(Expected::NotReady);
        }
        if self.is_unparseable() {
            let concerned = local(&source) || (local(&destination) && !node);
            return if concerned { Err(Expected::Unparseable) } else { Ok(()) };
        }
        let ends = [(Direction::Egress, &source), (Direction::Ingress, &destination)];
        for (direction, address) in ends {
            let verdict = evaluate_direction(world, connection, direction);
            let owned = verdict.reason != Reason::NotAPod;
            assert_eq!(owned, local(address), "the plan has just the pods of the node");
            if owned && !verdict.allow {
                return Err(Expected::Policy(direction, verdict));
            }
        }
        Ok(())
    }

    fn check(&self, seed: u64, world: &World, plan: &Plan, said: &TestVerdict, tally: &mut Tally) {
        let expected = self.expected(world, plan);
        let agree = match (&expected, said.dropped) {
            (Ok(()), None)
            | (Err(Expected::NotReady), Some(DropReason::EndpointNotReady))
            | (Err(Expected::Unparseable), Some(DropReason::Unparseable)) => true,
            // The owner of the address is unknown, so there is no decision to look up.
            (Err(Expected::Policy(_, verdict)), Some(DropReason::Incomplete)) => verdict.reason == Reason::Undecided,
            (Err(Expected::Policy(direction, verdict)), Some(DropReason::Policy { rule_id, .. })) => {
                said.direction == Some(*direction) && plan.rules.get(&rule_id) == Some(&verdict.reason)
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

    /// Counts the deciding policies of local pods, up to the first that denies.
    fn count_deciders(&self, world: &World, plan: &Plan, tally: &mut Tally) {
        let Connection { source, destination, .. } = &self.connection;
        for (direction, address) in [(Direction::Egress, source), (Direction::Ingress, destination)] {
            if self.is_unparseable() || !plan.endpoints.contains_key(&address.to_canonical()) {
                continue;
            }
            let verdict = evaluate_direction(world, &self.connection, direction);
            tally.decided(world, &verdict);
            let other = Connection { established: !self.connection.established, ..self.connection.clone() };
            tally.lingering += usize::from(evaluate_direction(world, &other, direction) != verdict);
            if !verdict.allow {
                return;
            }
        }
    }

    /// True if the reasons for an allowed packet agree.
    fn grounds_agree(&self, world: &World, plan: &Plan, said: &TestVerdict) -> bool {
        if !said.accepted || self.is_unparseable() {
            return true;
        }
        let agree = |ground, address: IpAddr, direction| {
            let verdict = evaluate_direction(world, &self.connection, direction);
            let local = plan.endpoints.contains_key(&address.to_canonical());
            match ground {
                PolicyResult::NeighbourDiscovery => self.connection.is_neighbour_discovery(),
                PolicyResult::NotAPod => !local,
                PolicyResult::OwnAddress => verdict.reason == Reason::OwnAddress,
                PolicyResult::LocalNode => verdict.reason == Reason::LocalNode,
                PolicyResult::Decided(rule_id) if rule_id.0 == 0 => verdict.reason == Reason::Default,
                PolicyResult::Decided(rule_id) => plan.rules.get(&rule_id) == Some(&verdict.reason),
                PolicyResult::Related | PolicyResult::NotEvaluated => false,
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

/// Returns the verdict of one end, as this node knows it.
fn evaluate_direction(world: &World, connection: &Connection, direction: Direction) -> Verdict {
    reference::evaluate_direction_at(world, Some(&Name::from(NODE)), connection, direction)
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

/// Counts that prove that the packets were not all alike.
#[derive(Default)]
struct Tally {
    packets: usize,
    accepted: usize,
    policy: usize,
    not_ready: usize,
    unparseable: usize,
    v6: usize,
    /// Ends that a rule of a tier decided, and those with rules about hosts only: nodes or domain names.
    admin: usize,
    network_policy: usize,
    baseline: usize,
    nodes: usize,
    domains: usize,
    /// Cases in which the verdict depended on whether the connection was open before.
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
