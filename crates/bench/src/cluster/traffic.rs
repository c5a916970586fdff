//! Cost of traffic under many policies, with Ringfence and without; and how long many policies take until they are in
//! force.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::unistd::Pid;
use ringfence_e2e::machine::Machine;

use super::policies::{Peers, Variant};
use super::rows::{HEADINGS, Pair, columns};
use super::stage::Stage;
use super::{Bench, agents};
use crate::changes::prober;
use crate::changes::seen::Seen;
use crate::figures::table;
use crate::traffic::client::Rates;

/// Options of the measurement.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Directory of the cluster on this machine.
    #[arg(long, value_name = "DIR")]
    machine: std::path::PathBuf,
    /// Number of measurements of each variant, with Ringfence and without.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Milliseconds of each of the three measurements of a turn.
    #[arg(long, default_value_t = 150)]
    millis: u64,
    /// Numbers of policies on a pod that allow blocks.
    #[arg(long, value_delimiter = ',', default_value = "0,10,1000,10000")]
    blocks: Vec<usize>,
    /// Numbers of policies on a pod that allow pods.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    pods: Vec<usize>,
    /// Leave Ringfence where it is: nothing is measured without it.
    #[arg(long)]
    stays: bool,
}

/// Measures and reports.
pub(super) fn run(bench: &Bench, options: &Options) -> anyhow::Result<String> {
    let variants: Vec<Variant> = of(Peers::Blocks, &options.blocks).chain(of(Peers::Pods, &options.pods)).collect();
    let nodes = bench.two_nodes()?;
    let machine = Machine::at(&options.machine)?;
    let kubelets: Vec<Pid> =
        [1, 2].iter().map(|n| machine.process(&format!("kubelet-{n}"))).collect::<Result<_, _>>()?;
    let stage = bench.runtime.block_on(Stage::set(&bench.cluster, &nodes, &kubelets, &variants))?;
    let mut created = Vec::new();
    for (number, variant) in variants.iter().enumerate().filter(|(_, variant)| variant.count > 0) {
        eprintln!("creating {}", variant.name());
        created.push(create(bench, &stage, number, *variant)?);
        stage.expect_enforced(number, *variant)?;
    }
    let turns = Turns { stage: &stage, variants: &variants, span: Duration::from_millis(options.millis) };
    let mut pairs: Vec<Vec<Pair>> = vec![Vec::new(); 2 * variants.len()];
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        // Every other round goes backwards, so that a drift of the machine falls on both alike.
        let (with, without) = if options.stays {
            (turns.take()?, None)
        } else if round % 2 == 1 {
            let with = turns.take()?;
            bench.ringfence(&["uninstall"])?;
            (with, Some(turns.take()?))
        } else {
            let without = turns.take()?;
            bench.ringfence(&["install"])?;
            turns.expect_enforced()?;
            (turns.take()?, Some(without))
        };
        for (slot, with) in with.into_iter().enumerate() {
            pairs[slot].push(Pair { with, without: without.as_ref().map(|without| without[slot]) });
        }
    }
    if !options.stays && options.rounds % 2 == 1 {
        bench.ringfence(&["install"])?;
    }
    let places = ["another node", "the same node"];
    let rows = [1, 0].into_iter().zip(places).flat_map(|(node, place)| {
        let (variants, pairs) = (&variants, &pairs);
        variants.iter().enumerate().map(move |(number, variant)| {
            let labels = [variant.name(), place.to_owned()];
            labels.into_iter().chain(columns(&pairs[node * variants.len() + number])).collect::<Vec<_>>()
        })
    });
    let headings = [&["Ringfence with", "server on"][..], &HEADINGS].concat();
    let traffic = table(&headings, &rows.collect::<Vec<_>>());
    if created.is_empty() {
        return Ok(traffic);
    }
    let headings = [
        "created",
        "policies/s",
        "last created → enforced ms",
        "processor seconds of the agent, server's node",
        "other node",
        "MB resident, server's node",
        "other node",
    ];
    Ok(format!("{traffic}\n{}", table(&headings, &created)))
}

fn of(peers: Peers, counts: &[usize]) -> impl Iterator<Item = Variant> {
    counts.iter().map(move |count| Variant { peers, count: *count })
}

/// Measures everything there is.
struct Turns<'a> {
    stage: &'a Stage,
    variants: &'a [Variant],
    span: Duration,
}

impl Turns<'_> {
    fn take(&self) -> anyhow::Result<Vec<Rates>> {
        let mut all = Vec::new();
        for node in 0..2 {
            for (number, variant) in self.variants.iter().enumerate() {
                let rates = self.stage.measure(self.stage.server(node, number), self.span);
                all.push(rates.with_context(|| variant.name())?);
            }
        }
        Ok(all)
    }

    fn expect_enforced(&self) -> anyhow::Result<()> {
        let last = self.variants.iter().enumerate().max_by_key(|(_, variant)| variant.count);
        last.map_or(Ok(()), |(number, variant)| self.stage.expect_enforced(number, *variant))
    }
}

/// Creates the policies of a variant at once, the one that lets the client in last; and what that took.
fn create(bench: &Bench, stage: &Stage, number: usize, variant: Variant) -> anyhow::Result<Vec<String>> {
    let agents = bench.runtime.block_on(agents::find(&bench.cluster))?;
    let before = agents::usage_of(&agents)?;
    let (sender, receiver) = mpsc::channel();
    let network = Arc::new(ringfence_netns::Namespace::open_path(&stage.client.path())?);
    let prober = prober::start(network, stage.server(1, number), Duration::from_micros(500), sender);
    let mut seen = Seen::new(receiver);
    let begun = Instant::now();
    bench.runtime.block_on(variant.lock(&bench.cluster))?;
    let took = begun.elapsed().as_secs_f64();
    if variant.count == 1 {
        seen.begin(true, begun).context("the client does not get in")?;
    } else {
        seen.begin(false, begun).context("the client gets in, though no policy allows it yet")?;
    }
    let asked = Instant::now();
    bench.runtime.block_on(variant.open(&bench.cluster, stage.client_address))?;
    let answered = Instant::now();
    let open = seen.begin(true, asked).context("the client does not get in, though the last policy allows it")?;
    drop(prober);
    let used = agents::usage_of(&agents)?;
    let node = |number: usize| {
        let (before, used) = (before.get(number), used.get(number));
        before.zip(used).map_or((0.0, 0.0), |(before, used)| (used.seconds - before.seconds, used.resident))
    };
    let ((near_seconds, near_memory), (far_seconds, far_memory)) = (node(0), node(1));
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = variant.count.saturating_sub(1) as f64 / took.max(1e-9);
    Ok(vec![
        variant.name(),
        format!("{rate:.0}"),
        format!("{:.1}", crate::changes::rounds::signed_millis(answered, open)),
        format!("{far_seconds:.1}"),
        format!("{near_seconds:.1}"),
        format!("{far_memory:.0}"),
        format!("{near_memory:.0}"),
    ])
}
