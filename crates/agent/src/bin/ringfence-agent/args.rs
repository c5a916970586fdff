//! The grammar of the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use ringfence_agent::Chain;
use ringfence_api::wanted::Wanted;
use ringfence_api::{Connections, OverCapacity, SOCKET};
use ringfence_console::exit::CODES;
use ringfence_console::logging::LogFormat;

/// Directory of pinned links and maps, unless told otherwise.
pub(crate) const PIN_DIR: &str = "/sys/fs/bpf/ringfence";

/// Port of DNS.
const DNS_PORT: u16 = 53;

/// The agent of a node: enforces the cluster's network policies in the kernel.
#[derive(Debug, Parser)]
#[command(
    name = "ringfence-agent",
    version,
    after_help = CODES,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: Run,
}

/// The commands that run beside an agent.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mount /sys/fs/bpf on a node that has not done so: for a privileged container that ends before the agent starts
    MountBpf,
    /// Remove the enforcement that an agent left standing
    Cleanup(Cleanup),
    /// Print the status of the agent of this node as JSON
    Status(Status),
    /// Return when policies are enforced on this node
    Wait(Wait),
    /// Print the connections of this node's pods, until interrupted
    Observe(Observe),
}

/// Arguments of `cleanup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cleanup {
    /// Directory of pinned links and maps
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pub(crate) pin_dir: PathBuf,
    /// Socket of an agent that does not come back: the socket, the files beside it and their directory are removed
    /// [default: the files beside the usual socket are used, and left]
    #[arg(long, value_name = "FILE")]
    pub(crate) socket: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) plugin: Plugin,
}

/// The agent that is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Socket {
    /// Socket of the agent
    #[arg(long, value_name = "FILE", default_value = SOCKET, env = "RINGFENCE_SOCKET")]
    pub(crate) socket: PathBuf,
}

/// Form of a machine-readable result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON
    Json,
}

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "json")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

/// The policies to wait for.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Policies, as KIND/NAMESPACE/NAME@UID:GENERATION; without generation for one that is to be gone
    #[arg(required = true)]
    pub(crate) wanted: Vec<Wanted>,
    /// Longest time to wait, in milliseconds
    #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "30000ms")]
    pub(crate) timeout: Duration,
    /// Accepted for callers that speak to agents of earlier versions too
    #[arg(long, hide = true)]
    pub(crate) here: bool,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

/// Arguments of `observe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Observe {
    /// Only denied and cut connections
    #[arg(long)]
    pub(crate) denied: bool,
    /// One JSON object a line
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

/// A time such as `250ms`.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").and_then(|number| number.parse().ok());
    number.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is no time; hint: 250ms"))
}

/// The network plugin.
#[derive(Debug, clap::Args)]
pub(crate) struct Plugin {
    /// Put the network plugin into the configurations here, so that pods start when their policy is in the kernel
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Directory of network plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
}

impl Plugin {
    pub(crate) fn chain(self) -> Option<Chain> {
        let Self { cni_conf_dir, cni_bin_dir: bin_dir } = self;
        Some(Chain { conf_dir: cni_conf_dir?, bin_dir })
    }
}

/// Options of the agent itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Name of this node [default: the host name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the service account of the pod this runs in]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Directory of pinned links and maps
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pub(crate) pin_dir: PathBuf,
    /// Unix socket to answer on
    #[arg(long, value_name = "FILE", default_value = ringfence_api::SOCKET)]
    pub(crate) socket: PathBuf,
    /// Serve Prometheus metrics and probes on this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Fate of open connections that a change of policy denies
    #[arg(long, value_enum, default_value_t)]
    pub(crate) connections: Connections,
    /// Fate of pods whose policies do not fit into the kernel maps
    #[arg(long, value_enum, default_value_t)]
    pub(crate) over_capacity: OverCapacity,
    /// Number of entries of a kernel map, as NAME=ENTRIES; `ringfence-agent status` lists the maps
    #[arg(long = "map-size", value_name = "NAME=ENTRIES", value_parser = map_size)]
    pub(crate) map_sizes: Vec<(String, u32)>,
    /// Report connections that are let through too, for `ringfence observe`
    #[arg(long)]
    pub(crate) report_allowed: bool,
    #[command(flatten)]
    pub(crate) plugin: Plugin,
    /// Be the network plugin, for a cluster that has none: pods are joined by standard plugins, nodes by routes
    #[arg(long)]
    pub(crate) primary: bool,
    /// With --primary: to which nodes packets of pods go through VXLAN
    #[arg(long, value_enum, default_value_t = Encapsulated::CrossSubnet, requires = "primary")]
    pub(crate) encapsulation: Encapsulated,
    /// With --primary: where standard network plugins are that are missing on the node
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/cni", requires = "primary")]
    pub(crate) cni_plugins_dir: PathBuf,
    /// Take enforcement down when stopping, instead of leaving it standing
    #[arg(long)]
    pub(crate) detach: bool,
    /// Service of the cluster's DNS: what the servers behind it answer is believed, for rules with `domainNames`
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service, default_value = "kube-system/kube-dns")]
    pub(crate) dns_service: (String, String),
    /// Domain that the cluster's own names are below: rules with `domainNames` open addresses inside of the cluster by
    /// such names only [default: as the resolver of this process has it, else cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) cluster_domain: Option<String>,
    /// Namespace of the agents: the Lease by which they elect who writes about policies is there
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "kube-system")]
    pub(crate) namespace: String,
    /// Another DNS server to believe, such as a cache on the nodes; may be repeated
    #[arg(long = "dns-server", value_name = "ADDRESS[:PORT]", value_parser = dns_server)]
    pub(crate) dns_servers: Vec<SocketAddr>,
    /// Format of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// To which nodes packets of pods go through VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encapsulated {
    /// To those on no common link
    CrossSubnet,
    /// To all
    Always,
}

fn map_size(text: &str) -> Result<(String, u32), String> {
    let (name, entries) = text.split_once('=').ok_or("expected NAME=ENTRIES")?;
    let entries = entries.parse().map_err(|error| format!("{entries:?} is not a number of entries: {error}"))?;
    Ok((name.to_owned(), entries))
}

fn service(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').ok_or("expected NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let address = |text: &str| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    text.parse().or_else(|_no_port| address(text)).map_err(|error| format!("{text:?} is no address: {error}"))
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
    fn without_a_command_it_is_the_agent() {
        let args = Args::try_parse_from(["ringfence-agent", "--node", "n", "--over-capacity=keep"]).unwrap();
        assert!(args.command.is_none());
        assert_eq!((args.run.node.as_deref(), args.run.over_capacity), (Some("n"), OverCapacity::Keep));
        let wait = ["ringfence-agent", "wait", "--here", "--timeout", "250ms", "NetworkPolicy/shop/web@1-2:7"];
        let Some(Command::Wait(wait)) = Args::try_parse_from(wait).unwrap().command else { panic!("no wait") };
        assert_eq!(wait.timeout, Duration::from_millis(250));
    }
}
