//! Looks at a cluster before anything is put there: can policy be enforced on it, and how?
//!
//! What is seen is gathered by [`look`] and judged by [`judge`], a function of plain values.

mod plugin;
mod proxy;

use std::fmt;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use crate::manifest::{CniDirs, Mode, Seccomp};

/// The oldest kernel that has the hook.
const OLDEST_KERNEL: (u32, u32) = (6, 4);
/// The number of nodes are named before the rest is counted.
const NAMED: usize = 5;

/// Inventory of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Every node.
    pub nodes: Vec<Node>,
    /// Every DaemonSet.
    pub sets: Vec<DaemonSet>,
    /// `kube-proxy` of `kube-system`.
    pub proxy: Option<ConfigMap>,
    /// Calico's settings for all of the cluster.
    pub felix: Option<Value>,
}

/// Consequence of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// It works, but somebody should know.
    Warning(String),
    /// Policy cannot be enforced.
    Refused(String),
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The subject.
    pub subject: &'static str,
    /// The finding.
    pub found: String,
    /// The consequence.
    pub verdict: Verdict,
}

/// Findings about a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// In the order of a person's questions.
    pub findings: Vec<Finding>,
    /// Relation of Ringfence to the network plugin.
    pub mode: Mode,
    /// True if nodes are containers, or may be: nobody has mounted `/sys/fs/bpf` in them.
    pub mount_bpf: bool,
    /// Directories of network configurations and plugins on nodes.
    pub cni: CniDirs,
    /// The seccomp profile that agents need.
    pub seccomp: Seccomp,
}

impl Survey {
    /// The reason why policy cannot be enforced, if it cannot.
    pub fn refusals(&self) -> Vec<&str> {
        let reasons = self.findings.iter().filter_map(|finding| match &finding.verdict {
            Verdict::Refused(why) => Some(why.as_str()),
            Verdict::Fine | Verdict::Warning(_) => None,
        });
        reasons.collect()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:16} {}", self.subject, self.found)?;
        match &self.verdict {
            Verdict::Fine => Ok(()),
            Verdict::Warning(why) => write!(f, "\n{:16} warning: {why}", ""),
            Verdict::Refused(why) => write!(f, "\n{:16} refused: {why}", ""),
        }
    }
}

/// Looks. Reads nodes, DaemonSets and the settings of components that are known; changes nothing.
pub async fn look(client: &Client) -> anyhow::Result<Seen> {
    let all = ListParams::default();
    let nodes = Api::<Node>::all(client.clone()).list(&all).await.context("cannot list the nodes")?.items;
    let sets = Api::<DaemonSet>::all(client.clone()).list(&all).await;
    let system = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    let proxy = system.get_opt("kube-proxy").await.context("cannot read the settings of kube-proxy")?;
    let felix = GroupVersionKind::gvk("crd.projectcalico.org", "v1", "FelixConfiguration");
    let felix = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&felix)).get_opt("default").await;
    Ok(Seen {
        nodes,
        sets: sets.context("cannot list the DaemonSets")?.items,
        proxy,
        // A cluster without Calico does not have the kind.
        felix: felix.unwrap_or_default().map(|object| object.data),
    })
}

/// Judges.
pub fn judge(seen: &Seen) -> Survey {
    let (plugins, mode) = plugin::judge(seen);
    let mut findings = vec![nodes(&seen.nodes), kernels(&seen.nodes)];
    findings.extend(plugins);
    findings.push(proxy::judge(seen));
    let containers = in_containers(&seen.nodes);
    findings.extend(containers.map(|name| Finding {
        subject: "/sys/fs/bpf",
        found: format!("a privileged container mounts it before the agent starts, where nodes are containers ({name})"),
        verdict: Verdict::Fine,
    }));
    let own = own_directories(&seen.nodes);
    findings.extend(own.as_ref().map(|cni| Finding {
        subject: "CNI",
        found: format!("k3s keeps configurations in {} and plugins in {}", cni.conf, cni.bin),
        verdict: Verdict::Fine,
    }));
    let seccomp = runtime(&seen.nodes);
    findings.extend(seccomp.clone());
    let seccomp = if seccomp.is_some() { Seccomp::Unconfined } else { Seccomp::default() };
    Survey { findings, mode, seccomp, mount_bpf: containers.is_some(), cni: own.unwrap_or_default() }
}

/// Findings about the container runtime: CRI-O's default profile is that of containers/common, which permits `bpf()`
/// with `CAP_SYS_ADMIN` only (<https://github.com/containers/common/issues/1988>).
fn runtime(nodes: &[Node]) -> Option<Finding> {
    let of = |node: &Node| {
        let info = node.status.as_ref()?.node_info.as_ref()?;
        info.container_runtime_version.starts_with("cri-o://").then(|| node.name_any())
    };
    let names: Vec<String> = nodes.iter().filter_map(of).collect();
    let why = "its default seccomp profile forbids bpf() to the agents, which do not have CAP_SYS_ADMIN: they run \
               without a profile; hint: --seccomp localhost/FILE names one on the nodes that permits bpf()";
    (!names.is_empty()).then(|| Finding {
        subject: "runtime",
        found: format!("CRI-O on {}", some(names.into_iter())),
        verdict: Verdict::Warning(why.into()),
    })
}

/// Directories of k3s instead of the usual ones (its documentation, "Multus and IPAM plugins": so since
/// 1.30.6).
fn own_directories(nodes: &[Node]) -> Option<CniDirs> {
    let of_k3s = |node: &Node| {
        let version =
            node.status.as_ref().and_then(|status| status.node_info.as_ref()).map(|info| &info.kubelet_version);
        version.is_some_and(|version| version.contains("+k3s"))
    };
    nodes.iter().any(of_k3s).then(|| CniDirs {
        conf: "/var/lib/rancher/k3s/agent/etc/cni/net.d".into(),
        bin: "/var/lib/rancher/k3s/data/cni".into(),
    })
}

/// The tool that runs nodes as containers, if one may have.
fn in_containers(nodes: &[Node]) -> Option<&'static str> {
    let of_kind = |node: &Node| {
        let id = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
        id.is_some_and(|id| id.starts_with("kind://"))
    };
    if nodes.iter().any(of_kind) {
        return Some("kind");
    }
    let of_minikube = |node: &Node| node.labels().contains_key("minikube.k8s.io/name");
    nodes.iter().any(of_minikube).then_some("minikube")
}

fn nodes(nodes: &[Node]) -> Finding {
    let linux = nodes.iter().filter(|node| is_linux(node)).count();
    let other = nodes.len() - linux;
    let verdict = match (linux, other) {
        (0, _) => Verdict::Refused("there is no Linux node".into()),
        (_, 0) => Verdict::Fine,
        _ => Verdict::Warning(format!("policy is not enforced for pods on the {other} nodes that do not run Linux")),
    };
    Finding { subject: "nodes", found: format!("{linux} with Linux"), verdict }
}

fn kernels(nodes: &[Node]) -> Finding {
    let release = |node: &Node| Some(node.status.as_ref()?.node_info.as_ref()?.kernel_version.clone());
    let of = |node: &'_ Node| (node.name_any(), release(node).unwrap_or_else(|| "unknown".into()));
    let all: Vec<(String, String)> = nodes.iter().filter(|node| is_linux(node)).map(of).collect();
    let old: Vec<_> = all.iter().filter(|(_, release)| version(release).is_none_or(|v| v < OLDEST_KERNEL)).collect();
    let mut releases: Vec<&str> = all.iter().map(|(_, release)| release.as_str()).collect();
    releases.sort_unstable();
    releases.dedup();
    let verdict = if old.is_empty() {
        Verdict::Fine
    } else {
        let names = some(old.iter().map(|(node, release)| format!("{node} ({release})")));
        let (major, minor) = OLDEST_KERNEL;
        Verdict::Refused(format!(
            "the hook it decides at, a BPF netfilter program, needs Linux {major}.{minor} or newer; not so on {names}"
        ))
    };
    Finding { subject: "kernel", found: format!("Linux {}", some(releases.into_iter().map(str::to_owned))), verdict }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn is_linux(node: &Node) -> bool {
    node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux")
}

/// The first of a list, and how many more there are.
pub(crate) fn some(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let named = items.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn node(name: &str, kernel: &str, network: Option<&str>) -> Node {
        let (status, message) = network.map_or(("True", "ready"), |message| ("False", message));
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
            "status": {
                "nodeInfo": {
                    "kernelVersion": kernel, "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "",
                    "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "linux",
                    "osImage": "", "systemUUID": "",
                },
                "conditions": [{"type": "Ready", "status": status, "message": message}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn an_old_kernel_is_refused_and_named() {
        let nodes = [node("new", "6.12.9-talos", None), node("old", "6.1.0-18-amd64", None), node("odd", "?", None)];
        let finding = kernels(&nodes);
        let Verdict::Refused(why) = finding.verdict else { panic!("{finding}") };
        assert!(why.contains("old (6.1.0-18-amd64)") && why.contains("odd (?)") && !why.contains("new ("), "{why}");
        assert_eq!(kernels(&nodes[..1]).verdict, Verdict::Fine);
    }

    #[test]
    fn the_edge_of_the_oldest_kernel() {
        assert_eq!(version("6.4.0"), Some((6, 4)));
        assert_eq!(kernels(&[node("a", "6.4.0-150600", None)]).verdict, Verdict::Fine);
        assert!(matches!(kernels(&[node("a", "6.3.9", None)]).verdict, Verdict::Refused(_)));
        assert!(matches!(kernels(&[node("a", "5.15.0", None)]).verdict, Verdict::Refused(_)));
    }

    #[test]
    fn a_plain_cluster_is_fine_and_one_without_linux_is_not() {
        let seen = Seen { nodes: vec![node("a", "6.8.0", None)], ..Seen::default() };
        let survey = judge(&seen);
        assert_eq!(survey.refusals(), [""; 0]);
        assert_eq!(survey.mode, Mode::Chained);
        assert_eq!(judge(&Seen::default()).refusals(), ["there is no Linux node"]);
    }

    #[test]
    fn nodes_that_are_containers_need_a_mount() {
        let plain = node("a", "6.8.0", None);
        let mut kind = plain.clone();
        kind.spec = serde_json::from_value(json!({"providerID": "kind://docker/kind/kind-worker"})).unwrap();
        let mut minikube = plain.clone();
        minikube.metadata.labels.get_or_insert_default().insert("minikube.k8s.io/name".into(), "minikube".into());
        for (node, mount) in [(plain, false), (kind, true), (minikube, true)] {
            let survey = judge(&Seen { nodes: vec![node], ..Seen::default() });
            assert_eq!((survey.mount_bpf, survey.refusals()), (mount, vec![]));
        }
    }

    #[test]
    fn cri_o_is_told_and_agents_get_no_profile_there() {
        let mut node = node("a", "6.8.0", None);
        assert_eq!(judge(&Seen { nodes: vec![node.clone()], ..Seen::default() }).seccomp, Seccomp::RuntimeDefault);
        node.status.as_mut().unwrap().node_info.as_mut().unwrap().container_runtime_version = "cri-o://1.34.0".into();
        let survey = judge(&Seen { nodes: vec![node], ..Seen::default() });
        assert_eq!((&survey.seccomp, survey.refusals()), (&Seccomp::Unconfined, vec![]));
        assert!(survey.findings.iter().any(|finding| finding.to_string().contains("CRI-O on a\n")), "{survey:?}");
    }

    #[test]
    fn k3s_has_directories_of_its_own() {
        let mut node = node("a", "6.8.0", None);
        assert_eq!(judge(&Seen { nodes: vec![node.clone()], ..Seen::default() }).cni, CniDirs::default());
        node.status.as_mut().unwrap().node_info.as_mut().unwrap().kubelet_version = "v1.34.1+k3s1".into();
        let survey = judge(&Seen { nodes: vec![node], ..Seen::default() });
        assert!(survey.cni.conf.contains("k3s") && survey.cni.bin.contains("k3s"), "{survey:?}");
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some((0..7).map(|n| n.to_string())), "0, 1, 2, 3, 4 and 2 more");
    }
}
