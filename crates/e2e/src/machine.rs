//! A cluster whose nodes are network and mount namespaces of this machine, as the processes it is made of.
//!
//! Its directory holds `pid/COMPONENT` (etcd, apiserver, kubelet-1, …), `log/COMPONENT.log`, and for each node
//! `nN/enter`, which runs a command there, and `nN/containerd.sock`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use ringfence_netns::Namespace;

/// The processes of a cluster on this machine.
#[derive(Clone, Debug)]
pub struct Machine {
    directory: PathBuf,
}

impl Machine {
    /// The cluster whose directory this is.
    pub fn at(directory: &Path) -> anyhow::Result<Self> {
        if !directory.join("n1/enter").exists() {
            bail!("{} is not the directory of a cluster on this machine: it has no n1/enter", directory.display());
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Directory of a node, which is told by its number (the first is 1).
    pub fn node(&self, number: usize) -> PathBuf {
        self.directory.join(format!("n{number}"))
    }

    /// A command that runs on a node.
    pub fn on(&self, number: usize, program: &str) -> Command {
        let mut command = Command::new(self.node(number).join("enter"));
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a closure on a thread of a node: what it starts begins there, as what the node's container runtime starts
    /// does.
    pub fn inside<T: Send>(&self, number: usize, closure: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let runtime = self.process(&format!("containerd-{number}"))?;
        let namespace = |name: &str| PathBuf::from(format!("/proc/{runtime}/ns/{name}"));
        let mounts = File::open(namespace("mnt")).with_context(|| format!("node {number} cannot be entered"))?;
        Namespace::open_path(&namespace("net"))?.run(|| -> anyhow::Result<T> {
            // The file system that other threads see stays theirs.
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts, CloneFlags::CLONE_NEWNS).with_context(|| format!("node {number} cannot be entered"))?;
            Ok(closure())
        })?
    }

    /// The process of a component, such as `apiserver` or `kubelet-1`.
    pub fn process(&self, component: &str) -> anyhow::Result<Pid> {
        let path = self.directory.join("pid").join(component);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Pid::from_raw(text.trim().parse().with_context(|| format!("{} is not a process id", path.display()))?))
    }
}
