//! Network plugins that move packets past the host's stack, and so past the hook: nothing can be enforced there.

use serde_json::Value;

/// Plugins that give a pod a device of the node, or one on top of it.
const DEVICES: &[&str] = &[
    "accelerated-bridge",
    "bond",
    "host-device",
    "ib-sriov",
    "ib-sriov-cni",
    "ipvlan",
    "macvlan",
    "macvtap",
    "sriov",
    "userspace",
    "vlan",
];

/// Plugins that come with a switch of their own.
const SWITCHES: &[&str] = &["antrea", "cilium-cni", "kube-ovn", "ovn-k8s-cni-overlay", "ovs", "weave-net"];

/// The reason why nothing can be enforced on pods of this configuration, if there is one. Plugins that a plugin calls
/// count too.
pub(super) fn reason(file: &str, text: &str) -> Option<String> {
    let conf: Value = serde_json::from_str(text).ok()?;
    let (plugin, how) = find(&conf)?;
    Some(format!(
        "the network plugin {plugin} ({file}) {how}: packets of pods do not pass the host's network stack, so policy \
         is NOT ENFORCED on this node; hint: use a plugin that routes or bridges, such as ptp, bridge or flannel, or \
         none"
    ))
}

fn find(conf: &Value) -> Option<(&str, &'static str)> {
    match conf {
        Value::Object(members) => {
            let plugin = members.get("type").and_then(Value::as_str);
            let known = plugin.and_then(|plugin| Some((plugin, how(plugin)?)));
            known.or_else(|| members.values().find_map(find))
        }
        Value::Array(items) => items.iter().find_map(find),
        _ => None,
    }
}

fn how(plugin: &str) -> Option<&'static str> {
    if DEVICES.contains(&plugin) {
        Some("gives pods devices of the node")
    } else if SWITCHES.contains(&plugin) {
        Some("joins pods by a switch of its own")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bypasses_the_stack_is_known_wherever_it_is_written() {
        let said = |text: &str| reason("10-x.conf", text);
        for plugin in DEVICES.iter().chain(SWITCHES) {
            let single = format!(r#"{{"name": "x", "type": "{plugin}"}}"#);
            assert!(said(&single).unwrap().contains(plugin), "{plugin}");
            let list = format!(r#"{{"plugins": [{{"type": "portmap"}}, {{"type": "{plugin}"}}]}}"#);
            assert!(said(&list).unwrap().contains("NOT ENFORCED"), "{plugin}");
        }
        let called = r#"{"type": "multus", "delegates": [{"plugins": [{"type": "macvlan"}]}]}"#;
        assert!(said(called).unwrap().contains("macvlan (10-x.conf)"));
        for plugin in ["bridge", "ptp", "flannel", "calico", "aws-cni", "loopback"] {
            let conf = format!(r#"{{"plugins": [{{"type": "{plugin}", "ipam": {{"type": "host-local"}}}}]}}"#);
            assert_eq!(said(&conf), None, "{plugin}");
        }
        assert_eq!(said("{"), None);
    }
}
