//! The runtime's configuration on standard input: the plugin's part of the network configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, SUPPORTED};

/// The time that `ADD` waits for the agent, unless the configuration says otherwise. The kubelet tries again.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest it can be told to wait: the agent answers by then in any case.
const MAX_TIMEOUT: Duration = Duration::from_mins(10);

/// The configuration of this plugin, and the result of the plugins before it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version of the specification that the configuration is written in.
    #[serde(default)]
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// The agent's socket.
    #[serde(default)]
    socket: Option<PathBuf>,
    /// The time that `ADD` waits, in seconds.
    #[serde(default)]
    timeout_seconds: Option<u64>,
    /// This is the entry at the beginning of a list.
    #[serde(default)]
    pub gate: bool,
    /// Result of the plugins before this one; none if there is none.
    #[serde(default)]
    prev_result: Option<Value>,
    /// For `GC`: what is still connected to this network.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Value>,
}

impl NetConf {
    /// Reads a configuration. Members of other plugins are passed over.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// True if the version is spoken.
    pub fn supported(&self) -> Result<(), Error> {
        if SUPPORTED.contains(&self.cni_version.as_str()) {
            return Ok(());
        }
        Err(Error::Version(self.cni_version.clone()))
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or_else(|| Path::new(ringfence_api::SOCKET))
    }

    /// The time that `ADD` waits.
    pub fn timeout(&self) -> Duration {
        self.timeout_seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs).min(MAX_TIMEOUT)
    }

    /// The result of the plugin before this one.
    pub fn previous(&self) -> Result<&Map<String, Value>, Error> {
        self.prev_result.as_ref().and_then(Value::as_object).ok_or_else(|| {
            Error::Config(
                "there is no prevResult: this plugin has to follow one that gives pods their addresses".into(),
            )
        })
    }

    /// Sandboxes of this network that still exist, as `GC` is told; none if it was not told, or not so that all can be
    /// read: whoever is not among them is taken to be gone.
    pub fn sandboxes(&self) -> Option<Vec<String>> {
        let id = |attachment: &Value| Some(attachment.get("containerID")?.as_str()?.to_owned());
        self.valid_attachments.as_ref()?.as_array()?.iter().map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> NetConf {
        NetConf::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_no_result_is_none() {
        for text in [r#"{"cniVersion": "1.0.0"}"#, r#"{"prevResult": 7}"#, r#"{"prevResult": null}"#] {
            assert_eq!(conf(text).previous().unwrap_err().code(), 7, "{text}");
        }
    }

    #[test]
    fn what_is_still_connected_is_told_or_it_is_not() {
        let told = |more: &str| {
            let attachment = r#"{"containerID": "a", "ifname": "eth0"}"#;
            conf(&format!(r#"{{"cni.dev/valid-attachments": [{attachment}{more}]}}"#)).sandboxes()
        };
        assert_eq!(told("").unwrap(), ["a"]);
        assert_eq!(told(r#", {"containerID": "b"}"#).unwrap(), ["a", "b"]);
        for unreadable in [r#", {"containerID": 7}"#, r#", "b""#, ", {}"] {
            assert_eq!(told(unreadable), None, "{unreadable}");
        }
        assert_eq!(conf("{}").sandboxes(), None);
        assert_eq!(conf(r#"{"cni.dev/valid-attachments": {}}"#).sandboxes(), None);
    }

    #[test]
    fn no_configuration_makes_anybody_wait_for_ever() {
        let timeout = |text: &str| conf(text).timeout().as_secs();
        assert_eq!((timeout("{}"), timeout(r#"{"timeoutSeconds": 5}"#)), (30, 5));
        assert_eq!(timeout(&format!(r#"{{"timeoutSeconds": {}}}"#, u64::MAX)), 600);
    }
}
