//! Settings that make bridged packets pass netfilter.
//!
//! They do only while `net.bridge.bridge-nf-call-iptables` (and `-ip6tables`) is 1 in the node's network namespace.
//! Otherwise neighbours on the bridge talk unseen, whatever policy says, so this is watched for as long as we run.

use std::path::Path;

use ringfence_api::BridgeNetfilter;

/// Directory of the settings; they are those of the network namespace of whoever reads.
const SETTINGS: &str = "/proc/sys/net/bridge";

/// The settings now. A missing file is a bridge module that is not loaded: then nothing bridged passes the hook.
pub(crate) fn read() -> BridgeNetfilter {
    read_from(Path::new(SETTINGS))
}

fn read_from(dir: &Path) -> BridgeNetfilter {
    let on = |name| std::fs::read_to_string(dir.join(name)).is_ok_and(|value| value.trim() == "1");
    BridgeNetfilter { ipv4: on("bridge-nf-call-iptables"), ipv6: on("bridge-nf-call-ip6tables") }
}

/// The warning if bridged packets of a family do not pass netfilter.
pub(crate) fn complaint(bridge: BridgeNetfilter) -> Option<String> {
    let settings = match (bridge.ipv4, bridge.ipv6) {
        (true, true) => return None,
        (false, true) => "net.bridge.bridge-nf-call-iptables",
        (true, false) => "net.bridge.bridge-nf-call-ip6tables",
        (false, false) => "net.bridge.bridge-nf-call-iptables and net.bridge.bridge-nf-call-ip6tables",
    };
    Some(format!(
        "pods of this node are joined by a bridge and {settings} is not 1: packets between them are NOT FILTERED; \
         hint: modprobe br_netfilter && sysctl -w {}=1",
        settings.replace(" and ", "=1 ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_as_bad_as_a_zero() {
        let dir = std::env::temp_dir().join(format!("ringfence-bridge-{}", std::process::id()));
        assert_eq!(read_from(&dir), BridgeNetfilter { ipv4: false, ipv6: false });
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("bridge-nf-call-iptables"), "1\n").unwrap();
        std::fs::write(dir.join("bridge-nf-call-ip6tables"), "0\n").unwrap();
        let bridge = read_from(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(bridge, BridgeNetfilter { ipv4: true, ipv6: false });
        assert!(complaint(bridge).unwrap().contains("bridge-nf-call-ip6tables=1"));
        assert_eq!(complaint(BridgeNetfilter { ipv4: true, ipv6: true }), None);
    }
}
