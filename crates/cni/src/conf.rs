//! What the runtime says on standard input: the plugin's part of the network configuration.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, SOCKET, SUPPORTED};

/// How long `ADD` waits for the agent, unless the configuration says otherwise. The kubelet tries again.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// Where the agent listens.
    #[serde(default)]
    socket: Option<PathBuf>,
    /// How long `ADD` waits, in seconds.
    #[serde(default)]
    timeout_seconds: Option<u64>,
    /// What the plugins before this one did; none if there is none.
    #[serde(default)]
    pub prev_result: Option<Value>,
}

impl NetConf {
    /// Reads a configuration. Members of other plugins are passed over.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Whether the version is spoken.
    pub fn supported(&self) -> Result<(), Error> {
        if SUPPORTED.contains(&self.cni_version.as_str()) {
            return Ok(());
        }
        Err(Error::Version(self.cni_version.clone()))
    }

    /// Where the agent listens.
    pub fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or_else(|| Path::new(SOCKET))
    }

    /// How long `ADD` waits.
    pub fn patience(&self) -> Duration {
        self.timeout_seconds.map_or(PATIENCE, Duration::from_secs)
    }

    /// The result of the plugin before this one.
    pub fn previous(&self) -> Result<&Value, Error> {
        let previous = self.prev_result.as_ref().filter(|result| result.is_object());
        previous.ok_or_else(|| {
            Error::Config(
                "there is no prevResult: this plugin has to follow one that gives pods their addresses".into(),
            )
        })
    }

    /// The addresses the pod was given.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let ips = self.previous()?.get("ips").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let addresses: Result<Vec<_>, _> = ips.iter().map(address).collect();
        match addresses? {
            addresses if addresses.is_empty() => {
                Err(Error::Config("prevResult has no address: this plugin guards pods by their addresses".into()))
            }
            addresses => Ok(addresses),
        }
    }
}

fn address(ip: &Value) -> Result<IpAddr, Error> {
    let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
    let net: Result<IpNet, _> = text.parse();
    net.map(|net| net.addr().to_canonical())
        .map_err(|error| Error::Config(format!("prevResult has an address that is none: {ip}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> NetConf {
        NetConf::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn both_addresses_of_a_pod_are_found() {
        let conf = conf(
            r#"{"cniVersion": "1.0.0", "prevResult": {"ips": [
            {"address": "10.244.1.7/24", "gateway": "10.244.1.1"}, {"address": "fd00:10:244:1::7/64"}]}}"#,
        );
        let expected: [IpAddr; 2] = ["10.244.1.7".parse().unwrap(), "fd00:10:244:1::7".parse().unwrap()];
        assert_eq!(conf.addresses().unwrap(), expected);
    }

    #[test]
    fn a_result_without_usable_addresses_is_refused() {
        for (text, code) in [
            (r#"{"cniVersion": "1.0.0"}"#, 7),
            (r#"{"prevResult": 7}"#, 7),
            (r#"{"prevResult": {}}"#, 7),
            (r#"{"prevResult": {"ips": [{"address": "somewhere"}]}}"#, 7),
            (r#"{"prevResult": {"ips": ["10.0.0.1/8"]}}"#, 7),
        ] {
            assert_eq!(conf(text).addresses().unwrap_err().code(), code, "{text}");
        }
    }
}
