//! Measures what a packet costs in the kernel program, and what opening and syncing cost: `cargo run --release
//! --example packet_cost` as root. Runs in a network namespace of its own.
#![expect(clippy::print_stdout, reason = "prints its result")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use ringfence_datapath::{Circumstances, Config, Conntrack, Datapath, Sizes, Trial};
use ringfence_engine::{Block, Breakpoint, CauseId, ClassId, Endpoint, EntryKey, PeerClass, Plan, RulesetId, port_key};
use ringfence_model::{PodKey, Protocol, Reason};

const REPEAT: u32 = 1_000_000;
const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn main() -> Result<(), Box<dyn Error>> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let pin_dir = std::env::temp_dir().join(format!("ringfence-packet-cost-{}", std::process::id()));
    let sizes = Sizes { entries: 1 << 15, breakpoints: 1 << 20, ..Sizes::default() };
    let started = Instant::now();
    let mut datapath = Datapath::open(Config { sizes, ..Config::new(&pin_dir) })?;
    println!("open (verify, attach): {:?}", started.elapsed());
    let result = measure(&mut datapath);
    datapath.detach()?;
    result
}

fn measure(datapath: &mut Datapath) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let trial = datapath.trial()?;
    println!("load the trial program: {:?}", started.elapsed());
    println!("{:<44} {:>10}", "one packet", "ns");
    let stranger = packet(Ipv4Addr::new(192, 0, 2, 1), 80);
    report(&trial, "no policy, neither end a local pod", &stranger, false)?;
    for policies in [0, 10, 1_000, 10_000] {
        let started = Instant::now();
        datapath.sync(&plan(policies))?;
        let synced = started.elapsed();
        let packet = packet(peer(policies / 2), 443);
        report(&trial, &format!("{policies} policies, flow known"), &packet, true)?;
        report(&trial, &format!("{policies} policies, decided anew"), &packet, false)?;
        println!("{:<44} {:>10.1}", format!("{policies} policies, sync (ms)"), synced.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn report(trial: &Trial, what: &str, packet: &[u8], flows: bool) -> Result<(), Box<dyn Error>> {
    let circumstances = Circumstances {
        interface: Some(1000),
        out_interface: Some(1001),
        conntrack: Conntrack::Established,
        about: None,
        translated: false,
        local_in: false,
        flows,
        tell: false,
    };
    trial.run(packet, &circumstances, 1)?;
    let mut best = u128::MAX;
    for _ in 0..5 {
        let said = trial.run(packet, &circumstances, REPEAT)?;
        if !said.accepted {
            return Err(format!("{what}: the packet is not accepted: {said:?}").into());
        }
        best = best.min(said.duration.as_nanos());
    }
    println!("{what:<44} {best:>10}");
    Ok(())
}

/// A pod with so many policies, each of which lets one class of peers reach twenty ports of its own.
fn plan(policies: u32) -> Plan {
    let mut plan = Plan::default();
    let ruleset = if policies == 0 { RulesetId::NONE } else { RulesetId(7) };
    let endpoint = Endpoint {
        pod: PodKey { namespace: "bench".into(), name: "pod".into() },
        uid: "uid".into(),
        node: None,
        ingress: ruleset,
        egress: RulesetId::NONE,
    };
    plan.endpoints.insert(POD.into(), endpoint);
    if policies == 0 {
        return plan;
    }
    let isolated = CauseId(3);
    plan.causes.insert(isolated, Reason::Default);
    for class in [ClassId::UNKNOWN, ClassId::ANY_POD] {
        plan.entries.insert(EntryKey { ruleset, class }, Arc::new(Block::constant(false, isolated)));
    }
    for policy in 0..policies {
        let cause = CauseId(1000 + u64::from(policy));
        let class = ClassId(1000 + u64::from(policy));
        let mut points = vec![Breakpoint { key: 0, allow: false, cause: isolated }];
        for port in 0..20 {
            let key = port_key(Protocol::TCP, 434 + 2 * port + u16::from(port > 3));
            points.push(Breakpoint { key, allow: true, cause });
            points.push(Breakpoint { key: key + 1, allow: false, cause: isolated });
        }
        plan.causes.insert(cause, Reason::Default);
        plan.entries.insert(EntryKey { ruleset, class }, Arc::new(Block::from_sorted(points)));
        plan.peers.insert(IpAddr::from(peer(policy)).into(), PeerClass { class, fallback: ClassId::ANY_POD });
    }
    plan
}

fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + number)
}

fn packet(source: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, Protocol::TCP.0, 0, 0];
    bytes.extend(source.octets());
    bytes.extend(POD.octets());
    bytes.extend(40_000u16.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(40, 0);
    bytes[32] = 5 << 4;
    bytes
}
