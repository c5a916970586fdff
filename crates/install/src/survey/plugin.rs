//! The network plugin of a cluster, and other engines that enforce policy on it.
//!
//! Ringfence decides in the host's network stack. What moves packets past that stack moves them past Ringfence, and is
//! refused. Another engine that enforces the same policies is no danger: a connection has to pass both.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

use super::{Finding, Seen, Verdict, some};
use crate::manifest::Mode;

/// A component that is known by the name of its DaemonSet.
struct Known {
    /// Its name.
    name: &'static str,
    /// Names of DaemonSets.
    sets: &'static [&'static str],
    /// The consequence.
    kind: Kind,
}

enum Kind {
    /// It gives pods their network by way of the host's stack.
    Plugin,
    /// It moves packets past the host's stack, by this.
    Bypass(&'static str),
    /// It enforces policy too, and maybe gives pods their network; unless a container has this argument.
    Engine { off: Option<&'static str> },
    /// It enforces policy too, if a container has this argument.
    EngineIf { on: &'static str },
    /// Pods get further interfaces.
    Further,
}

const EBPF: &str = "its eBPF programs move packets from pod to pod past the host's network stack";
const OVS: &str = "Open vSwitch moves packets from pod to pod past the host's network stack";

const KNOWN: &[Known] = &[
    Known { name: "Cilium", sets: &["cilium"], kind: Kind::Bypass(EBPF) },
    Known { name: "GKE Dataplane V2", sets: &["anetd"], kind: Kind::Bypass(EBPF) },
    Known { name: "Antrea", sets: &["antrea-agent"], kind: Kind::Bypass(OVS) },
    Known { name: "OVN-Kubernetes", sets: &["ovnkube-node", "ovnkube", "ovnkube-node-dpu"], kind: Kind::Bypass(OVS) },
    Known { name: "Kube-OVN", sets: &["kube-ovn-cni"], kind: Kind::Bypass(OVS) },
    Known { name: "OpenShift SDN", sets: &["sdn"], kind: Kind::Bypass(OVS) },
    Known { name: "Weave Net", sets: &["weave-net"], kind: Kind::Bypass(OVS) },
    Known { name: "Calico", sets: &["calico-node"], kind: Kind::Engine { off: None } },
    Known { name: "Canal", sets: &["canal", "rke2-canal"], kind: Kind::Engine { off: None } },
    Known { name: "kindnet", sets: &["kindnet"], kind: Kind::Engine { off: None } },
    Known { name: "kube-router", sets: &["kube-router"], kind: Kind::Engine { off: Some("--run-firewall=false") } },
    Known { name: "kube-network-policies", sets: &["kube-network-policies"], kind: Kind::Engine { off: None } },
    Known { name: "Azure network policy manager", sets: &["azure-npm"], kind: Kind::Engine { off: None } },
    Known { name: "Amazon VPC CNI", sets: &["aws-node"], kind: Kind::EngineIf { on: "--enable-network-policy=true" } },
    Known { name: "flannel", sets: &["kube-flannel-ds", "kube-flannel"], kind: Kind::Plugin },
    Known { name: "GKE network daemon", sets: &["netd"], kind: Kind::Plugin },
    Known { name: "Azure container networking", sets: &["azure-cns"], kind: Kind::Plugin },
    Known { name: "Multus", sets: &["kube-multus-ds", "multus"], kind: Kind::Further },
];

/// Annotations that plugins without a DaemonSet leave on nodes.
const ANNOTATIONS: &[(&str, &str)] =
    &[("flannel.alpha.coreos.com/backend-type", "flannel, run by the nodes themselves")];

/// Messages of kubelets about a node without a network plugin.
const WITHOUT: &[&str] = &["cni plugin not initialized", "cni config uninitialized", "NetworkPluginNotReady"];

/// Findings, and the mode that follows.
pub(super) fn judge(seen: &Seen) -> (Vec<Finding>, Mode) {
    let mut findings = Vec::new();
    for known in KNOWN {
        let set = seen.sets.iter().find(|set| known.sets.contains(&set.name_any().as_str()));
        findings.extend(set.map(|set| found(known, set, seen)));
    }
    if findings.iter().any(|finding| finding.subject == "network plugin") {
        return (findings, Mode::Chained);
    }
    let (finding, mode) = unseen(&seen.nodes);
    findings.insert(0, finding);
    (findings, mode)
}

fn found(known: &Known, set: &DaemonSet, seen: &Seen) -> Finding {
    let place = format!("{} (DaemonSet {}/{})", known.name, set.namespace().unwrap_or_default(), set.name_any());
    let plugin = |verdict| Finding { subject: "network plugin", found: place.clone(), verdict };
    let both = || Verdict::Warning(format!("{} enforces policy too: connections have to pass both", known.name));
    match &known.kind {
        Kind::Bypass(how) => plugin(Verdict::Refused(format!("{}: {how}, where policy is decided", known.name))),
        Kind::Engine { .. } if known.name == "Calico" && uses_ebpf(set, seen) => {
            plugin(Verdict::Refused(format!("Calico's eBPF data plane is on: {EBPF}, where policy is decided")))
        }
        Kind::Engine { off: Some(off) } if has_argument(set, off) => plugin(Verdict::Fine),
        Kind::Engine { .. } if matches!(known.name, "kube-network-policies" | "Azure network policy manager") => {
            Finding { subject: "other engine", found: place, verdict: both() }
        }
        Kind::Engine { .. } => plugin(both()),
        Kind::EngineIf { on } if has_argument(set, on) => plugin(both()),
        Kind::Plugin | Kind::EngineIf { .. } => plugin(Verdict::Fine),
        Kind::Further => Finding {
            subject: "other networks",
            found: place,
            verdict: Verdict::Warning("policy is not enforced on the further interfaces it gives to pods".into()),
        },
    }
}

fn uses_ebpf(set: &DaemonSet, seen: &Seen) -> bool {
    let by_setting = seen.felix.as_ref().is_some_and(|felix| felix["spec"]["bpfEnabled"] == true);
    let containers = set.spec.iter().flat_map(|spec| spec.template.spec.iter().flat_map(|spec| &spec.containers));
    let mut variables = containers.flat_map(|container| container.env.iter().flatten());
    by_setting
        || variables.any(|variable| {
            variable.name == "FELIX_BPFENABLED"
                && variable.value.as_deref().is_some_and(|v| v.eq_ignore_ascii_case("true"))
        })
}

pub(super) fn has_argument(set: &DaemonSet, wanted: &str) -> bool {
    let containers = set.spec.iter().flat_map(|spec| spec.template.spec.iter().flat_map(|spec| &spec.containers));
    let mut words = containers.flat_map(|container| container.args.iter().chain(&container.command).flatten());
    words.any(|word| word == wanted)
}

/// No plugin runs as a DaemonSet: the nodes have one themselves, or none.
fn unseen(nodes: &[Node]) -> (Finding, Mode) {
    let finding = |found: String, verdict| Finding { subject: "network plugin", found, verdict };
    let without: Vec<&Node> = nodes.iter().filter(|node| lacks_network(node)).collect();
    if !without.is_empty() {
        let verdict = if without.len() == nodes.len() {
            Verdict::Fine
        } else {
            let names = some(without.iter().map(|node| node.name_any()));
            Verdict::Warning(format!("some nodes have one and some, {names}, do not"))
        };
        let mode = if without.len() == nodes.len() { Mode::Primary } else { Mode::Chained };
        return (finding("none: the nodes wait for one".into(), verdict), mode);
    }
    let annotated = ANNOTATIONS.iter().find(|(key, _)| nodes.iter().any(|node| node.annotations().contains_key(*key)));
    let found = annotated.map_or("one of the nodes' own, which is no DaemonSet that is known", |(_, name)| *name);
    (finding(found.to_owned(), Verdict::Fine), Mode::Chained)
}

fn lacks_network(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready" && condition.status != "True");
    ready.any(|condition| {
        let message = condition.message.as_deref().unwrap_or_default();
        WITHOUT.iter().any(|words| message.contains(words))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::node;
    use super::*;

    fn set(name: &str, container: &Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"selector": {}, "template": {"spec": {"containers": [container]}}},
        }))
        .unwrap()
    }

    fn plain(name: &str) -> DaemonSet {
        set(name, &json!({"name": "c"}))
    }

    #[track_caller]
    fn verdict(set: DaemonSet) -> Verdict {
        let (findings, mode) = judge(&Seen { sets: vec![set], ..Seen::default() });
        assert_eq!(mode, Mode::Chained);
        findings
            .into_iter()
            .find(|finding| finding.verdict != Verdict::Fine)
            .map_or(Verdict::Fine, |found| found.verdict)
    }

    #[test]
    fn what_passes_the_stack_by_is_refused() {
        for name in ["cilium", "anetd", "antrea-agent", "ovnkube-node", "kube-ovn-cni", "weave-net", "sdn"] {
            assert!(matches!(verdict(plain(name)), Verdict::Refused(_)), "{name}");
        }
    }

    #[test]
    fn another_engine_is_told_of() {
        for name in ["calico-node", "kindnet", "canal", "kube-router", "azure-npm", "kube-network-policies"] {
            assert!(matches!(verdict(plain(name)), Verdict::Warning(_)), "{name}");
        }
        let quiet = set("kube-router", &json!({"name": "c", "args": ["--run-firewall=false"]}));
        assert_eq!(verdict(quiet), Verdict::Fine);
        let policy = set("aws-node", &json!({"name": "c", "args": ["--enable-network-policy=true"]}));
        assert!(matches!(verdict(policy), Verdict::Warning(_)));
        assert_eq!(verdict(plain("aws-node")), Verdict::Fine);
        assert_eq!(verdict(plain("kube-flannel-ds")), Verdict::Fine);
    }

    #[test]
    fn calico_is_refused_only_with_its_ebpf_data_plane() {
        let on = json!({"name": "c", "env": [{"name": "FELIX_BPFENABLED", "value": "true"}]});
        assert!(matches!(verdict(set("calico-node", &on)), Verdict::Refused(_)));
        let felix = Some(json!({"spec": {"bpfEnabled": true}}));
        let seen = Seen { sets: vec![plain("calico-node")], felix, ..Seen::default() };
        assert!(matches!(judge(&seen).0[0].verdict, Verdict::Refused(_)));
    }

    #[test]
    fn a_cluster_that_waits_for_a_plugin_gets_one() {
        let message = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                       message:Network plugin returns error: cni plugin not initialized";
        let bare = node("a", "6.8.0", Some(message));
        let (findings, mode) = judge(&Seen { nodes: vec![bare.clone()], ..Seen::default() });
        assert_eq!((mode, &findings[0].verdict), (Mode::Primary, &Verdict::Fine));
        let mixed = Seen { nodes: vec![bare, node("b", "6.8.0", None)], ..Seen::default() };
        let (findings, mode) = judge(&mixed);
        assert_eq!(mode, Mode::Chained);
        assert!(matches!(&findings[0].verdict, Verdict::Warning(why) if why.contains("a, do not")), "{findings:?}");
        let sick = node("a", "6.8.0", Some("Kubelet stopped posting node status."));
        assert_eq!(judge(&Seen { nodes: vec![sick], ..Seen::default() }).1, Mode::Chained);
    }
}
