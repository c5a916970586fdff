//! `bench --neutral`: measurements that know the API and packets only, on one cluster first without an engine and then
//! with Ringfence, beside what is known of another engine.

mod figures;
mod rows;

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use serde_json::Value;
use xshell::{Shell, cmd};

use super::cluster::{self, Made};
use super::publish;
use crate::cluster::Shape;
use crate::e2e::cluster::Cluster;
use crate::e2e::steps::Steps;
use crate::marks;
use figures::Figures;
use rows::Side;

const MARKS: (&str, &str) = ("<!-- results: cargo xtask bench --neutral -->", "<!-- end of results -->");

/// Measures, and writes the table unless told not to.
pub(super) fn run(sh: &Shell, dry: bool) -> anyhow::Result<ExitCode> {
    let others = Figures::of_calico()?;
    let mut steps = Steps::listening()?;
    let Some(made) = steps.take("build", || cluster::build(sh)) else { return Ok(steps.code()) };
    let table = cluster::on_one(sh, &mut steps, &made, &Shape::default(), |steps, cluster| {
        let measured = Neutral { cluster, made: &made, steps }.measure(&others);
        // What is missing is told by a last step that fails.
        steps.take("figures", || measured)
    });
    let Some(table) = table else { return Ok(steps.code()) };
    let bench = &made.bench;
    let host = cmd!(sh, "{bench} host").read()?;
    let made = marks::made(sh, "cargo xtask bench --neutral", &host)?;
    publish(sh, MARKS, &format!("{made}\n\n{table}"), dry)?;
    Ok(steps.code())
}

/// What is measured with.
struct Neutral<'a> {
    cluster: &'a Cluster,
    made: &'a Made,
    steps: &'a mut Steps,
}

impl Neutral<'_> {
    fn measure(mut self, others: &Figures) -> anyhow::Result<String> {
        // Where nobody enforces them, it does not matter how many policies there are: none, and the most.
        let control = self.side("", "0,10000", "0")?;
        let mut install = self.cluster.ringfence(&self.made.ringfence, &["install"]);
        self.steps.run("install", &mut install).context("it is not installed")?;
        let mut agents = self.cluster.command(&self.made.bench);
        let agents = agents.args(["cluster", "agents"]);
        let agents = self.steps.read_well("agents", agents).context("no agent runs")?;
        let agents = agents.split_whitespace().collect::<Vec<_>>().join(",");
        let mut table = rows::Table::new(others);
        for policies in [0_u64, 1000, 10_000] {
            let changes = self.engine("changes", &["--others", &policies.to_string()])?;
            table.changes(policies, &changes)?;
        }
        let with = self.side(&agents, "0,10,1000,10000", "100,1000")?;
        table.sides(&control, &with)?;
        Ok(table.text())
    }

    /// Everything that can be measured without an engine as well.
    fn side(&mut self, agents: &str, blocks: &str, pods: &str) -> anyhow::Result<Side> {
        let watch: &[&str] = if agents.is_empty() { &[] } else { &["--watch", agents] };
        let blocks = [&["--counts", blocks], watch].concat();
        let pods = [&["--pods", "--counts", pods], watch].concat();
        Ok(Side {
            blocks: self.engine("rates", &blocks)?,
            pods: self.engine("rates", &pods)?,
            leak: self.engine("leak", &[])?,
            first: self.engine("first", &[])?,
            open: self.engine("open", &[])?,
        })
    }

    /// What a measurement tells, if it went well.
    fn engine(&mut self, what: &str, words: &[&str]) -> anyhow::Result<Value> {
        let mut command: Command = self.cluster.command(&self.made.bench);
        command.args(["cluster", "engine", what]).args(words);
        let text = self.steps.read_well(what, &mut command).with_context(|| format!("{what} did not go well"))?;
        serde_json::from_str(&text).with_context(|| format!("{what} tells something else: {text}"))
    }
}
