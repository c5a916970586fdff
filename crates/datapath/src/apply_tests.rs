//! Writes that fail. Whichever write fails, every pod has one whole policy, the old or the new, and the next sync
//! repairs the rest.

use std::net::IpAddr;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{Delta, IpcacheEntry, Plan, Planner, PolicyKey, RuleId, RulesetId, Scope, port_key};
use ringfence_model::{Object, ObjectKey, Protocol};

use crate::{
    ApplyError, Config, Conntrack, Datapath, DropReason, PacketContext, PolicyResult, Sizes, TestRun, faults, features,
};

/// The verdict about a packet between a pod and a peer that is no pod of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeVerdict {
    NotAPod,
    NotReady,
    Decided(bool, RuleId),
    /// No entry decides, so the packet is dropped.
    Undecided,
    Unexpected,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    own: IpAddr,
    peer: IpAddr,
    ingress: bool,
    /// True for a packet of a connection that was open before.
    open: bool,
    port: u16,
}

impl Probe {
    fn expected(self, plan: &Plan) -> ProbeVerdict {
        let is_closed = |address: IpAddr| plan.closed_cidrs.iter().any(|cidr| cidr.contains(&address));
        let Some(endpoint) = plan.endpoints.get(&self.own) else {
            return if is_closed(self.own) { ProbeVerdict::NotReady } else { ProbeVerdict::NotAPod };
        };
        let ruleset = if self.ingress { endpoint.ingress } else { endpoint.egress };
        if ruleset == RulesetId::NONE {
            return ProbeVerdict::Decided(true, RuleId::DEFAULT);
        }
        let around = plan.ipcache.iter().filter(|(net, _)| net.contains(&self.peer));
        let peer_set =
            around.max_by_key(|(net, _)| net.prefix_len()).map_or(IpcacheEntry::UNKNOWN, |(_, peer_set)| *peer_set);
        let entry = |peer_set| plan.policy.get(&PolicyKey { ruleset, peer_set });
        // An endpoint whose address is in conflict has a ruleset without entries.
        let Some(table) = entry(peer_set.of(self.open)).or_else(|| entry(peer_set.fallback)) else {
            return ProbeVerdict::Undecided;
        };
        let range = table.at(port_key(Protocol::TCP, self.port));
        ProbeVerdict::Decided(range.allow, range.rule_id)
    }

    fn ask(self, test_run: &TestRun) -> ProbeVerdict {
        let (source, destination) = if self.ingress { (self.peer, self.own) } else { (self.own, self.peer) };
        let conntrack = if self.open { Conntrack::Established } else { Conntrack::New };
        let given = PacketContext { interface: Some(1000), conntrack, ..PacketContext::default() };
        let said = test_run.run(&packet(source, destination, self.port), &given, 1).unwrap();
        let result = if self.ingress { said.ingress } else { said.egress };
        match (said.dropped, result) {
            (None, PolicyResult::NotAPod) => ProbeVerdict::NotAPod,
            (None, PolicyResult::Decided(rule_id)) => ProbeVerdict::Decided(true, rule_id),
            (Some(DropReason::EndpointNotReady), _) => ProbeVerdict::NotReady,
            (Some(DropReason::Policy { rule_id, .. }), _) => ProbeVerdict::Decided(false, rule_id),
            (Some(DropReason::Incomplete), _) => ProbeVerdict::Undecided,
            _ => ProbeVerdict::Unexpected,
        }
    }
}

/// Builds a TCP packet.
fn packet(source: IpAddr, destination: IpAddr, port: u16) -> Vec<u8> {
    let mut bytes = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let head = [0x45, 0, 0, 40, 0, 1, 0, 0, 64, Protocol::TCP.0, 0, 0];
            [&head[..], &source.octets(), &destination.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let head = [0x60, 0, 0, 0, 0, 20, Protocol::TCP.0, 64];
            [&head[..], &source.octets(), &destination.octets()].concat()
        }
        _ => panic!("both ends have to be of one family"),
    };
    bytes.extend([40_000u16.to_be_bytes(), port.to_be_bytes()].concat());
    bytes.extend([0; 16]);
    bytes
}

/// Returns probes for each pod of either plan and for some addresses in neither.
fn probes(old: &Plan, new: &Plan) -> Vec<Probe> {
    let is_closed =
        |address: &IpAddr| old.closed_cidrs.iter().chain(&new.closed_cidrs).any(|cidr| cidr.contains(address));
    let nets = old.ipcache.keys().chain(new.ipcache.keys()).flat_map(|net| [net.network(), net.broadcast()]);
    let strangers = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, 1])];
    let local = |address: &IpAddr| old.endpoints.contains_key(address) || new.endpoints.contains_key(address);
    let peers: Vec<IpAddr> = nets.chain(strangers).filter(|address| !is_closed(address) && !local(address)).collect();
    let mut probes = Vec::new();
    for own in old.endpoints.keys().chain(new.endpoints.keys()) {
        for peer in peers.iter().filter(|peer| peer.is_ipv4() == own.is_ipv4()).step_by(3) {
            for (ingress, open, port) in
                [(true, false, 80), (true, true, 443), (false, false, 80), (false, true, 80), (false, false, 8080)]
            {
                probes.push(Probe { own: *own, peer: *peer, ingress, open, port });
            }
        }
    }
    probes
}

/// Two plans of a cluster and the deltas between them, which change policies only. The labels of pods do not change,
/// because a pod under the old policy would already be judged by the new labels of its peers.
fn change(seed: u64) -> (Plan, Vec<Delta>, Plan) {
    let settings = Settings { policies: 6, pods: 10, ..Settings::default() };
    let mut rng = Rng::new(seed);
    let mut world = settings.world(&mut rng);
    let mut planner = Planner::new(Scope::Node("node0".into()));
    world.objects().for_each(|object| planner.apply(object));
    planner.commit();
    let old = planner.plan();
    let mut changes = 0;
    while changes < 4 {
        let event = settings.event(&mut rng, &world);
        match &event {
            Event::Apply(object @ Object::Policy(_)) => planner.apply(object.clone()),
            Event::Delete(key @ ObjectKey::Policy(_)) => planner.delete(key),
            _ => continue,
        }
        event.happen(&mut world);
        changes += 1;
    }
    let deltas = planner.commit();
    (old, deltas, planner.plan())
}

fn can_run() -> bool {
    let missing = features::probe().missing;
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "in CI this has to run: {missing:?}");
    if !missing.is_empty() {
        println!("skipped: {missing:?}");
    }
    missing.is_empty()
}

/// A datapath in a network namespace of its own, until it is dropped.
struct Bench {
    datapath: Option<Datapath>,
    pins: std::path::PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let pins = std::env::temp_dir().join(format!("rfdp-{}-{name}", std::process::id()));
        let sizes = Sizes {
            endpoints: 256,
            ipcache: 4096,
            ipcache_cidrs: 1024,
            policy: 1 << 14,
            port_ranges: 1 << 14,
            rule_counters: 4096,
            flows: 4096,
            events: 1 << 16,
            ..Sizes::default()
        };
        let datapath = Datapath::open(Config { sizes, ..Config::new(&pins) }).unwrap();
        Self { datapath: Some(datapath), pins }
    }
}

impl std::ops::Drop for Bench {
    fn drop(&mut self) {
        drop(self.datapath.take());
        let _ = umount2(&self.pins, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.pins);
    }
}

#[test]
fn a_change_that_fails_at_some_write() {
    fails_at_every_write("delta", |datapath, deltas, _| deltas.iter().try_for_each(|delta| datapath.apply(delta)));
}

#[test]
fn a_sync_that_fails_at_some_write() {
    fails_at_every_write("sync", |datapath, _, new| datapath.sync(new));
}

fn fails_at_every_write(name: &str, carry_out: impl Fn(&mut Datapath, &[Delta], &Plan) -> Result<(), ApplyError>) {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new(name);
    let datapath = bench.datapath.as_mut().unwrap();
    let test_run = datapath.test_run().unwrap();
    let (mut failures, mut undecided) = (0, 0);
    for seed in 0..8 {
        let (old, deltas, new) = change(seed);
        if deltas.is_empty() {
            continue;
        }
        let probes = probes(&old, &new);
        let mut writes = 0;
        loop {
            datapath.sync(&old).unwrap();
            let errno = if writes % 2 == 0 { Errno::ENOMEM } else { Errno::E2BIG };
            let result = faults::after(writes, errno, || carry_out(datapath, &deltas, &new));
            for probe in &probes {
                let (said, before, after) = (probe.ask(&test_run), probe.expected(&old), probe.expected(&new));
                assert!(
                    said == before || said == after,
                    "seed {seed}, {writes} writes: {probe:?}: {said:?}, neither {before:?} nor {after:?}"
                );
                undecided += usize::from(before != after && said == before);
            }
            let Err(error) = result else { break };
            assert!(matches!(error, ApplyError::Kernel { .. }), "{error}");
            assert!(!datapath.is_in_sync());
            assert!(matches!(datapath.apply(&deltas[0]), Err(ApplyError::OutOfSync)));
            datapath.sync(&new).unwrap();
            for probe in probes.iter().step_by(7) {
                assert_eq!(
                    probe.ask(&test_run),
                    probe.expected(&new),
                    "seed {seed}, {writes} writes, synced: {probe:?}"
                );
            }
            failures += 1;
            // Every one of the first writes fails once, because most happens there; later ones at growing distances.
            writes += 1 + writes / 10;
        }
    }
    assert!(failures > 60 && undecided > 0, "{failures} failures, {undecided} verdicts that waited");
}
