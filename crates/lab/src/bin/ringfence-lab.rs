//! `ringfence-lab`: a Kubernetes of one's own on this machine, for trying policy. People call it as `ringfence lab`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Parser, Subcommand};
use ringfence_console::exit::{self, CODES, Code};
use ringfence_console::logging::{self, LogFormat};
use ringfence_lab::addressing::Families;
use ringfence_lab::place::{DEFAULT_DIRECTORY, Place};
use ringfence_lab::{Options, demo};

/// A Kubernetes of one's own on this machine, for trying policy.
#[derive(Debug, Parser)]
#[command(
    name = "ringfence-lab",
    bin_name = "ringfence lab",
    version,
    after_help = CODES,
    disable_help_subcommand = true
)]
struct Args {
    /// Directory of the lab's state: several labs can be up at a time, each in a directory of its own
    /// [default: /run/ringfence-lab; of the tour, a directory that goes with it]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a lab and wait until it is ready
    Up(Up),
    /// Remove everything of the lab
    Down,
    /// Tell how the lab is
    Status,
    /// Print the shell's line that points kubectl to the lab
    Env,
    /// Take a tour of network policy with real packets
    Demo(Demo),
    /// Serve a lab (started by `up`)
    #[command(hide = true)]
    Serve {
        /// Options of the lab, as JSON
        options: String,
    },
}

/// Options of the lab.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("families").args(["ipv6", "dual_stack"])))]
struct Up {
    /// The number of nodes
    #[arg(long, value_name = "N", default_value_t = Options::default().nodes)]
    nodes: usize,
    /// IPv6 alone
    #[arg(long)]
    ipv6: bool,
    /// IPv4 and IPv6
    #[arg(long)]
    dual_stack: bool,
    /// No agents: a cluster without network policy, to compare with
    #[arg(long)]
    without_agents: bool,
    /// Port of the API on 127.0.0.1 [default: 6443, or a free one]
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
}

/// Options of the tour.
#[derive(Debug, clap::Args)]
struct Demo {
    /// Take it in this cluster instead of a lab of its own
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The number of nodes its own lab has
    #[arg(long, value_name = "N", default_value_t = 2)]
    nodes: usize,
    /// Make the requests without kubectl, even where it is installed
    #[arg(long)]
    without_kubectl: bool,
}

fn main() -> ExitCode {
    // The lab's processes start each other by hidden commands, some of which must run before any thread.
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(code) = ringfence_lab::helper::run(&arguments) {
        return ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX));
    }
    exit::finish(run(Args::parse()), known)
}

/// Exit codes of errors that mean that a cluster cannot be reached.
fn known(cause: &(dyn Error + 'static)) -> Option<Code> {
    cause.is::<kube::Error>().then_some(Code::Unreachable)
}

fn run(args: Args) -> anyhow::Result<Code> {
    let place = Place::at(args.dir.clone().unwrap_or_else(|| DEFAULT_DIRECTORY.into()));
    let (mut out, mut progress) = (io::stdout(), io::stderr());
    match args.command {
        Command::Up(up) => ringfence_lab::up(&place, &options(&up), &mut out, &mut progress)?,
        Command::Down => ringfence_lab::down(&place, &mut out)?,
        Command::Env => ringfence_lab::environment(&place, &mut out)?,
        Command::Status => {
            return Ok(if ringfence_lab::status(&place, &mut out)? { Code::Ok } else { Code::Negative });
        }
        Command::Demo(demo) => return take_tour(demo, args.dir),
        Command::Serve { options } => {
            logging::start(LogFormat::Text);
            let options = serde_json::from_str(&options).context("options of the lab")?;
            ringfence_lab::serve(&place, &options)?;
        }
    }
    Ok(Code::Ok)
}

fn options(up: &Up) -> Options {
    let families = match (up.ipv6, up.dual_stack) {
        (true, _) => Families::Ipv6,
        (_, true) => Families::DualStack,
        _ => Families::Ipv4,
    };
    Options { nodes: up.nodes, families, agents: !up.without_agents, api_port: up.api_port }
}

fn take_tour(demo: Demo, directory: Option<PathBuf>) -> anyhow::Result<Code> {
    let Demo { kubeconfig, nodes, without_kubectl } = demo;
    let options = demo::Options { kubeconfig, directory, nodes, without_kubectl };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let well = runtime.block_on(demo::run(&options, &mut io::stdout()))?;
    Ok(if well { Code::Ok } else { Code::Negative })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["ringfence-lab", "down", "--dir", "/run/x"]).unwrap();
        assert_eq!(args.dir.as_deref(), Some(std::path::Path::new("/run/x")));
    }
}
