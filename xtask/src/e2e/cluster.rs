//! The cluster: one that is there, a lab, or one that is started for this and removed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

use super::steps::undisturbed;
use crate::cluster::{Family, Local, Shape, are_built};
use crate::setup;

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

/// The directory of a cluster on this machine, for programs that are told of it: its processes and its nodes.
const DIRECTORY_VARIABLE: &str = "RINGFENCE_CLUSTER_DIR";

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
    /// The cluster of this machine, if it was started for this.
    local: Option<Local>,
}

/// Finds where a cluster can come from; `may_build`: also if that takes a quarter of an hour.
pub(crate) fn choose(
    sh: &Shell,
    given: Option<&Path>,
    lab: bool,
    shape: &Shape,
    may_build: bool,
) -> anyhow::Result<Source> {
    if lab {
        return Ok(Source::Lab);
    }
    if let Some(path) = given {
        return Ok(Source::Given(path.canonicalize().with_context(|| format!("no kubeconfig {}", path.display()))?));
    }
    if shape.is_plain() && setup::has_program(sh, "kind") {
        return Ok(Source::Kind);
    }
    if !setup::is_root(sh) {
        bail!("a cluster of processes of this machine needs root\nhint: set KUBECONFIG, or install kind, or use --lab");
    }
    if !may_build && !are_built() {
        bail!("the programs of a cluster are not built\nhint: cargo xtask cluster build takes 15 minutes once");
    }
    Ok(Source::Local)
}

impl Cluster {
    /// Starts it, if it is not there.
    pub(crate) fn start(sh: &Shell, source: Source, shape: &Shape, ringfence: &Path) -> anyhow::Result<Self> {
        // Short: links are called after it. Ours alone, so that several runs do not meet.
        let name = format!("rf{:x}", std::process::id());
        let state = sh.current_dir().join("target/e2e").join(&name);
        let mut cluster =
            Self { source: source.clone(), name, kubeconfig: state.clone(), directory: None, lab: None, local: None };
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
            if let Err(left) = cluster.stop() {
                println!("not removed: {left:#}");
            }
            return Err(error);
        }
        Ok(cluster)
    }

    fn start_lab(&mut self, sh: &Shell, shape: &Shape, state: &Path, ringfence: &Path) -> anyhow::Result<()> {
        let family: &[&str] = match shape.family {
            Some(Family::Ipv6) => &["--ipv6"],
            Some(Family::Dual) => &["--dual-stack"],
            Some(Family::Ipv4) | None => &[],
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
        let workers = "- role: worker\n".repeat(usize::from(shape.nodes.saturating_sub(1)));
        let config =
            format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n{workers}");
        let name = &self.name;
        cmd!(sh, "kind create cluster --name {name} --kubeconfig {state} --wait 2m --config -").stdin(config).run()?;
        Ok(())
    }

    fn start_local(&mut self, sh: &Shell, shape: &Shape) -> anyhow::Result<()> {
        let local = Local::named(&self.name)?;
        self.kubeconfig = local.kubeconfig();
        self.directory = Some(local.directory().to_path_buf());
        self.local = Some(local.clone());
        local.up(sh, shape)
    }

    /// A program that can reach the cluster.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = self.local.as_ref().map_or_else(|| Command::new(program), |local| local.command(program));
        command.env("KUBECONFIG", &self.kubeconfig);
        match &self.directory {
            Some(directory) => command.env(DIRECTORY_VARIABLE, directory),
            None => command.env_remove(DIRECTORY_VARIABLE),
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
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        let name = &self.name;
        match &self.source {
            Source::Given(_) => Ok(()),
            Source::Lab => {
                let (state, ringfence) = self.lab.as_ref().context("a lab without program")?;
                undisturbed(Command::new(ringfence).args(["lab", "--dir"]).arg(state).arg("down"))
            }
            Source::Kind => undisturbed(Command::new("kind").args(["delete", "cluster", "--name", name])),
            Source::Local => self.local.as_ref().map_or(Ok(()), Local::down),
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
    fn a_kubeconfig_that_is_not_there_is_named() {
        let sh = Shell::new().unwrap();
        let error = choose(&sh, Some(Path::new("/nowhere/at-all")), false, &Shape::default(), false).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/at-all"));
    }
}
