//! Every chore of the project: `cargo xtask <chore>`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "chores talk to the person who runs them")]

mod bench;
mod cluster;
mod conformance;
mod demo;
mod e2e;
mod image;
mod install;
mod lint;
mod marks;
mod release;
mod setup;
mod test;
mod tidy;
mod tools;

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
    /// Start and end a Kubernetes cluster of processes of this machine, for `e2e` and `bench --cluster`, or to look at.
    Cluster(cluster::Options),
    /// Try Ringfence on a cluster, from installing to uninstalling, or what it does under faults.
    E2e(e2e::Options),
    /// Make a container image, as an OCI archive.
    Image(image::Options),
    /// Build the programs in release and put them on the PATH.
    Install(install::Options),
    /// Make everything that a release of this architecture has.
    Release(release::Options),
    /// Check formatting, run clippy, check licences and sources of dependencies, and the workflows.
    Lint(lint::Options),
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
        Chore::Cluster(options) => cluster::run(&sh, &options),
        Chore::E2e(options) => e2e::run(&sh, &options),
        Chore::Image(options) => image::run(&sh, &options),
        Chore::Install(options) => install::run(&sh, &options),
        Chore::Release(options) => release::run(&sh, &options),
        Chore::Lint(options) => lint::run(&sh, &options),
        Chore::Tidy => tidy::run(&sh),
    }
}
