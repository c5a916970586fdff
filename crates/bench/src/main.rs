//! Measures what policies cost per packet and connection, and how fast a change takes effect.
//!
//! Prints Markdown on standard output and progress on standard error.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "results and progress are for the person who runs it")]

mod changes;
mod cluster;
mod figures;
mod host;
mod leftovers;
mod nft;
mod packet;
mod policies;
mod side_by_side;
mod traffic;

use std::process::ExitCode;

use clap::Parser;

/// Measures what policies cost, and how fast a change takes effect. Needs root.
#[derive(Parser)]
#[command(name = "ringfence-bench")]
enum Command {
    /// Throughput, latency and connections per second with no engine, with Ringfence and with nftables rules.
    Traffic(traffic::Options),
    /// Cost of a packet in the kernel program, without the network around it.
    Packet(packet::Options),
    /// Time from the API's answer to a change until the first packet decided by it, in a lab.
    Changes(changes::Options),
    /// All of it on a cluster whose nodes run on this machine, and what else there is to measure only there.
    Cluster(cluster::Options),
    /// Description of this machine, for the head of a report.
    Host,
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Traffic(options) => traffic::run(&options),
        Command::Packet(options) => packet::run(&options),
        Command::Changes(options) => changes::run(&options),
        Command::Cluster(options) => cluster::run(&options),
        Command::Host => Ok(host::describe()),
    };
    match result {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
