//! `bench`: builds the benchmark in release and runs it.

use std::process::ExitCode;

use xshell::Shell;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What the benchmark program shall be told.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the benchmark.
pub(crate) fn run(_sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::bail!("there is nothing to measure yet {:?}", options.rest)
}
