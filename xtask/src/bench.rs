//! `bench`: builds the measuring programs in release, runs them, and writes docs/performance.md.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{demo, marks, setup};

const DOCUMENT: &str = "docs/performance.md";
const MARKS: (&str, &str) = ("<!-- results: cargo xtask bench -->", "<!-- end of results -->");

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each variant of traffic has its turn.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How often each of the ten kinds of change is made.
    #[arg(long, default_value_t = 25)]
    changes: usize,
    /// Only print; leave the document alone.
    #[arg(long)]
    dry: bool,
}

/// Measures everything, one after the other.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(sh)?;
    cmd!(sh, "cargo build --release --locked --package ringfence --package ringfence-bench").run()?;
    let bench = demo::binary(sh, "release", "ringfence-bench")?;
    let (rounds, changes) = (options.rounds.to_string(), options.changes.to_string());
    let date = cmd!(sh, "date --utc +%Y-%m-%d").quiet().read()?;
    let measure = |program: &PathBuf, arguments: &[&str]| {
        let name = arguments.join(" ");
        cmd!(sh, "{program} {arguments...}").read().with_context(|| format!("measuring {name}"))
    };
    let host = measure(&bench, &["host"])?;
    let traffic = measure(&bench, &["traffic", "--rounds", &rounds])?;
    let alone = measure(&bench, &["changes", "--rounds", &changes])?;
    let crowd = measure(&bench, &["changes", "--rounds", &changes, "--others", "1000"])?;
    let planner = cmd!(sh, "cargo bench --locked --package ringfence-engine --bench planner").read()?;
    let results = format!(
        "Made on {date} by `cargo xtask bench --rounds {rounds} --changes {changes}` on {host}.\n\n\
         ### Packets and connections\n\n{traffic}\n\n\
         ### Reaction\n\n{alone}\n\n\
         With 1,000 more policies on the client:\n\n{crowd}\n\n\
         ### Planner\n\n{planner}"
    );
    println!("{results}");
    if !options.dry {
        let document = sh.read_file(DOCUMENT)?;
        sh.write_file(DOCUMENT, marks::replace(&document, MARKS, &results)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
