//! The `ringfence` command: agent, lab and tooling in one binary.
#![forbid(unsafe_code)]

mod agent;
mod args;
mod cluster;
mod crds;
mod exit;
mod install;
mod lab;
mod logging;
mod observe;
mod output;
mod status;
mod verify;
mod wait;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // The lab's processes start each other by hidden commands, some of which must run before any thread.
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(code) = ringfence_lab::helper::run(&arguments) {
        return ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX));
    }
    let args = args::Args::parse_from(args::argv(std::env::args_os()));
    exit::finish(run(args))
}

fn run(args: args::Args) -> anyhow::Result<exit::Code> {
    match args.command {
        args::Command::Agent(args) => agent::run(*args),
        args::Command::Lab(args) => lab::run(args),
        args::Command::Crds(args) => crds::run(&args),
        args::Command::Install(args) => install::install(&args),
        args::Command::Upgrade(args) => install::upgrade(&args),
        args::Command::Uninstall(args) => install::uninstall(&args),
        args::Command::Verify(args) => verify::run(&args),
        args::Command::Wait(args) => wait::run(&args),
        args::Command::Status(args) => status::run(&args),
        args::Command::Observe(args) => observe::run(&args),
        args::Command::Version => output::line(&format!("ringfence {}", env!("CARGO_PKG_VERSION"))),
    }
}
