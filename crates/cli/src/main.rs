//! The `ringfence` command, for people: installs Ringfence in a cluster, and tells how it is there.
#![forbid(unsafe_code)]

mod args;
mod cluster;
mod crds;
mod install;
mod known;
mod lab;
mod observe;
mod status;
mod verify;
mod wait;

use std::process::ExitCode;

use clap::Parser as _;
use ringfence_console::{exit, output};

use known::known;

fn main() -> ExitCode {
    let args = args::Args::parse_from(args::argv(std::env::args_os()));
    exit::finish(run(args), known)
}

fn run(args: args::Args) -> anyhow::Result<exit::Code> {
    match args.command {
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
