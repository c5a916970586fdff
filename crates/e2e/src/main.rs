//! Tries Ringfence on a cluster: `ringfence-e2e <what>`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "results and progress are for the person who runs it")]

mod faults;
mod suite;

use std::process::ExitCode;

use clap::Parser;

/// Tries Ringfence on a cluster.
#[derive(Parser)]
#[command(name = "ringfence-e2e")]
enum Command {
    /// Faults of nodes, agents and the control plane, under steady probes; prints a table in Markdown.
    Faults(faults::Options),
    /// Services, nodes and the life of pods under policies, case by case.
    Suite(suite::Options),
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; whether all was well.
fn run(command: Command) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Faults(options) => faults::run(&options).await,
            Command::Suite(options) => Box::pin(suite::run(&options)).await,
        }
    })
}
