//! `cluster`: a real Kubernetes cluster of processes of this machine, without containers around its nodes.
//!
//! ```text
//! network namespace NAME      etcd, kube-apiserver, kube-controller-manager, kube-scheduler, registry; a bridge
//! network namespace NAME-n1   a node: containerd, kubelet, kube-proxy, with mounts of its own
//! network namespace NAME-n2   …
//! ```
//!
//! Kubernetes and CoreDNS are built from Go modules, everything else comes from the distribution's packages. Nothing
//! touches the machine's own network, and clusters of different names do not meet.

mod addresses;
mod components;
mod control_groups;
mod images;
mod network;
mod node;
mod pki;
mod process;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use xshell::Shell;

use crate::setup;
use addresses::Addresses;
pub(crate) use node::Node;
pub(crate) use programs::are_built;

/// Where directories of clusters are.
const DIRECTORY: &str = "/run/ringfence-cluster";
/// Cluster DNS, with `ADDRESS` in place of its Service's address.
const DNS: &str = include_str!("../cluster/dns.yaml");

/// What to do with a cluster.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
    /// Name of the cluster, which begins the names of its namespaces and links: nine characters at most.
    #[arg(long, global = true, default_value = "rfcluster")]
    name: String,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Build the programs and images that a cluster needs (15 minutes the first time).
    Build,
    /// Start a cluster, and print how to reach it.
    Up(Shape),
    /// Put archives of images on every node.
    Load {
        /// OCI archives, or archives of `docker save`.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// End the cluster and remove all of it.
    Down,
}

/// How a cluster that is started shall be.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: u8,
    /// Network plugin (not with kind).
    #[arg(long, value_enum)]
    pub(crate) cni: Option<Cni>,
    /// Mode of kube-proxy (not with kind).
    #[arg(long, value_enum)]
    pub(crate) proxy: Option<Proxy>,
    /// Families of addresses (not with kind).
    #[arg(long, value_enum)]
    pub(crate) family: Option<Family>,
}

/// The network plugin of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cni {
    /// The standard plugin `bridge`
    Bridge,
    /// The standard plugin `ptp`: packets to pods are routed
    Ptp,
    /// None: nodes wait for somebody to bring one
    None,
}

/// The mode of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// Rules of iptables
    Iptables,
    /// Rules of nftables
    Nftables,
    /// No kube-proxy runs, so there are no Services
    None,
}

/// Families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
    /// Both
    Dual,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 2, cni: None, proxy: None, family: None }
    }
}

impl Shape {
    /// Two nodes to which no pod gets a network yet.
    pub(crate) fn without_plugin() -> Self {
        Self { cni: Some(Cni::None), ..Self::default() }
    }

    /// Whether any cluster of so many nodes will do.
    pub(crate) fn is_plain(&self) -> bool {
        self.cni.is_none() && self.proxy.is_none() && self.family.is_none()
    }

    /// The flags that make a cluster of this shape, as far as they differ from the default.
    pub(crate) fn flags(&self) -> String {
        let Self { nodes, cni, proxy, family } = self;
        let mut flags = if *nodes == 2 { String::new() } else { format!(" --nodes {nodes}") };
        let name = |value: clap::builder::PossibleValue| value.get_name().to_owned();
        let named = [
            ("cni", cni.as_ref().and_then(ValueEnum::to_possible_value).map(name)),
            ("proxy", proxy.as_ref().and_then(ValueEnum::to_possible_value).map(name)),
            ("family", family.as_ref().and_then(ValueEnum::to_possible_value).map(name)),
        ];
        for (flag, value) in named {
            flags.extend(value.map(|value| format!(" --{flag} {value}")));
        }
        flags
    }
}

/// Carries out a chore about a cluster.
pub(crate) fn run(sh: &Shell, options: &Options) -> anyhow::Result<ExitCode> {
    let cluster = Local::named(&options.name)?;
    match &options.action {
        Action::Build => drop(programs::build(sh)?),
        Action::Up(shape) => {
            if let Err(error) = cluster.up(sh, shape) {
                cluster.down()?;
                return Err(error);
            }
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            println!(
                "# Its API server is in the network namespace {0}: nsenter --net=/run/netns/{0} kubectl …",
                cluster.name
            );
        }
        Action::Load { archives } => archives.iter().try_for_each(|archive| cluster.load(archive))?,
        Action::Down => cluster.down()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A cluster of this machine, whether it is up or not.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    name: String,
    directory: PathBuf,
}

impl Local {
    /// The cluster of a name.
    ///
    /// # Errors
    /// Links cannot be called after it.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if name.is_empty() || name.len() > 9 || !plain {
            bail!("{name:?} cannot be the name of a cluster\nhint: up to nine small letters and digits");
        }
        Ok(Self { name: name.to_owned(), directory: Path::new(DIRECTORY).join(name) })
    }

    /// Its directory: `pid/COMPONENT`, `log/COMPONENT.log`, `admin.kubeconfig`, and `nN` for each node.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reaches it, from its network namespace.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// A command in the network namespace of the control plane, from which API server and nodes are reached.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// Starts it.
    ///
    /// # Errors
    /// Something is missing, or did not come up; what was started stays until [`Self::down`].
    pub(crate) fn up(&self, sh: &Shell, shape: &Shape) -> anyhow::Result<()> {
        if !setup::is_root(sh) {
            bail!("a cluster of processes of this machine needs root\nhint: run this as root");
        }
        if self.directory.exists() {
            bail!("{} is there already\nhint: cargo xtask cluster down --name {}", self.directory.display(), self.name);
        }
        let programs = programs::build(sh)?;
        for part in ["pid", "log", "pki", "etcd"] {
            fs::create_dir_all(self.directory.join(part))
                .with_context(|| format!("cannot make {}", self.directory.display()))?;
        }
        let addresses = Addresses::of(shape.family.unwrap_or(Family::Ipv4));
        network::prepare(self, &addresses)?;
        pki::prepare(self, &addresses)?;
        components::start_control_plane(self, &programs, &addresses)?;
        for number in 1..=shape.nodes {
            Node { cluster: self, number }.start(&programs, &addresses, shape)?;
        }
        let dns = DNS.replace("ADDRESS", &addresses.dns());
        components::apply(self, &programs, &dns)?;
        if shape.cni != Some(Cni::None) {
            network::route(self, shape.nodes, &addresses)?;
            components::await_ready(self, &programs, shape.proxy != Some(Proxy::None))?;
        }
        Ok(())
    }

    /// Ends and removes it, also what is left of one that did not come up.
    ///
    /// # Errors
    /// Something could not be removed.
    pub(crate) fn down(&self) -> anyhow::Result<()> {
        for component in ["kube-proxy", "kubelet", "scheduler", "controller-manager"] {
            process::end(&self.directory, component);
        }
        let nodes = self.nodes();
        nodes.iter().for_each(Node::end_pods);
        process::end(&self.directory, "");
        for node in &nodes {
            node.remove()?;
        }
        network::remove(self)?;
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)
                .with_context(|| format!("cannot remove {}", self.directory.display()))?;
        }
        Ok(())
    }

    /// Puts images on every node.
    pub(crate) fn load(&self, archive: &Path) -> anyhow::Result<()> {
        self.nodes().iter().try_for_each(|node| node.load(archive))
    }

    /// The nodes that were made.
    pub(crate) fn nodes(&self) -> Vec<Node<'_>> {
        let nodes = (1..=9).map(|number| Node { cluster: self, number });
        nodes.take_while(|node| node.directory().exists()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_that_differ_are_named() {
        assert_eq!(Shape::default().flags(), "");
        let shape = Shape { nodes: 3, family: Some(Family::Dual), ..Shape::without_plugin() };
        assert_eq!(shape.flags(), " --nodes 3 --cni none --family dual");
    }

    #[test]
    fn names_fit_into_names_of_links() {
        assert!(Local::named("rf3f2a1").is_ok());
        assert!(Local::named("a-long-name").is_err());
        assert!(Local::named("").is_err());
    }

    #[test]
    fn dns_is_told_its_address() {
        assert_eq!(DNS.matches("ADDRESS").count(), 1);
    }
}
