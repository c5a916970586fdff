//! The kubectl of this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

use super::expect::Outcome;

/// The oldest minor version of Kubernetes 1 whose `exec` speaks WebSocket by itself.
const OLDEST: u32 = 31;

/// The time that one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);

/// A kubectl that is new enough.
#[derive(Clone, Debug)]
pub(super) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Kubectl {
    /// Looks for it; says why there is none. Commands will run in `folder`.
    pub(super) async fn find(kubeconfig: &Path, folder: &Path) -> Result<Self, String> {
        let version = Command::new("kubectl").args(["version", "--client", "--output=json"]).output().await;
        let version = version.map_err(|_error| "no kubectl is installed".to_owned())?;
        let text = String::from_utf8_lossy(&version.stdout);
        match minor(&text) {
            Some(minor) if minor >= OLDEST => Ok(Self {
                program: PathBuf::from("kubectl"),
                kubeconfig: kubeconfig.to_owned(),
                folder: folder.to_owned(),
            }),
            Some(minor) => Err(format!("kubectl is 1.{minor}, older than 1.{OLDEST}")),
            None => Err("kubectl does not say its version".to_owned()),
        }
    }

    /// Runs a command to its end.
    pub(super) async fn run(&self, arguments: &[String]) -> anyhow::Result<Outcome> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).current_dir(&self.folder);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
        let Ok(output) = ended else {
            return Ok(Outcome {
                code: -1,
                stdout: String::new(),
                stderr: format!("did not end within {COMMAND_TIMEOUT:?}"),
            });
        };
        let output = output.context("kubectl could not be started")?;
        Ok(Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// The minor version in the answer of `kubectl version --client --output=json`; none for another major one.
fn minor(json: &str) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let version = value.pointer("/clientVersion/gitVersion")?.as_str()?;
    let rest = version.strip_prefix("v1.")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn versions_are_read() {
        let json = |version: &str| format!(r#"{{"clientVersion":{{"gitVersion":"{version}"}}}}"#);
        assert_eq!(minor(&json("v1.32.4-dispatcher")), Some(32));
        assert_eq!(minor(&json("v1.31.0")), Some(31));
        assert_eq!(minor(&json("v1.20.2")), Some(20));
        assert_eq!(minor(&json("v2.0.0")), None);
        assert_eq!(minor("nonsense"), None);
    }
}
