//! The cluster: one that is there, a lab, or one that is started for this and removed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

use super::steps::undisturbed;
use crate::setup;

/// A cluster of processes of this machine, beside the project.
const LOCAL: &str = "../shared/realk8s";

/// How a cluster that is started shall be.
#[derive(clap::Args)]
pub(crate) struct Shape {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 2)]
    nodes: usize,
    /// Network plugin: `bridge`, `ptp` or `none` (not with kind).
    #[arg(long, value_name = "NAME")]
    cni: Option<String>,
    /// Mode of kube-proxy: `iptables` or `nftables` (not with kind).
    #[arg(long, value_name = "MODE")]
    proxy: Option<String>,
    /// Addresses: `ipv4`, `ipv6` or `dual` (not with kind).
    #[arg(long, value_name = "FAMILY")]
    family: Option<String>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 2, cni: None, proxy: None, family: None }
    }
}

impl Shape {
    /// Two nodes to which no pod gets a network yet.
    pub(crate) fn without_plugin() -> Self {
        Self { cni: Some("none".into()), ..Self::default() }
    }

    fn words(&self) -> Vec<String> {
        let Self { nodes, cni, proxy, family } = self;
        let mut words = vec!["--nodes".to_owned(), nodes.to_string()];
        for (flag, value) in [("--cni", cni), ("--proxy", proxy), ("--family", family)] {
            words.extend(value.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
        }
        words
    }

    /// What differs from the default.
    pub(super) fn told(&self) -> String {
        let words = self.words();
        let skipped = if self.nodes == 2 { 2 } else { 0 };
        std::iter::once("").chain(words[skipped..].iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }
}

/// Where a cluster comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It is there.
    Given(PathBuf),
    /// A lab of our own.
    Lab,
    /// kind, in containers.
    Kind,
    /// Processes of this machine.
    Local,
}

/// A cluster that is there.
pub(crate) struct Cluster {
    source: Source,
    /// What is started for this is called so.
    name: String,
    /// Reaches it.
    pub(super) kubeconfig: PathBuf,
    /// Its directory, if its nodes are namespaces of this machine.
    directory: Option<PathBuf>,
    /// The lab's directory and program.
    lab: Option<(PathBuf, PathBuf)>,
}

/// Finds where a cluster can come from.
pub(crate) fn choose(sh: &Shell, given: Option<&Path>, lab: bool, shape: &Shape) -> anyhow::Result<Source> {
    if lab {
        return Ok(Source::Lab);
    }
    if let Some(path) = given {
        return Ok(Source::Given(path.canonicalize().with_context(|| format!("no kubeconfig {}", path.display()))?));
    }
    let plain = shape.cni.is_none() && shape.proxy.is_none() && shape.family.is_none();
    if plain && setup::has_program(sh, "kind") {
        return Ok(Source::Kind);
    }
    let build = sh.current_dir().join(LOCAL).join("build");
    if !build.exists() {
        bail!("there is no cluster\nhint: set KUBECONFIG, or install kind, or use --lab");
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let cache = std::env::var_os("REALK8S_CACHE").map_or_else(|| home.join(".cache/realk8s"), PathBuf::from);
    let built = sh.read_dir(&cache).unwrap_or_default().iter().any(|path| path.join("coredns").exists());
    if !built {
        bail!("the programs of a cluster are not built yet\nhint: {LOCAL}/build, which takes about 15 minutes once");
    }
    if !setup::is_root(sh) {
        bail!("a cluster of processes of this machine needs root");
    }
    Ok(Source::Local)
}

impl Cluster {
    /// Starts it, if it is not there.
    pub(crate) fn start(sh: &Shell, source: Source, shape: &Shape, ringfence: &Path) -> anyhow::Result<Self> {
        // Short: links are called after it. Ours alone, so that several runs do not meet.
        let name = format!("rf{:x}", std::process::id());
        let state = sh.current_dir().join("target/e2e").join(&name);
        let mut cluster = Self { source: source.clone(), name, kubeconfig: state.clone(), directory: None, lab: None };
        let begun = match source {
            Source::Given(path) => {
                let directory = path.parent().filter(|directory| directory.join("n1/enter").exists());
                cluster.directory = directory.map(Path::to_path_buf);
                cluster.kubeconfig = path;
                Ok(())
            }
            Source::Lab => cluster.start_lab(sh, shape, &state, ringfence),
            Source::Kind => cluster.start_kind(sh, shape, &state),
            Source::Local => cluster.start_local(sh, shape),
        };
        if let Err(error) = begun {
            // What was started before it failed must go as well.
            if let Err(left) = cluster.stop(sh) {
                println!("not removed: {left:#}");
            }
            return Err(error);
        }
        Ok(cluster)
    }

    fn start_lab(&mut self, sh: &Shell, shape: &Shape, state: &Path, ringfence: &Path) -> anyhow::Result<()> {
        let family: &[&str] = match shape.family.as_deref() {
            Some("ipv6") => &["--ipv6"],
            Some("dual") => &["--dual-stack"],
            _ => &[],
        };
        let nodes = shape.nodes.to_string();
        self.lab = Some((state.to_path_buf(), ringfence.to_path_buf()));
        cmd!(sh, "{ringfence} lab --dir {state} up --nodes {nodes} {family...}").quiet().ignore_stdout().run()?;
        let line = cmd!(sh, "{ringfence} lab --dir {state} env").quiet().read()?;
        let path = line.split_once('=').map(|(_, path)| path.trim().trim_matches(['\'', '"']));
        self.kubeconfig = path.context("the lab does not tell its kubeconfig")?.into();
        Ok(())
    }

    fn start_kind(&mut self, sh: &Shell, shape: &Shape, state: &Path) -> anyhow::Result<()> {
        let workers = "- role: worker\n".repeat(shape.nodes.saturating_sub(1));
        let config =
            format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n{workers}");
        let name = &self.name;
        cmd!(sh, "kind create cluster --name {name} --kubeconfig {state} --wait 2m --config -").stdin(config).run()?;
        Ok(())
    }

    /// In a network namespace of its own, since its addresses are always the same.
    fn start_local(&mut self, sh: &Shell, shape: &Shape) -> anyhow::Result<()> {
        let name = &self.name;
        let directory = PathBuf::from("/run/realk8s").join(name);
        self.kubeconfig = directory.join("admin.kubeconfig");
        self.directory = Some(directory.clone());
        cmd!(sh, "ip netns add {name}").quiet().run()?;
        cmd!(sh, "ip -n {name} link set lo up").quiet().run()?;
        let words = shape.words();
        cmd!(sh, "nsenter --net=/run/netns/{name} env REALK8S_RUN={directory} {LOCAL}/up --name {name} {words...}")
            .quiet()
            .ignore_stdout()
            .run()?;
        // Nodes share the machine's /run, and each agent wants its own socket there.
        for node in nodes(&directory) {
            let own = node.join("run-ringfence");
            sh.create_dir(&own)?;
            let script = "mkdir -p /run/ringfence; mount --bind \"$0\" /run/ringfence";
            let enter = node.join("enter");
            cmd!(sh, "{enter} sh -ec {script} {own}").quiet().run()?;
        }
        Ok(())
    }

    /// A program that can reach the cluster.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = match self.source {
            Source::Local => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
                command
            }
            _ => Command::new(program),
        };
        command.env("KUBECONFIG", &self.kubeconfig);
        match &self.directory {
            Some(directory) => command.env("REALK8S_RUN", directory),
            None => command.env_remove("REALK8S_RUN"),
        };
        command
    }

    /// `ringfence` for this cluster.
    pub(crate) fn ringfence(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = self.command(program);
        command.args(words).arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// Its directory, if its nodes are namespaces of this machine.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Puts images on every node, where that can be done from here.
    pub(crate) fn load(&self, sh: &Shell, archives: &[PathBuf]) -> anyhow::Result<()> {
        for archive in archives {
            match (&self.source, &self.directory) {
                (_, Some(directory)) => {
                    for node in nodes(directory) {
                        let socket = node.join("containerd.sock");
                        cmd!(sh, "ctr --address {socket} --namespace k8s.io images import {archive}")
                            .quiet()
                            .ignore_stdout()
                            .run()?;
                    }
                }
                (Source::Kind, None) => {
                    let name = &self.name;
                    cmd!(sh, "kind load image-archive {archive} --name {name}").quiet().run()?;
                }
                _ => println!("{} must be on the nodes already", archive.display()),
            }
        }
        Ok(())
    }

    /// Sees whether nodes are as they were: where they are of this machine.
    pub(super) fn nothing_left(&self) -> anyhow::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let script = "ls -d /sys/fs/bpf/ringfence* /opt/cni/bin/ringfence* /run/ringfence/* 2>/dev/null; \
                      grep -l ringfence /etc/cni/net.d/* 2>/dev/null; nft list tables | grep ringfence; \
                      ip -o link show | grep ringfence; true";
        for node in nodes(directory) {
            let output = Command::new(node.join("enter")).args(["sh", "-c", script]).output()?;
            let left = String::from_utf8_lossy(&output.stdout);
            if !left.trim().is_empty() {
                bail!("left on {}: {}", node.display(), left.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
        Ok(())
    }

    /// Whether it was there, and stays.
    pub(super) fn is_given(&self) -> bool {
        matches!(self.source, Source::Given(_))
    }

    /// Removes what was started, whoever interrupts meanwhile.
    pub(crate) fn stop(&self, sh: &Shell) -> anyhow::Result<()> {
        let name = &self.name;
        match &self.source {
            Source::Given(_) => Ok(()),
            Source::Lab => {
                let (state, ringfence) = self.lab.as_ref().context("a lab without program")?;
                undisturbed(Command::new(ringfence).args(["lab", "--dir"]).arg(state).arg("down"))
            }
            Source::Kind => undisturbed(Command::new("kind").args(["delete", "cluster", "--name", name])),
            Source::Local => {
                let directory = self.directory.as_ref().context("a cluster without directory")?;
                let down = sh.current_dir().join(LOCAL).join("down");
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(down).args(["--name", name]);
                let removed = undisturbed(command.env("REALK8S_RUN", directory));
                // Also what is left of a cluster that did not go well.
                let freed = undisturbed(Command::new("ip").args(["netns", "delete", name]));
                removed.and(freed)
            }
        }
    }

    /// What it is, for the document.
    pub(super) fn told(&self) -> &'static str {
        match (&self.source, &self.directory) {
            (Source::Lab, _) => "a lab",
            (Source::Kind, _) => "kind",
            (_, Some(_)) => "a cluster whose nodes are namespaces of one machine",
            (Source::Given(_) | Source::Local, None) => "a cluster",
        }
    }
}

/// Directories of the nodes of a cluster on this machine.
fn nodes(directory: &Path) -> Vec<PathBuf> {
    (1..=9).map(|number| directory.join(format!("n{number}"))).take_while(|node| node.join("enter").exists()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let shape = |nodes, cni: Option<&str>| Shape { nodes, cni: cni.map(Into::into), proxy: None, family: None };
        assert_eq!(shape(2, None).told(), "");
        assert_eq!(shape(3, Some("none")).told(), " --nodes 3 --cni none");
    }

    #[test]
    fn a_kubeconfig_that_is_not_there_is_named() {
        let sh = Shell::new().unwrap();
        let error = choose(&sh, Some(Path::new("/nowhere/at-all")), false, &Shape::default()).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/at-all"));
    }
}
