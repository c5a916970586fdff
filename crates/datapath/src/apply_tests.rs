//! Writes that fail: at whatever write, every pod is on one whole policy, the old or the new, and the next sync puts
//! everything right.

use std::net::IpAddr;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use ringfence_engine::generate::{Event, Rng, Settings};
use ringfence_engine::{CauseId, Delta, EntryKey, PeerClass, Plan, Planner, RulesetId, Scope, port_key};
use ringfence_model::{Object, ObjectKey, Protocol};

use crate::{ApplyError, Circumstances, Config, Conntrack, Datapath, Drop, Ground, Sizes, Trial, faults, features};

/// What is said of a packet between a pod and somebody who is no pod of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    NotReady,
    Decided(bool, CauseId),
    /// There is no answer, which denies.
    Undecided,
    Wrong,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    own: IpAddr,
    peer: IpAddr,
    ingress: bool,
    /// The connection was open before.
    open: bool,
    port: u16,
}

impl Probe {
    fn expected(self, plan: &Plan) -> Said {
        let gated = |address: IpAddr| plan.gates.iter().any(|gate| gate.contains(&address));
        let Some(endpoint) = plan.endpoints.get(&self.own) else {
            return if gated(self.own) { Said::NotReady } else { Said::Nothing };
        };
        let ruleset = if self.ingress { endpoint.ingress } else { endpoint.egress };
        if ruleset == RulesetId::NONE {
            return Said::Decided(true, CauseId::DEFAULT);
        }
        let around = plan.peers.iter().filter(|(net, _)| net.contains(&self.peer));
        let class = around.max_by_key(|(net, _)| net.prefix_len()).map_or(PeerClass::UNKNOWN, |(_, class)| *class);
        let entry = |class| plan.entries.get(&EntryKey { ruleset, class });
        // Whoever has an address that is in dispute has a ruleset without entries.
        let Some(block) = entry(class.of(self.open)).or_else(|| entry(class.fallback)) else { return Said::Undecided };
        let point = block.at(port_key(Protocol::TCP, self.port));
        Said::Decided(point.allow, point.cause)
    }

    fn ask(self, trial: &Trial) -> Said {
        let (source, destination) = if self.ingress { (self.peer, self.own) } else { (self.own, self.peer) };
        let conntrack = if self.open { Conntrack::Established } else { Conntrack::New };
        let given = Circumstances { interface: Some(1000), conntrack, ..Circumstances::default() };
        let said = trial.run(&packet(source, destination, self.port), &given, 1).unwrap();
        let ground = if self.ingress { said.ingress } else { said.egress };
        match (said.dropped, ground) {
            (None, Ground::NotAPod) => Said::Nothing,
            (None, Ground::Decided(cause)) => Said::Decided(true, cause),
            (Some(Drop::EndpointNotReady), _) => Said::NotReady,
            (Some(Drop::Policy { cause, .. }), _) => Said::Decided(false, cause),
            (Some(Drop::Incomplete), _) => Said::Undecided,
            _ => Said::Wrong,
        }
    }
}

/// A TCP packet.
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

/// Asks about each pod of either plan and some of those who are in neither.
fn probes(old: &Plan, new: &Plan) -> Vec<Probe> {
    let gated = |address: &IpAddr| old.gates.iter().chain(&new.gates).any(|gate| gate.contains(address));
    let nets = old.peers.keys().chain(new.peers.keys()).flat_map(|net| [net.network(), net.broadcast()]);
    let strangers = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, 1])];
    let local = |address: &IpAddr| old.endpoints.contains_key(address) || new.endpoints.contains_key(address);
    let peers: Vec<IpAddr> = nets.chain(strangers).filter(|address| !gated(address) && !local(address)).collect();
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

/// Two plans of a cluster, one some changes of policies after the other, and these. Pods stay what they are: about a
/// peer with other labels, a pod that is on the old policy says what that says about the new labels.
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
            peers: 4096,
            prefixes: 1024,
            entries: 1 << 14,
            breakpoints: 1 << 14,
            causes: 4096,
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
    let trial = datapath.trial().unwrap();
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
                let (said, before, after) = (probe.ask(&trial), probe.expected(&old), probe.expected(&new));
                assert!(
                    said == before || said == after,
                    "seed {seed}, {writes} writes: {probe:?}: {said:?}, neither {before:?} nor {after:?}"
                );
                undecided += usize::from(before != after && said == before);
            }
            let Err(error) = result else { break };
            assert!(matches!(error, ApplyError::Kernel { .. }), "{error}");
            assert!(!datapath.is_in_step());
            assert!(matches!(datapath.apply(&deltas[0]), Err(ApplyError::OutOfStep)));
            datapath.sync(&new).unwrap();
            for probe in probes.iter().step_by(7) {
                assert_eq!(probe.ask(&trial), probe.expected(&new), "seed {seed}, {writes} writes, synced: {probe:?}");
            }
            failures += 1;
            // All of the first ones, where most happens; then fewer and fewer.
            writes += 1 + writes / 10;
        }
    }
    assert!(failures > 60 && undecided > 0, "{failures} failures, {undecided} verdicts that waited");
}
