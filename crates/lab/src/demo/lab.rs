//! A lab of the tour's own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// A running lab, apart from any other on this machine. Take it down with [`OwnLab::down`].
pub(super) struct OwnLab {
    program: PathBuf,
    folder: PathBuf,
}

impl OwnLab {
    /// The lab of this process; nothing is started yet.
    pub(super) fn new(directory: Option<&Path>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let own = || PathBuf::from(format!("/run/ringfence-demo-{}", std::process::id()));
        let folder = directory.map_or_else(own, Path::to_owned);
        Ok(Self { program, folder })
    }

    /// The command a person would type.
    pub(super) fn command(nodes: usize) -> String {
        format!("ringfence lab up --nodes {nodes}")
    }

    /// Starts it; returns the path of its kubeconfig.
    pub(super) async fn up(&self, nodes: usize) -> anyhow::Result<PathBuf> {
        let nodes = nodes.to_string();
        let up = self.lab(&["up", "--nodes", &nodes]).stdout(Stdio::null()).status().await?;
        if !up.success() {
            bail!("the lab did not start ({up})");
        }
        let env = self.lab(&["env"]).stderr(Stdio::inherit()).output().await?;
        let text = String::from_utf8_lossy(&env.stdout);
        kubeconfig(&text).with_context(|| format!("`ringfence lab env` names no KUBECONFIG: {text}"))
    }

    /// Output of `ringfence lab status`, if all is well.
    pub(super) async fn status(&self) -> anyhow::Result<String> {
        let status = self.lab(&["status"]).output().await?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        if !status.status.success() {
            bail!("{said}{}", String::from_utf8_lossy(&status.stderr));
        }
        Ok(said)
    }

    /// Takes it down, whatever state it is in.
    pub(super) async fn down(&self) -> anyhow::Result<()> {
        let down = self.lab(&["down"]).stdout(Stdio::null()).status().await?;
        if !down.success() {
            bail!("the lab could not be taken down ({down})\nhint: ringfence lab down --dir {}", self.folder.display());
        }
        Ok(())
    }

    fn lab(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--dir").arg(&self.folder).args(arguments).stdin(Stdio::null());
        command
    }
}

/// The path in a line such as `export KUBECONFIG='/run/x/kubeconfig'`.
fn kubeconfig(text: &str) -> Option<PathBuf> {
    let line = text.lines().find_map(|line| line.trim().trim_start_matches("export ").strip_prefix("KUBECONFIG="))?;
    Some(Path::new(line.trim_matches(['\'', '"'])).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfig_is_read_from_shell_lines() {
        for line in ["export KUBECONFIG=/a/b", "KUBECONFIG='/a/b'", "# x\nexport KUBECONFIG=\"/a/b\"\n"] {
            assert_eq!(kubeconfig(line), Some(PathBuf::from("/a/b")), "{line}");
        }
        assert_eq!(kubeconfig("nothing"), None);
    }
}
