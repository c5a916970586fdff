//! IPVS translates addresses of Services after the hook, and answers back before it: both are judged by the address of
//! the Service (its hooks are at LOCAL_IN 99 and FORWARD 100, ours before source NAT, see `ringfence_datapath`).

/// The services of IPVS in the node's network namespace. Not there where the kernel has no IPVS, or has not loaded it.
const SERVICES: &str = "/proc/net/ip_vs";
/// First words of lines about services; those of their backends begin with an arrow.
const KINDS: &[&str] = &["TCP", "UDP", "SCTP", "FWM"];

/// The warning about a node whose Services go through IPVS.
pub(crate) fn complaint() -> Option<String> {
    has_services(&std::fs::read_to_string(SERVICES).unwrap_or_default()).then(|| {
        "Services of this node go through IPVS, which translates after policy has judged: pods whose egress is \
         isolated do not reach Services that their policies allow; hint: set kube-proxy's mode to nftables or iptables"
            .into()
    })
}

fn has_services(table: &str) -> bool {
    table.lines().any(|line| KINDS.contains(&line.split_whitespace().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_table_with_services_counts() {
        let heading = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
                       -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
        assert!(!has_services("") && !has_services(heading));
        for service in ["TCP  0A600001:01BB rr", "UDP  [fd00:0000:0000:0000:0000:0000:0000:000a]:0035 rr"] {
            assert!(has_services(&format!(
                "{heading}{service}\n  -> 0AF40107:1770      Masq    1      0          0\n"
            )));
        }
    }
}
