//! Results of network plugins in the runtime's cache: libcni keeps the result of every `ADD` under
//! `/var/lib/cni/results` (CNI specification, "cached result"). The only way to learn which port of a bridge is whose,
//! and, for an agent that comes back, whose addresses the one before it was told of.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ringfence_netns::HardwareAddress;
use serde_json::Value;

use ringfence_api::WaitRequest;

/// Directory in which libcni keeps results by default.
pub(crate) const RESULTS: &str = "/var/lib/cni/results";

/// The result of a network plugin that connected a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// When: of two that speak of an address the newer counts.
    pub(crate) at: SystemTime,
    /// Addresses of the sandbox.
    pub(crate) addresses: Vec<IpAddr>,
    /// Names of interfaces on the node, of which its link is one.
    pub(crate) links: Vec<String>,
    /// Hardware address of its interface.
    pub(crate) hardware_address: Option<HardwareAddress>,
}

impl Told {
    /// The result in a request of the plugin.
    pub(crate) fn now(request: &WaitRequest) -> Self {
        Self {
            at: SystemTime::now(),
            addresses: request.addresses.iter().map(IpAddr::to_canonical).collect(),
            links: request.links.clone(),
            hardware_address: request.hardware_address.as_deref().and_then(hardware_address),
        }
    }
}

/// The results of a node. What was read once is not read again until it is written again.
#[derive(Debug)]
pub(crate) struct Results {
    dir: PathBuf,
    read: HashMap<OsString, Told>,
}

impl Results {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, read: HashMap::new() }
    }

    /// All that can be read now.
    pub(crate) fn look(&mut self) -> impl Iterator<Item = &Told> {
        let before = std::mem::take(&mut self.read);
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(at) = entry.metadata().ok().and_then(|file| file.modified().ok()) else { continue };
            let same = before.get(&name).filter(|told| told.at == at).cloned();
            if let Some(told) = same.or_else(|| read_result(&entry)) {
                self.read.insert(name, told);
            }
        }
        self.read.values()
    }
}

fn read_result(entry: &std::fs::DirEntry) -> Option<Told> {
    let (at, cached) = cached(entry)?;
    let result = cached["result"].as_object()?;
    let interface = cached["ifName"].as_str().unwrap_or_default();
    Some(Told {
        at,
        addresses: addresses(&cached)?,
        links: ringfence_cni::links(result),
        hardware_address: ringfence_cni::hardware_address(result, interface).as_deref().and_then(hardware_address),
    })
}

fn cached(entry: &std::fs::DirEntry) -> Option<(SystemTime, Value)> {
    let written = entry.metadata().ok()?.modified().ok()?;
    Some((written, serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?))
}

/// The addresses of the sandbox: those that our plugin told the agent when they were given.
fn addresses(cached: &Value) -> Option<Vec<IpAddr>> {
    ringfence_cni::addresses(cached["result"].as_object()?, cached["ifName"].as_str().unwrap_or_default()).ok()
}

/// An Ethernet address as people write it.
fn hardware_address(text: &str) -> Option<HardwareAddress> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// Longest time that the API may lag behind a new sandbox.
const MAX_API_LAG: Duration = Duration::from_hours(1);
/// The interface by which runtimes join a pod to its own network; others are further networks.
pub(crate) const INTERFACE: &str = "eth0";

/// The sandboxes that this node's pods have, the newest last; and whether each is so recent that the API may not have
/// heard of it.
pub(crate) fn sandboxes(dir: &Path) -> Vec<(WaitRequest, bool)> {
    let now = SystemTime::now();
    let mut found: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| sandbox(&entry)).collect();
    found.sort_by_key(|(written, _)| *written);
    let recent = |written| now.duration_since(written).is_ok_and(|age| age < MAX_API_LAG);
    found.into_iter().map(|(written, sandbox)| (sandbox, recent(written))).collect()
}

fn sandbox(entry: &std::fs::DirEntry) -> Option<(SystemTime, WaitRequest)> {
    let (written, cached) = cached(entry)?;
    let text = |name: &str| cached[name].as_str().map(str::to_owned);
    let argument = |name: &str| {
        let mut pairs = cached["cniArgs"].as_array()?.iter();
        pairs.find(|pair| pair[0] == name)?[1].as_str().map(str::to_owned)
    };
    let interface = text("ifName")?;
    let result = cached["result"].as_object()?;
    let sandbox = WaitRequest {
        namespace: argument("K8S_POD_NAMESPACE")?,
        name: argument("K8S_POD_NAME")?,
        uid: argument("K8S_POD_UID")?,
        addresses: addresses(&cached)?,
        container: Some(text("containerId")?),
        network: text("networkName"),
        links: ringfence_cni::links(result),
        hardware_address: ringfence_cni::hardware_address(result, &interface),
        timeout_ms: 0,
    };
    (interface == INTERFACE).then_some((written, sandbox))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_and_pod_end_are_told_apart_and_damage_is_survived() {
        let dir = std::env::temp_dir().join(format!("ringfence-cni-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let result = r#"{"kind": "cniCacheV1", "ifName": "eth0", "result": {"cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "veth1234"},
                {"name": "eth0", "mac": "0a:00:00:00:00:07", "sandbox": "/var/run/netns/x"}],
            "ips": [{"address": "10.244.0.7/24", "gateway": "10.244.0.1", "interface": 2},
                    {"address": "fd00:10:244::7/64", "interface": 2}, {"address": "10.244.0.1/24", "interface": 0}]}}"#;
        std::fs::write(dir.join("bridge-abc-eth0"), result).unwrap();
        std::fs::write(dir.join("torn"), &result[..90]).unwrap();
        std::fs::write(dir.join("odd"), r#"{"result": {"ips": [{"interface": 7}], "interfaces": []}}"#).unwrap();
        let mut results = Results::new(dir.clone());
        let found: Vec<_> = results.look().cloned().collect();
        assert_eq!(results.look().cloned().collect::<Vec<_>>(), found, "also what was read before");
        std::fs::remove_dir_all(&dir).unwrap();
        let [told] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(told.addresses, ["10.244.0.7", "fd00:10:244::7"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(told.links, ["cni0", "veth1234"]);
        assert_eq!(told.hardware_address, Some([10, 0, 0, 0, 0, 7]));
        assert_eq!(results.look().count(), 0);
    }

    #[test]
    fn sandboxes_are_found_with_their_pods() {
        let dir = std::env::temp_dir().join(format!("ringfence-sandboxes-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let result = |interface: &str| {
            format!(
                r#"{{"kind": "cniCacheV1", "containerId": "c1", "ifName": "{interface}", "networkName": "pods",
                "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "a"], ["K8S_POD_NAME", "web"], ["K8S_POD_UID",
                "u"]],
                "result": {{"interfaces": [{{"name": "eth0", "sandbox": "/var/run/netns/x"}}],
                "ips": [{{"address": "10.244.0.7/24", "interface": 0}}]}}}}"#
            )
        };
        std::fs::write(dir.join("pods-c1-eth0"), result("eth0")).unwrap();
        std::fs::write(dir.join("more-c1-net1"), result("net1")).unwrap();
        std::fs::write(dir.join("torn"), &result("eth0")[..200]).unwrap();
        let found = sandboxes(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        let [(sandbox, true)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((sandbox.name.as_str(), sandbox.container.as_deref()), ("web", Some("c1")));
        assert_eq!(sandbox.addresses, ["10.244.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(sandboxes(&dir), []);
    }

    /// The forms in which plugins tell of a pod's addresses, for a pod of 10.0.0.7 whose interface outside is `host`.
    const FORMS: &[(&str, &str)] = &[
        (
            "bridge, also called by flannel, 0.3.x",
            r#"{"cniVersion": "0.3.1", "dns": {}, "interfaces": [{"name": "cni0", "mac": "a2:00:00:00:00:01"},
            {"name": "host"}, {"name": "eth0", "sandbox": "/var/run/netns/x"}], "routes": [{"dst": "0.0.0.0/0"}],
            "ips": [{"version": "4", "interface": 2, "address": "10.0.0.7/24", "gateway": "10.0.0.1"}]}"#,
        ),
        (
            "ptp, 1.1.0",
            r#"{"cniVersion": "1.1.0", "interfaces": [{"name": "host", "mtu": 1500},
            {"name": "eth0", "mtu": 1500, "sandbox": "/var/run/netns/x"}],
            "ips": [{"interface": 1, "address": "10.0.0.7/24", "gateway": "10.0.0.1"}]}"#,
        ),
        (
            "calico that names no interface, 0.3.x",
            r#"{"cniVersion": "0.3.1", "dns": {}, "interfaces": [{"name": "host"}],
            "ips": [{"version": "4", "address": "10.0.0.7/32"}]}"#,
        ),
        (
            "calico that names one, 1.0.0",
            r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "host"},
            {"name": "eth0", "sandbox": "/var/run/netns/x"}],
            "ips": [{"interface": 1, "address": "10.0.0.7/32"}]}"#,
        ),
        (
            "aws-cni: the last interface is none, and its sandbox a number",
            r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "host"}, {"name": "eth0", "sandbox": "/var/run/netns/x",
            "mac": "0"}, {"name": "dummy1", "sandbox": "0", "mac": "0"}],
            "ips": [{"interface": 1, "address": "10.0.0.7/32"}]}"#,
        ),
        (
            "azure-vnet: only the pod's interface, without a sandbox",
            r#"{"cniVersion": "0.3.0", "interfaces": [{"name": "eth0"}],
            "ips": [{"version": "4", "interface": 0, "address": "10.0.0.7/16", "gateway": "10.0.0.1"}]}"#,
        ),
        ("no interfaces", r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}]}"#),
    ];

    #[test]
    fn the_pods_address_is_found_in_every_form_and_no_other() {
        let cached = |result: &str| -> Value {
            serde_json::from_str(&format!(r#"{{"ifName": "eth0", "result": {result}}}"#)).unwrap()
        };
        for (form, result) in FORMS {
            let cached = cached(result);
            assert_eq!(addresses(&cached), Some(vec!["10.0.0.7".parse().unwrap()]), "{form}");
            let names = ringfence_cni::links(cached["result"].as_object().unwrap());
            assert_eq!(names.iter().any(|name| name == "host"), result.contains("host"), "{form}: {names:?}");
        }
        for result in [
            r#"{"ips": []}"#,
            r#"{"ip4": {"ip": "10.0.0.7/24"}}"#,
            r#"{"ips": [{"address": "10.0.0.7"}, {"address": "somewhere"}]}"#,
            r#"{"interfaces": [{"name": "cni0"}], "ips": [{"interface": 0, "address": "10.0.0.1/24"}]}"#,
            r#"{"interfaces": [{"name": "net1", "sandbox": "/x"}],
            "ips": [{"interface": 0, "address": "10.9.0.7/24"}]}"#,
        ] {
            assert_eq!(addresses(&cached(result)), None, "{result}");
        }
    }
}
