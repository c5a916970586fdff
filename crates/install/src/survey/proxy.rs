//! The proxy that makes Services of a cluster work.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use serde_json::Value;

use super::plugin::has_argument;
use super::{Finding, Seen, Verdict};

/// Keys of kube-proxy's configuration in its ConfigMap.
const KEYS: &[&str] = &["config.conf", "kubeconfig.conf", "config.yaml"];

pub(super) fn judge(seen: &Seen) -> Finding {
    let router = seen.sets.iter().find(|set| set.name_any() == "kube-router");
    if router.is_some_and(|set| !has_argument(set, "--run-service-proxy=false")) {
        return Finding {
            subject: "Services",
            found: "kube-router, which uses IPVS".into(),
            verdict: ipvs(
                "give kube-router --run-service-proxy=false, and run kube-proxy in the mode nftables or iptables",
            ),
        };
    }
    let runs = seen.sets.iter().any(|set| set.name_any() == "kube-proxy");
    let mode = seen.proxy.as_ref().and_then(mode);
    let (found, verdict) = match (mode, runs) {
        (Some(mode), true) => (format!("kube-proxy, mode {mode}"), known(&mode)),
        (None, true) => ("kube-proxy, mode not told".into(), Verdict::Fine),
        (_, false) => (
            "kube-proxy is no DaemonSet: the nodes run it themselves, or something else does its work".into(),
            Verdict::Fine,
        ),
    };
    Finding { subject: "Services", found, verdict }
}

fn known(mode: &str) -> Verdict {
    match mode {
        "iptables" | "nftables" => Verdict::Fine,
        "ipvs" => ipvs("set kube-proxy's mode to nftables or iptables (Kubernetes deprecates ipvs)"),
        _ => Verdict::Warning(format!(
            "the mode {mode} is not known: policy is exact where the host's stack translates Service addresses"
        )),
    }
}

fn ipvs(hint: &str) -> Verdict {
    Verdict::Refused(format!(
        "IPVS translates the addresses of Services after the hook, and back before it: what a pod sends to a Service, \
         and what comes back, is judged by the Service's own address, so pods whose egress is isolated do not reach \
         Services that their policies allow; hint: {hint}"
    ))
}

/// The mode in a configuration; none written means iptables on Linux.
fn mode(settings: &ConfigMap) -> Option<String> {
    let data = settings.data.as_ref()?;
    let text = KEYS.iter().filter_map(|key| data.get(*key)).find(|text| text.contains("KubeProxyConfiguration"))?;
    let configuration: Value = serde_saphyr::from_str(text).ok()?;
    let mode = configuration.get("mode").and_then(Value::as_str).unwrap_or_default();
    Some(if mode.is_empty() { "iptables".to_owned() } else { mode.to_owned() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;
    use serde_json::json;

    use super::*;

    fn seen(mode: &str) -> Seen {
        let text =
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\n");
        let set: DaemonSet = serde_json::from_value(json!({"metadata": {"name": "kube-proxy"}})).unwrap();
        let proxy = serde_json::from_value(json!({"data": {"config.conf": text}})).unwrap();
        Seen { sets: vec![set], proxy: Some(proxy), ..Seen::default() }
    }

    #[test]
    fn modes_that_translate_before_the_hook_are_fine() {
        for mode in ["iptables", "nftables", "\"\""] {
            assert_eq!(judge(&seen(mode)).verdict, Verdict::Fine, "{mode}");
        }
        assert_eq!(judge(&seen("\"\"")).found, "kube-proxy, mode iptables");
        assert!(matches!(judge(&seen("userspace")).verdict, Verdict::Warning(_)));
        assert_eq!(judge(&Seen::default()).verdict, Verdict::Fine);
    }

    #[test]
    fn a_mode_that_translates_after_the_hook_is_refused() {
        let Verdict::Refused(why) = judge(&seen("ipvs")).verdict else { panic!("it is not refused") };
        assert!(why.contains("hint: set kube-proxy's mode"), "{why}");
        let router = |argument: &str| {
            let spec = json!({"containers": [{"name": "c", "args": [argument]}]});
            let set =
                json!({"metadata": {"name": "kube-router"}, "spec": {"selector": {}, "template": {"spec": spec}}});
            judge(&Seen { sets: vec![serde_json::from_value(set).unwrap()], ..Seen::default() }).verdict
        };
        assert!(matches!(router("--run-router=true"), Verdict::Refused(_)), "it does so unless told not to");
        assert_eq!(router("--run-service-proxy=false"), Verdict::Fine);
    }
}
