//! `bench --neutral`: programs that measure whatever engine enforces policy, on one cluster first without and then with
//! Ringfence, beside what they said of another engine.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use serde_json::Value;
use xshell::{Shell, cmd};

use super::cluster::{self, Made};
use super::publish;
use crate::e2e::cluster::{Cluster, Shape};
use crate::e2e::steps::Steps;
use crate::marks;

/// Where the programs are, beside the project.
const PROGRAMS: &str = "../shared/bench/cluster";
const MARKS: (&str, &str) = ("<!-- results: cargo xtask bench --neutral -->", "<!-- end of results -->");

/// A row of the table: what is measured, and what is known of Calico with iptables and with nftables. Those are of
/// other runs of the same programs on a cluster of the same kind.
struct Row {
    what: String,
    calico: [&'static str; 2],
    control: String,
    ringfence: String,
}

/// Measures, and writes the table unless told not to.
pub(super) fn run(sh: &Shell, dry: bool) -> anyhow::Result<ExitCode> {
    let programs = sh.current_dir().join(PROGRAMS);
    if !programs.exists() {
        bail!("the programs that measure any engine are not in {PROGRAMS}");
    }
    let mut steps = Steps::listening()?;
    let Some(made) = steps.take("build", || cluster::build(sh)) else { return Ok(steps.code()) };
    let rows = cluster::on_one(sh, &mut steps, &made, &Shape::default(), |steps, cluster| {
        let measured = Neutral { sh, programs, cluster, made: &made, steps }.measure();
        // What is missing is told by a last step that fails.
        steps.take("figures", || measured)
    });
    let Some(rows) = rows else { return Ok(steps.code()) };
    let bench = &made.bench;
    let host = cmd!(sh, "{bench} host").read()?;
    let made = marks::made(sh, "cargo xtask bench --neutral", &host)?;
    let results = format!("{made}\n\n{}", table(&rows));
    publish(sh, MARKS, &results, dry)?;
    Ok(steps.code())
}

fn table(rows: &[Row]) -> String {
    let heading = "| measure | Calico, iptables | Calico, nftables | no engine | Ringfence |\n|---|---|---|---|---|";
    let line = |row: &Row| {
        let Row { what, calico: [iptables, nftables], control, ringfence } = row;
        format!("| {what} | {iptables} | {nftables} | {control} | {ringfence} |")
    };
    std::iter::once(heading.to_owned()).chain(rows.iter().map(line)).collect::<Vec<_>>().join("\n")
}

/// What is measured with.
struct Neutral<'a> {
    sh: &'a Shell,
    programs: PathBuf,
    cluster: &'a Cluster,
    made: &'a Made,
    steps: &'a mut Steps,
}

impl Neutral<'_> {
    fn measure(mut self) -> anyhow::Result<Vec<Row>> {
        // Where nobody enforces them, it does not matter how many policies there are: none, and the most.
        let control = Side::of(&mut self, "", ("0,10000", "0"))?;
        let mut install = self.cluster.ringfence(&self.made.ringfence, &["install"]);
        self.steps.run("install", &mut install).context("it is not installed")?;
        let mut agents = self.cluster.command(&self.made.bench);
        let agents = self.said("agents", agents.args(["cluster", "agents"]))?;
        let agents = agents.split_whitespace().collect::<Vec<_>>().join(",");
        let mut rows = Vec::new();
        for (others, calico) in [
            (0, ["21–24 / 54–72 ms", "17–22 / 52–108 ms"]),
            (1000, ["112 / 230 ms", ""]),
            (10_000, ["0.8 / 1.2 s", ""]),
        ] {
            let Reaction { all, relabelled, strays } = self.reaction(others)?;
            let row = |what: &str, calico, ringfence| Row {
                what: format!("{what}, {others} other policies"),
                calico,
                control: "never".into(),
                ringfence,
            };
            rows.push(row("change → decided across nodes, P50 / P99", calico, format!("{all}; {strays} strays")));
            let calico = if others == 0 { ["6–8 ms (P50)", "14–18 ms (P50)"] } else { ["", ""] };
            rows.push(row("pod relabelled → decided, P50 / P99", calico, relabelled));
        }
        let with = Side::of(&mut self, &agents, ("0,10,1000,10000", "100,1000"))?;
        rows.extend(control.beside(with));
        Ok(rows)
    }

    /// What a program says, if all went well.
    fn said(&mut self, name: &str, command: &mut Command) -> anyhow::Result<String> {
        self.steps.read_well(name, command).with_context(|| format!("{name} did not go well"))
    }

    /// Runs one of the programs, and gives what it says and what it writes.
    fn run(&mut self, program: &str, words: &[&str]) -> anyhow::Result<(String, Value)> {
        let mut command = self.cluster.command(Path::new("python3"));
        command.arg(self.programs.join(program)).args(words);
        let written = self.sh.create_temp_dir()?;
        let path = written.path().join("result.json");
        let writes = program != "starts.py";
        if writes {
            command.arg("--json").arg(&path);
        }
        let said = self.said(&format!("{program} {}", words.join(" ")), &mut command)?;
        print!("{said}");
        let value = if writes { serde_json::from_str(&self.sh.read_file(&path)?)? } else { Value::Null };
        Ok((said, value))
    }

    fn reaction(&mut self, others: usize) -> anyhow::Result<Reaction> {
        let others = others.to_string();
        let words = ["--client-node", "1", "--server-node", "2", "--rounds", "25", "--others", &others];
        let (said, results) = self.run("latency.py", &words)?;
        let times = |wanted: &str| {
            let results = results.as_array().into_iter().flatten();
            let wanted = results.filter(|result| result["kind"].as_str().is_some_and(|kind| kind.contains(wanted)));
            wanted.filter_map(|result| result["ms"].as_f64()).collect::<Vec<_>>()
        };
        let strays = said.lines().find_map(|line| line.split_once(" probes; ")?.1.split(' ').next());
        Ok(Reaction {
            all: percentiles(times("")),
            relabelled: percentiles(times("relabel")),
            strays: strays.context("latency.py does not tell of strays")?.to_owned(),
        })
    }

    /// What `rates.py` tells of each number of policies, repetitions put together.
    fn rates(&mut self, peers: &str, counts: &str, agents: &str) -> anyhow::Result<Vec<Rate>> {
        let words =
            ["--client-node", "1", "--server-node", "2", "--peer", peers, "--counts", counts, "--watch", agents];
        let (_, results) = self.run("rates.py", &words)?;
        let results = results.as_array().context("rates.py tells no list")?;
        let mut rates: Vec<Rate> = Vec::new();
        for result in results {
            let policies = result["policies"].as_u64().context("rates.py tells no number of policies")?;
            let number = |key: &str| result[key].as_f64().with_context(|| format!("rates.py does not tell {key}"));
            let [gbit, rtt, connections, connect] =
                [number("gbit")?, number("rtt_p50_us")?, number("connects_s")?, number("connect_p50_us")?];
            match rates.last_mut().filter(|rate| rate.policies == policies) {
                Some(rate) => rate.taken.push([gbit, rtt, connections, connect]),
                None => rates.push(Rate {
                    policies,
                    taken: vec![[gbit, rtt, connections, connect]],
                    last: result["last_enforced_after_ms"].as_f64(),
                    processor: result["engine_cpu_s"].as_f64().filter(|_| !agents.is_empty()),
                    memory: result["rss_mib"].as_array().and_then(|all| all.iter().filter_map(Value::as_u64).max()),
                }),
            }
        }
        Ok(rates)
    }

    /// The line of `starts.py` that tells how it went.
    fn starts(&mut self, words: &[&str], told: &[&str]) -> anyhow::Result<String> {
        let (said, _) = self.run("starts.py", words)?;
        let lines = told.iter().map(|told| {
            let line = said.lines().find_map(|line| line.strip_prefix(told)).map(str::trim);
            line.with_context(|| format!("starts.py {} does not tell {told:?}", words.join(" ")))
        });
        Ok(lines.collect::<anyhow::Result<Vec<_>>>()?.join("; "))
    }
}

/// How long changes take: P50 and P99.
struct Reaction {
    all: String,
    relabelled: String,
    strays: String,
}

/// Traffic under a number of policies.
struct Rate {
    policies: u64,
    /// Gbit/s, round trip in us, connections a second, time to connect in us; once a repetition.
    taken: Vec<[f64; 4]>,
    /// Milliseconds after which the last policy was in force.
    last: Option<f64>,
    /// Seconds of processor that the engine used for the policies.
    processor: Option<f64>,
    /// MiB of the largest process of the engine.
    memory: Option<u64>,
}

impl Rate {
    fn best(&self, column: usize) -> f64 {
        let values = self.taken.iter().map(|taken| taken[column]);
        // Of times the shortest: what disturbs makes all of them worse.
        if matches!(column, 1 | 3) { values.fold(f64::INFINITY, f64::min) } else { values.fold(0.0, f64::max) }
    }
}

/// Everything that can be measured without an engine as well.
struct Side {
    blocks: Vec<Rate>,
    pods: Vec<Rate>,
    leak: String,
    first: String,
    open: String,
}

impl Side {
    fn of(neutral: &mut Neutral<'_>, agents: &str, (blocks, pods): (&str, &str)) -> anyhow::Result<Self> {
        Ok(Self {
            blocks: neutral.rates("ipblock", blocks, agents)?,
            pods: neutral.rates("pod", pods, agents)?,
            leak: neutral.starts(&["leak"], &["leaked:"])?,
            first: neutral.starts(&["first"], &["policy egress:"])?,
            open: neutral.starts(&["open"], &["deny ingress after 2 of 10 s:", "deny egress after 2 of 10 s:"])?,
        })
    }

    /// The rows of the table.
    fn beside(self, with: Self) -> Vec<Row> {
        let mut rows = Vec::new();
        let known = |peers: &str, policies| match (peers, policies) {
            ("ipBlock", 0) => ["8,200", "8,800"],
            ("ipBlock", 10) => ["8,300", "8,700"],
            ("ipBlock", 1000) => ["2,950", "4,600"],
            ("ipBlock", 10_000) => ["175", "250 to 760"],
            ("pod", 100) => ["5,200", ""],
            ("pod", 1000) => ["1,200", ""],
            _ => ["", ""],
        };
        for (peers, control, with) in [("ipBlock", &self.blocks, &with.blocks), ("pod", &self.pods, &with.pods)] {
            for with in with {
                let same = control.iter().find(|control| control.policies == with.policies);
                let Some(control) = same.or_else(|| control.first()) else { continue };
                let what = format!("new connections per second, {} policies, {peers} peers", with.policies);
                rows.push(beside(what, known(peers, with.policies), control, with, 2, 0));
            }
        }
        if let (Some(control), Some(with)) = (self.blocks.last(), with.blocks.last()) {
            let policies = with.policies;
            rows.push(beside(format!("connect P50 at {policies}, µs"), ["5,900", ""], control, with, 3, 0));
            let same = "no measurable cost";
            rows.push(beside(format!("Gbit/s at {policies}"), [same, same], control, with, 0, 2));
            rows.push(beside(format!("round trip P50 at {policies}, µs"), [same, same], control, with, 1, 1));
            let alone = |what: String, calico, ringfence| Row { what, calico, control: "–".into(), ringfence };
            let told =
                |value: Option<f64>, unit: &str| value.map_or_else(|| "?".into(), |value| format!("{value:.1} {unit}"));
            let last = format!("last of {policies} policies created → enforced");
            rows.push(alone(last, ["61–66 s", "20 s"], told(with.last, "ms")));
            let used = format!("processor of the agents for {policies} policies");
            rows.push(alone(used, ["about 100 s", "56 s"], told(with.processor, "s")));
            let memory = with.memory.map_or_else(|| "?".into(), |memory| format!("{memory} MiB"));
            rows.push(alone("memory of the node agent then".to_owned(), ["100–180 MiB", ""], memory));
        }
        let row = |what: &str, calico, control, ringfence| Row { what: what.into(), calico, control, ringfence };
        rows.push(row("leaked, 50 pods that start under a deny-all", ["0 of 50", ""], self.leak, with.leak));
        rows.push(row("first SYN of 50 pods that start and may", ["0 to 2 lost of 50", ""], self.first, with.first));
        let open = "stays open, both directions";
        rows.push(row("an open connection after a deny", [open, open], self.open, with.open));
        rows
    }
}

/// A row of a figure of traffic, and its ratio.
fn beside(what: String, calico: [&'static str; 2], control: &Rate, with: &Rate, column: usize, digits: usize) -> Row {
    let [without, with] = [control, with].map(|rate| rate.best(column));
    let ringfence = format!("{with:.digits$} ({:.2})", with / without);
    Row { what, calico, control: format!("{without:.digits$}"), ringfence }
}

/// P50 and P99 in milliseconds.
fn percentiles(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    match (at(50), at(99)) {
        (Some(half), Some(most)) => format!("{half:.1} / {most:.1} ms"),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentiles(times), "101.0 / 199.0 ms");
        assert_eq!(percentiles(Vec::new()), "?");
    }

    #[test]
    fn the_best_of_repetitions_counts_and_the_ratio_is_told() {
        let rate = |connections: [f64; 2]| Rate {
            policies: 10,
            taken: connections.map(|connections| [1.0, 9.0, connections, 1e6 / connections]).to_vec(),
            last: None,
            processor: None,
            memory: None,
        };
        let (control, with) = (rate([100.0, 200.0]), rate([180.0, 90.0]));
        let row = beside("x".into(), ["", ""], &control, &with, 2, 0);
        assert_eq!((row.control.as_str(), row.ringfence.as_str()), ("200", "180 (0.90)"));
    }
}
