//! `bench`: builds the measuring programs in release, runs them, and writes docs/performance.md.

mod cluster;
mod neutral;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{demo, marks, setup};

const DOCUMENT: &str = "docs/performance.md";
const MARKS: (&str, &str) = ("<!-- results: cargo xtask bench -->", "<!-- end of results -->");

/// The measurements, and their options.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of turns of each variant of traffic.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Milliseconds of each measurement of traffic.
    #[arg(long, default_value_t = 150)]
    millis: u64,
    /// Number of times that each of the ten kinds of change is made.
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// On a cluster that is started for it instead: reaction, traffic, the network plugin, many pods and policies.
    #[arg(long, conflicts_with_all = ["rounds", "millis", "changes"])]
    cluster: bool,
    /// On a cluster, by measurements that know of no engine: without one, and with Ringfence.
    #[arg(long, conflicts_with_all = ["rounds", "millis", "changes", "cluster"])]
    neutral: bool,
    /// Only print; leave the document alone.
    #[arg(long)]
    dry: bool,
}

/// Measures everything, one after the other.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    if options.cluster {
        return cluster::run(sh, options.dry);
    }
    if options.neutral {
        return neutral::run(sh, options.dry);
    }
    let programs = demo::PROGRAMS;
    cmd!(sh, "cargo build --release --locked {programs...} --package ringfence-bench").run()?;
    let bench = demo::binary(sh, "release", "ringfence-bench")?;
    let [rounds, millis, changes] =
        [options.rounds.to_string(), options.millis.to_string(), options.changes.to_string()];
    let measure = |program: &PathBuf, arguments: &[&str]| {
        let name = arguments.join(" ");
        cmd!(sh, "{program} {arguments...}").read().with_context(|| format!("measuring {name}"))
    };
    let host = measure(&bench, &["host"])?;
    let command = format!("cargo xtask bench --rounds {rounds} --millis {millis} --changes {changes}");
    let made = marks::made(sh, &command, &host)?;
    let traffic = measure(&bench, &["traffic", "--rounds", &rounds, "--millis", &millis])?;
    let packet = measure(&bench, &["packet", "--rounds", &rounds])?;
    let reaction = measure(&bench, &["changes", "--rounds", &changes])?;
    let planner = cmd!(sh, "cargo bench --locked --package ringfence-engine --bench planner").read()?;
    let results = format!(
        "{made}\n\n\
         ### Packets and connections\n\n{traffic}\n\n\
         ### One packet in the kernel program\n\n{packet}\n\n\
         ### Reaction\n\n{reaction}\n\n\
         ### Planner\n\n```text\n{planner}\n```"
    );
    publish(sh, MARKS, &results, options.dry)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints results, and puts them between their marks in the document unless told not to.
fn publish(sh: &Shell, marks: (&str, &str), results: &str, dry: bool) -> anyhow::Result<()> {
    println!("{results}");
    if !dry {
        let document = sh.read_file(DOCUMENT)?;
        sh.write_file(DOCUMENT, marks::replace(&document, marks, results)?)?;
    }
    Ok(())
}
