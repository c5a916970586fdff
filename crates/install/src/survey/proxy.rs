//! Who makes Services of a cluster work.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use serde_json::Value;

use super::{Finding, Seen, Verdict};

/// Where kube-proxy's configuration is in its ConfigMap.
const KEYS: &[&str] = &["config.conf", "kubeconfig.conf", "config.yaml"];

pub(super) fn judge(seen: &Seen) -> Finding {
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
        "ipvs" => Verdict::Warning(
            "policy sees the address of a Service before IPVS translates it: pods whose egress is isolated reach Services \
             only where a rule allows the Service's own address"
                .into(),
        ),
        _ => Verdict::Warning(format!(
            "the mode {mode} is not known: policy is exact where the host's stack translates Service addresses"
        )),
    }
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
        for mode in ["ipvs", "userspace"] {
            assert!(matches!(judge(&seen(mode)).verdict, Verdict::Warning(_)), "{mode}");
        }
        assert_eq!(judge(&Seen::default()).verdict, Verdict::Fine);
    }
}
