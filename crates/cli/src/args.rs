//! The grammar of the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use ringfence_console::exit::CODES;

use crate::{crds, install, lab, observe, status, verify, wait};

/// Network policy for Kubernetes: enforced in the kernel, explained, with a lab.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, after_help = CODES, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A Kubernetes of one's own on this machine, for trying policy
    Lab(lab::Args),
    /// Print or install the definitions of ClusterNetworkPolicy, for clusters that lack them
    #[command(after_help = CODES)]
    Crds(crds::Args),
    /// Install Ringfence in a cluster
    #[command(after_help = CODES)]
    Install(Box<install::Install>),
    /// Roll this version out over the one that is installed
    #[command(after_help = CODES)]
    Upgrade(install::Upgrade),
    /// Take Ringfence away, and leave every node as it was
    #[command(after_help = CODES)]
    Uninstall(install::Uninstall),
    /// Try a matrix of policies in a cluster, with pods of its own
    #[command(after_help = CODES)]
    Verify(verify::Args),
    /// Return when policies are enforced on every node
    #[command(after_help = CODES)]
    Wait(wait::Args),
    /// The status of the agents of a cluster, or of the one of this node
    #[command(after_help = CODES)]
    Status(Box<status::Args>),
    /// Follow the connections of this node's pods
    #[command(after_help = CODES)]
    Observe(observe::Args),
    /// Print the version
    Version,
}

/// The agent of this node.
#[derive(Debug, clap::Args)]
pub(crate) struct Socket {
    /// Socket of the agent
    #[arg(long, value_name = "FILE", default_value = ringfence_api::SOCKET, env = "RINGFENCE_SOCKET")]
    pub(crate) socket: PathBuf,
}

/// Machine-readable forms of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with everything in it
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The arguments, with the name a kubectl plugin is called by where we are called as one.
pub(crate) fn argv(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.into_iter().collect();
    if let Some(name) = args.first().and_then(plugin_name) {
        args[0] = name.into();
    }
    args
}

/// `kubectl-ringfence` is called by kubectl as `kubectl ringfence`.
fn plugin_name(program: &OsString) -> Option<String> {
    let name = PathBuf::from(program).file_name()?.to_str()?.to_owned();
    name.strip_prefix("kubectl-").map(|plugin| format!("kubectl {plugin}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn whatever_comes_after_lab_is_the_labs() {
        for words in [&["up", "--nodes", "3"][..], &["--help"], &["demo", "--", "x"], &[]] {
            let args = Args::try_parse_from([&["ringfence", "lab"], words].concat()).unwrap();
            assert!(matches!(args.command, Command::Lab(_)), "{words:?}");
        }
    }

    #[test]
    fn a_kubectl_plugin_is_called_as_one() {
        let usage = |program: &str| {
            let args = argv([program, "--help"].map(OsString::from));
            Args::try_parse_from(args).unwrap_err().to_string()
        };
        assert!(usage("/usr/bin/kubectl-ringfence").contains("Usage: kubectl ringfence <COMMAND>"));
        assert!(usage("/usr/bin/ringfence").contains("Usage: ringfence <COMMAND>"));
        assert!(usage("ringfence").contains("4 cluster or agent unreachable"));
    }
}
