//! `ringfence agent`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use ringfence_agent::{Chain, Config, Connections, Encapsulation, Primary, WithoutRoom};

use crate::exit::Code;
use crate::logging::{self, LogFormat};

/// Where links and maps are pinned, unless told otherwise.
const PIN_DIR: &str = "/sys/fs/bpf/ringfence";

/// Where runtimes look for network configurations.
const CONF_DIR: &str = "/etc/cni/net.d";

/// How long an agent may take to end that was told to.
const ENDING: Duration = Duration::from_mins(1);

/// Port of DNS.
const DNS_PORT: u16 = 53;

/// `ringfence agent`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Mount /sys/fs/bpf, where the node has not done so: before an agent that may not
    MountBpf,
    /// Take down the enforcement an agent left standing
    Cleanup {
        /// Where links and maps are pinned
        #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
        pin_dir: PathBuf,
        /// Socket of the agent, which is not to come back. If given, it, what is kept beside it, and its directory are
        /// removed [default: what is kept beside the usual one is used, and left]
        #[arg(long, value_name = "FILE")]
        socket: Option<PathBuf>,
        #[command(flatten)]
        plugin: Plugin,
    },
}

/// The network plugin.
#[derive(Debug, clap::Args)]
struct Plugin {
    /// Put the network plugin into the configurations here, so that pods start when their policy is in the kernel
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Where network plugins are
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
}

impl Plugin {
    fn chain(self) -> Option<Chain> {
        let Self { cni_conf_dir, cni_bin_dir: bin_dir } = self;
        Some(Chain { conf_dir: cni_conf_dir?, bin_dir })
    }
}

/// How to run.
#[derive(Debug, clap::Args)]
struct Run {
    /// Name of this node [default: the host name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: Option<String>,
    /// Kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the service account of the pod this runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where links and maps are pinned
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pin_dir: PathBuf,
    /// Unix socket to answer on
    #[arg(long, value_name = "FILE", default_value = ringfence_agent::client::SOCKET)]
    socket: PathBuf,
    /// Serve Prometheus metrics and probes on this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// What happens to open connections that a change of policy denies
    #[arg(long, value_enum, default_value_t = OpenConnections::Cut)]
    connections: OpenConnections,
    /// What becomes of pods whose policies do not fit into the kernel maps
    #[arg(long, value_enum, default_value_t = WhenFull::Deny)]
    without_room: WhenFull,
    /// Room in a kernel map, as NAME=ENTRIES; `ringfence status -o wide` lists them
    #[arg(long = "map-size", value_name = "NAME=ENTRIES", value_parser = map_size)]
    map_sizes: Vec<(String, u32)>,
    /// Report connections that are let through too, for `ringfence observe`
    #[arg(long)]
    report_allowed: bool,
    #[command(flatten)]
    plugin: Plugin,
    /// Be the network plugin, for a cluster that has none: pods are joined by standard plugins, nodes by routes
    #[arg(long)]
    primary: bool,
    /// With --primary: to which nodes packets of pods go through VXLAN
    #[arg(long, value_enum, default_value_t = Encapsulated::CrossSubnet, requires = "primary")]
    encapsulation: Encapsulated,
    /// With --primary: where standard network plugins are that are missing on the node
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/cni", requires = "primary")]
    cni_plugins_dir: PathBuf,
    /// Take enforcement down when stopping, instead of leaving it standing
    #[arg(long)]
    detach: bool,
    /// Service of the cluster's DNS: what the servers behind it answer is believed, for rules with `domainNames`
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service, default_value = "kube-system/kube-dns")]
    dns_service: (String, String),
    /// Domain that the cluster's own names are below: rules with `domainNames` open addresses inside of the cluster by
    /// such names only [default: as the resolver of this process has it, else cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// Namespace of the agents: the Lease by which they elect who writes about policies is there
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "kube-system")]
    namespace: String,
    /// Another DNS server to believe, such as a cache on the nodes; may be repeated
    #[arg(long = "dns-server", value_name = "ADDRESS[:PORT]", value_parser = dns_server)]
    dns_servers: Vec<SocketAddr>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// To which nodes packets of pods go through VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Encapsulated {
    /// To those on no common link
    CrossSubnet,
    /// To all
    Always,
}

/// What happens to open connections that a change of policy denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OpenConnections {
    /// They end with their next packet
    Cut,
    /// They go on until they end by themselves
    Drain,
}

/// What becomes of pods whose policies do not fit into the kernel maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhenFull {
    /// Nothing passes, in the direction that the policies govern
    Deny,
    /// They keep the policies they had; new pods are denied
    Keep,
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

/// Runs the agent, or cleans up after one.
pub(crate) fn run(args: Args) -> anyhow::Result<Code> {
    logging::start(args.run.log_format);
    match args.command {
        Some(Command::MountBpf) => {
            let mounted = ringfence_agent::mount_bpf()?;
            tracing::info!("/sys/fs/bpf {}", if mounted { "is mounted now" } else { "was mounted already" });
        }
        Some(Command::Cleanup { pin_dir, socket, plugin }) => clean_up(&pin_dir, socket.as_deref(), plugin)?,
        None => {
            let config = config(args.run)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(ringfence_agent::run(config))?;
        }
    }
    Ok(Code::Ok)
}

fn clean_up(pin_dir: &Path, socket: Option<&Path>, plugin: Plugin) -> anyhow::Result<()> {
    if let Some(socket) = socket {
        // What it still does would be left.
        ringfence_agent::wait_for_end(socket, ENDING)?;
    }
    // First the plugin: without it pods start unguarded no sooner than they would anyway.
    if let Some(chain) = plugin.chain() {
        ringfence_agent::unchain(&chain).context("cannot remove the network plugin")?;
    }
    let beside = socket.unwrap_or_else(|| Path::new(ringfence_agent::client::SOCKET));
    ringfence_agent::unroute(beside).context("cannot remove the routes between nodes")?;
    ringfence_agent::cleanup(pin_dir)?;
    socket.map_or(Ok(()), ringfence_agent::forget)
}

fn config(run: Run) -> anyhow::Result<Config> {
    let Run {
        node,
        kubeconfig,
        pin_dir,
        socket,
        metrics,
        connections,
        without_room,
        map_sizes,
        report_allowed,
        mut plugin,
        primary,
        encapsulation,
        cni_plugins_dir: plugins,
        detach,
        dns_service,
        cluster_domain,
        namespace,
        dns_servers,
        log_format: _,
    } = run;
    let node = match node {
        Some(node) => node,
        None => host_name().context("cannot tell the name of this node; hint: --node NAME")?,
    };
    let encapsulation = match encapsulation {
        Encapsulated::CrossSubnet => Encapsulation::CrossSubnet,
        Encapsulated::Always => Encapsulation::Always,
    };
    let primary = primary.then_some(Primary { encapsulation, plugins });
    if primary.is_some() {
        plugin.cni_conf_dir.get_or_insert_with(|| CONF_DIR.into());
    }
    let chain = plugin.chain();
    let connections = match connections {
        OpenConnections::Cut => Connections::Cut,
        OpenConnections::Drain => Connections::Drain,
    };
    let without_room = match without_room {
        WhenFull::Deny => WithoutRoom::Deny,
        WhenFull::Keep => WithoutRoom::Keep,
    };
    Ok(Config {
        node,
        kubeconfig,
        pin_dir,
        socket,
        metrics,
        connections,
        without_room,
        map_sizes,
        report_allowed,
        chain,
        primary,
        detach,
        dns_service,
        cluster_domain,
        namespace,
        dns_servers,
    })
}

/// The host name as the kubelet makes a node name of it: in lower case.
fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname()?;
    let name = name.into_string().map_err(|name| anyhow::anyhow!("host name {} is not text", name.display()))?;
    Ok(name.trim().to_lowercase())
}
