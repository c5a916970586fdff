//! `ringfence-agent`: the agent of a node, and the commands that run beside it on that node.
#![forbid(unsafe_code)]

mod args;
mod query;
mod run;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use ringfence_api::ClientError;
use ringfence_console::exit::{self, Code};

use args::{Args, Command};

fn main() -> ExitCode {
    exit::finish(run(Args::parse()), known)
}

fn run(args: Args) -> anyhow::Result<Code> {
    match args.command {
        None => run::run(args.run),
        Some(Command::MountBpf) => run::mount_bpf(),
        Some(Command::Cleanup(cleanup)) => run::clean_up(cleanup),
        Some(Command::Status(status)) => query::status(&status),
        Some(Command::Wait(wait)) => query::wait(&wait),
        Some(Command::Observe(observe)) => query::observe(&observe),
    }
}

/// Exit codes of errors that mean that agent or API server cannot be reached.
fn known(cause: &(dyn Error + 'static)) -> Option<Code> {
    let agent = matches!(cause.downcast_ref(), Some(ClientError::Unreachable { .. } | ClientError::Incomplete(_)));
    (agent || cause.is::<kube::Error>()).then_some(Code::Unreachable)
}
