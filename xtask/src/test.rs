//! `test`: every test of the workspace, and one line that sums them up.

mod tally;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use xshell::Shell;

use crate::setup;
use tally::Tally;

/// The tests, and their number of cases.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The number of generated cases the differential tests try.
    #[arg(long, value_name = "N")]
    cases: Option<u64>,
    /// Only this package.
    #[arg(long, short, value_name = "NAME")]
    package: Option<String>,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs the tests; the exit code says whether all passed.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run_for_tests(sh)?;
    if !setup::is_root(sh) {
        println!("not root: tests that load kernel programs or make network namespaces will be skipped");
    }
    let tally = cargo_test(sh, options)?;
    for skip in &tally.skips {
        println!("skipped {skip}");
    }
    for failure in &tally.failures {
        println!("FAILED {failure}");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo test` over the workspace, its output passed on and counted.
fn cargo_test(sh: &Shell, options: &Options) -> anyhow::Result<Tally> {
    let mut command = Command::new("cargo");
    command.args(["test", "--locked", "--no-fail-fast"]).current_dir(sh.current_dir()).stdout(Stdio::piped());
    match &options.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.args(&options.filter).args(["--", "--show-output"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = std::iter::once(sh.current_dir().join(setup::TOOLS));
    command.env("PATH", std::env::join_paths(std::env::split_paths(&path).chain(tools))?);
    if let Some(cases) = options.cases {
        command.env("RINGFENCE_CASES", cases.to_string());
    }
    let mut child = command.spawn().context("cargo could not be started")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut tally = Tally::default();
    let mut terminal = std::io::stdout().lock();
    for line in BufReader::new(output).lines() {
        let line = line?;
        if tally.read(&line) {
            writeln!(terminal, "{line}")?;
        }
    }
    tally.finish(child.wait()?.success());
    Ok(tally)
}
