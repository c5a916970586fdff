//! Every chore of the project: `cargo xtask <chore>`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "chores talk to the person who runs them")]

mod bench;
mod conformance;
mod demo;
mod e2e;
mod image;
mod lint;
mod marks;
mod setup;
mod test;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use xshell::Shell;

/// Every chore of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Build Ringfence and take the tour in a lab of its own (needs root).
    Demo(demo::Options),
    /// Run every test; what this machine cannot run is skipped, saying why.
    Test(test::Options),
    /// Measure throughput, connection rate, reaction time and planner, and write docs/performance.md.
    Bench(bench::Options),
    /// Run the upstream's conformance suites against a cluster, and write their reports.
    Conformance(conformance::Options),
    /// Try Ringfence on a cluster, from installing to uninstalling, or what it does under faults.
    E2e(e2e::Options),
    /// Make a container image, as an OCI archive.
    Image(image::Options),
    /// Check formatting and run clippy.
    Lint,
    /// Check the rules of the code base that no compiler checks.
    Tidy,
}

fn main() -> ExitCode {
    match run(Chore::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<ExitCode> {
    let sh = Shell::new()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is not inside the workspace")?;
    sh.change_dir(root);
    match chore {
        Chore::Demo(options) => demo::run(&sh, &options),
        Chore::Test(options) => test::run(&sh, &options),
        Chore::Bench(options) => bench::run(&sh, &options),
        Chore::Conformance(options) => conformance::run(&sh, &options),
        Chore::E2e(options) => e2e::run(&sh, &options),
        Chore::Image(options) => image::run(&sh, &options),
        Chore::Lint => lint::run(&sh),
        Chore::Tidy => tidy::run(&sh),
    }
}
