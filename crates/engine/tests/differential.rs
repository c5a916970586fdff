//! Generated clusters: the reference evaluator and the plan give the same verdicts for the same reasons.
//!
//! `RINGFENCE_CASES` sets the number of connections (default 100,000), `RINGFENCE_SEED` the first seed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_engine::generate::{Rng, Settings};
use ringfence_engine::{Planner, Scope, reference};
use ringfence_model::{
    Action, Connection, Direction, Name, NamespaceSelection, Peer, Peers, PodSelection, Policy, PolicyKind, PortMatch,
    PortRange, Ports, Reason, Rule, Tier, Verdict, World,
};

const PROBES_A_WORLD: u64 = 200;

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")),
        Err(_) => default,
    }
}

/// The number of verdicts by reason: verdicts with a single reason would prove nothing.
#[derive(Default)]
struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Counts the owners of an address, on this node or not.
    fn owners(&mut self, world: &World, address: IpAddr, node: &Name) {
        let claimed = world.pods.values().any(|pod| pod.is_endpoint() && pod.addresses.contains(&address));
        let owners = world.owners(address, Some(node));
        let own = owners.iter().any(|pod| pod.node.as_ref() == Some(node));
        match owners.len() {
            0 if claimed => self.note("a false claim"),
            0 => {}
            1 if own => self.note("a pod of the node"),
            1 => self.note("a pod of another node"),
            _ if own => self.note("several pods of the node"),
            _ => self.note("several pods"),
        }
        if own && owners.len() < world.pods.values().filter(|pod| pod.addresses.contains(&address)).count() {
            self.note("a pod of the node, against others");
        }
    }

    /// Counts connections whose verdict depends on whether they were open before.
    fn lingering(&mut self, world: &World, connection: &Connection) {
        let verdicts = [false, true]
            .map(|established| reference::evaluate(world, &Connection { established, ..connection.clone() }).egress);
        if verdicts[0] != verdicts[1] {
            self.note(if connection.established { "lingering, open before" } else { "lingering, opened" });
        }
    }

    fn verdict(&mut self, world: &World, verdict: &Verdict) {
        match &verdict.reason {
            Reason::NotAPod => self.note("not a pod"),
            Reason::OwnAddress => self.note("own address"),
            Reason::LocalNode => self.note("own node"),
            Reason::NeighbourDiscovery => self.note("neighbour discovery"),
            Reason::Default => self.note("no policy"),
            Reason::Undecided => self.note("nobody knows whose address it is"),
            Reason::NoRoom => self.note("no room"),
            Reason::Isolated { direction: Direction::Ingress, .. } => self.note("isolated, ingress"),
            Reason::Isolated { direction: Direction::Egress, .. } => self.note("isolated, egress"),
            Reason::Rule(reference) => {
                let policy = &world.policies[&reference.policy];
                let rule = &policy.rules(reference.direction).unwrap_or_default()[reference.index];
                self.policy(world, policy);
                self.rule(rule);
            }
        }
    }

    fn policy(&mut self, world: &World, policy: &Policy) {
        self.note(match policy.id.kind {
            PolicyKind::NetworkPolicy => "NetworkPolicy",
            PolicyKind::ClusterNetworkPolicy if policy.tier == Tier::Admin => "ClusterNetworkPolicy, Admin",
            PolicyKind::ClusterNetworkPolicy => "ClusterNetworkPolicy, Baseline",
            PolicyKind::AdminNetworkPolicy => "AdminNetworkPolicy",
            PolicyKind::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        });
        let place = |policy: &Policy| (policy.tier, policy.priority);
        let tied = |other: &&Policy| other.id != policy.id && place(other) == place(policy);
        if policy.tier != Tier::NetworkPolicy && world.policies.values().any(|other| tied(&other)) {
            self.note("one of several of a priority");
        }
    }

    /// Counts peers and ports only if all alternatives are of one kind, because the verdict does not show which
    /// alternative matched.
    fn rule(&mut self, rule: &Rule) {
        self.note(match &rule.action {
            _ if rule.unknown().is_some() => "denied as not understood",
            Action::Accept => "accept",
            Action::Deny => "deny",
            Action::Pass | Action::Unknown(_) => "neither",
        });
        let peer = |peer: &Peer| match peer {
            Peer::Pods(PodSelection { namespaces: NamespaceSelection::Named(_), .. }) => "pods of a namespace",
            Peer::Pods(PodSelection { namespaces: NamespaceSelection::Matching(namespaces), pods })
                if namespaces.is_everything() && pods.is_everything() =>
            {
                "every pod"
            }
            Peer::Pods(_) => "pods of some namespaces",
            Peer::Block(block) if block.except().is_empty() => "block",
            Peer::Block(_) => "block with exceptions",
            Peer::Nodes(_) => "nodes",
            Peer::Domain(pattern) if pattern.is_wildcard() => "domain names below one",
            Peer::Domain(_) => "domain name",
            Peer::Unknown(_) => "unknown peer",
        };
        match &rule.peers {
            Peers::Any => self.note("anybody"),
            Peers::List(peers) => self.same(peers.iter().map(peer)),
        }
        let port = |port: &PortMatch| match port {
            PortMatch::Range(PortRange { first: 0, last: u16::MAX, .. }) => "all ports of a protocol",
            PortMatch::Range(range) if range.first == range.last => "port",
            PortMatch::Range(_) => "ports",
            PortMatch::Named { protocol: Some(_), .. } => "named port of a protocol",
            PortMatch::Named { protocol: None, .. } => "named port",
            PortMatch::Unknown(_) => "unknown port",
        };
        match &rule.ports {
            Ports::Any => self.note("all ports"),
            Ports::List(ports) => self.same(ports.iter().map(port)),
        }
    }

    fn same(&mut self, mut all: impl Iterator<Item = &'static str>) {
        if let Some(first) = all.next()
            && all.all(|other| other == first)
        {
            self.note(first);
        }
    }
}

/// All reasons, except those that no verdict of these clusters can have.
const REASONS: &[&str] = &[
    "not a pod",
    "own address",
    "nobody knows whose address it is",
    "a false claim",
    "a pod of the node",
    "a pod of another node",
    "several pods of the node",
    "several pods",
    "a pod of the node, against others",
    "own node",
    "neighbour discovery",
    "no policy",
    "isolated, ingress",
    "isolated, egress",
    "NetworkPolicy",
    "ClusterNetworkPolicy, Admin",
    "ClusterNetworkPolicy, Baseline",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "one of several of a priority",
    "denied as not understood",
    "accept",
    "deny",
    "anybody",
    "pods of a namespace",
    "every pod",
    "pods of some namespaces",
    "block",
    "block with exceptions",
    "nodes",
    "domain names below one",
    "domain name",
    "lingering, open before",
    "lingering, opened",
    "all ports",
    "all ports of a protocol",
    "port",
    "ports",
    "named port of a protocol",
    "named port",
];

#[test]
fn plan_and_reference_agree() {
    let cases = number("RINGFENCE_CASES", 100_000);
    let first = number("RINGFENCE_SEED", 1);
    let (mut denied, mut by_rule, mut seen) = (0_u64, 0_u64, Seen::default());
    for seed in first..first + cases.div_ceil(PROBES_A_WORLD) {
        let rng = &mut Rng::new(seed);
        let settings = Settings { tiers: seed % 3 != 0, ..Settings::default() };
        let world = settings.world(rng);
        let node: Name = "node0".into();
        let plans = [Scope::Cluster, Scope::Node(Name::clone(&node))].map(|scope| {
            let mut planner = Planner::new(scope);
            planner.reset(world.objects());
            planner.commit();
            planner.plan()
        });
        let pods: Vec<_> = plans[0].endpoints.keys().copied().collect();
        for probe in 0..PROBES_A_WORLD {
            let lingering = (probe == 0).then(|| settings.lingering(rng, &world, &pods)).flatten();
            let connection = lingering.unwrap_or_else(|| settings.connection(rng, &world));
            let decision = reference::evaluate(&world, &connection);
            assert_eq!(plans[0].evaluate(&connection), decision, "cluster, seed {seed}: {connection:?}\n{world:#?}");
            let local = reference::evaluate_at(&world, Some(&node), &connection);
            assert_eq!(plans[1].evaluate(&connection), local, "node, seed {seed}: {connection:?}\n{world:#?}");
            denied += u64::from(!decision.allow());
            by_rule += u64::from(matches!(decision.deciding().reason, Reason::Rule(_)));
            seen.lingering(&world, &connection);
            seen.owners(&world, connection.source.to_canonical(), &node);
            for verdict in [&decision.egress, &decision.ingress] {
                seen.verdict(&world, verdict);
            }
        }
    }
    assert!(denied * 10 > cases && denied * 10 < cases * 9, "{denied} of {cases} are denied");
    assert!(by_rule * 10 > cases, "{by_rule} of {cases} are decided by a rule");
    let rare = REASONS.iter().filter(|reason| seen.0.get(**reason).copied().unwrap_or_default() * 10_000 < cases);
    assert_eq!(rare.collect::<Vec<_>>(), [&""; 0], "seldom or never: {:#?}", seen.0);
}
