//! Cost of a packet in the kernel program: test runs on the maps of each variant, in turns.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, bail};
use ringfence_datapath::{Config, Conntrack, Datapath, Interface, PacketContext, TestRun};
use ringfence_engine::Plan;
use ringfence_model::Protocol;
use ringfence_netns::Namespace;

use crate::figures::{median, table};
use crate::{leftovers, policies};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 246, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 246, 0, 3);
const PREFIX: &str = "rfpacket";
/// The interfaces of the two pods: a packet is on the way that it takes on a node.
const ARRIVES: u32 = 1000;
const LEAVES: u32 = 1001;

/// Options of the measurement.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of turns of each variant.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Packets of each of the two measurements of a turn.
    #[arg(long, default_value_t = 200_000)]
    packets: u32,
    /// Numbers of policies; the first is what others are compared with.
    #[arg(long, value_delimiter = ',', default_value = "0,10,1000,10000")]
    counts: Vec<usize>,
    /// Number of ClusterNetworkPolicies, in one more variant.
    #[arg(long, default_value_t = 1000)]
    cluster_wide: usize,
}

/// Measures and reports.
pub(crate) fn run(options: &Options) -> anyhow::Result<String> {
    leftovers::remove(PREFIX)?;
    let mut plans = Vec::new();
    for count in &options.counts {
        let mut sources = policies::strangers(*count);
        if let Some(last) = sources.last_mut() {
            *last = CLIENT;
        }
        plans.push((format!("{count} policies"), policies::plan(CLIENT, SERVER, &sources)));
    }
    if options.cluster_wide > 0 {
        let name = format!("{} ClusterNetworkPolicies of {} rules", options.cluster_wide, policies::RULES);
        plans.push((name, policies::cluster_wide(CLIENT, SERVER, options.cluster_wide, true)));
    }
    let variants = plans.into_iter().enumerate().map(|(number, (name, plan))| Variant::new(number, name, &plan));
    let mut variants = variants.collect::<anyhow::Result<Vec<_>>>()?;
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        if round % 2 == 0 {
            variants.iter_mut().rev().try_for_each(|variant| variant.measure(options.packets))?;
        } else {
            variants.iter_mut().try_for_each(|variant| variant.measure(options.packets))?;
        }
    }
    Ok(report(&variants))
}

/// One plan in the kernel, in a network namespace of its own; gone when dropped.
struct Variant {
    name: String,
    namespace: Namespace,
    datapath: Option<Datapath>,
    test_run: TestRun,
    /// Milliseconds until the plan was in the kernel.
    synced: f64,
    /// Nanoseconds of a packet of a known flow, and of one that is decided anew; one of each a round.
    known: Vec<f64>,
    decided: Vec<f64>,
}

impl Variant {
    fn new(number: usize, name: String, plan: &Plan) -> anyhow::Result<Self> {
        eprintln!("preparing: {name}");
        let id = format!("{PREFIX}{}-{number}", std::process::id());
        let namespace = Namespace::create(&id)?;
        let pins = leftovers::pins(&id);
        let opened = namespace.run(|| Datapath::open(Config::new(pins)));
        let loaded = opened.map_err(anyhow::Error::from).and_then(|opened| {
            let mut datapath = opened?;
            let started = Instant::now();
            datapath.sync(plan)?;
            let synced = started.elapsed().as_secs_f64() * 1e3;
            let interface = |index| Interface { index, bridge: None };
            datapath.set_interfaces([(CLIENT.into(), interface(ARRIVES)), (SERVER.into(), interface(LEAVES))])?;
            let test_run = datapath.test_run()?;
            anyhow::Ok((datapath, test_run, synced))
        });
        match loaded {
            Ok((datapath, test_run, synced)) => {
                let (known, decided) = (Vec::new(), Vec::new());
                Ok(Self { name, namespace, datapath: Some(datapath), test_run, synced, known, decided })
            }
            Err(error) => {
                let _ = Namespace::delete(&id);
                Err(error.context(name))
            }
        }
    }

    fn measure(&mut self, packets: u32) -> anyhow::Result<()> {
        let run = |flows| -> anyhow::Result<f64> {
            let given = PacketContext {
                interface: Some(ARRIVES),
                out_interface: Some(LEAVES),
                conntrack: Conntrack::Established,
                flows,
                ..PacketContext::default()
            };
            // The first may have to be decided in any case.
            self.test_run.run(&packet(), &given, 1)?;
            let said = self.test_run.run(&packet(), &given, packets)?;
            if !said.accepted || said.hit != flows {
                bail!("the packet is not accepted, or not as meant: {said:?}");
            }
            Ok(said.duration.as_secs_f64() * 1e9)
        };
        let (known, decided) = (run(true), run(false));
        self.known.push(known.with_context(|| self.name.clone())?);
        self.decided.push(decided.with_context(|| self.name.clone())?);
        Ok(())
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        if let Some(datapath) = self.datapath.take()
            && let Err(error) = datapath.detach()
        {
            eprintln!("{}: {error}", self.name);
        }
        let _ = Namespace::delete(self.namespace.name());
    }
}

/// A TCP segment from the client to the server.
fn packet() -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, Protocol::TCP.0, 0, 0];
    bytes.extend(CLIENT.octets());
    bytes.extend(SERVER.octets());
    bytes.extend(40_000u16.to_be_bytes());
    bytes.extend(7_000u16.to_be_bytes());
    bytes.resize(40, 0);
    bytes[32] = 5 << 4;
    bytes
}

fn report(variants: &[Variant]) -> String {
    let Some(first) = variants.first() else { return String::new() };
    // Of each round by itself.
    let ratio = |of: &[f64], to: &[f64]| median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>());
    let row = |variant: &Variant| {
        vec![
            variant.name.clone(),
            format!("{:.0}", median(&variant.known)),
            format!("{:.2}", ratio(&variant.known, &first.known)),
            format!("{:.0}", median(&variant.decided)),
            format!("{:.2}", ratio(&variant.decided, &first.decided)),
            format!("{:.1}", variant.synced),
        ]
    };
    let headings = ["variant", "known flow ns", "ratio", "decided anew ns", "ratio", "sync ms"];
    table(&headings, &variants.iter().map(row).collect::<Vec<_>>())
}
