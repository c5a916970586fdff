//! The ports that clients are given on this node: in the node's own network, and in those of its pods.

use std::fs;
use std::ops::RangeInclusive;

use ringfence_datapath::EPHEMERAL_PORTS;

/// The node's setting, as the network namespace of the calling thread has it. It holds for both families.
const SETTING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// From the lowest to the highest that either is given. A pod's network begins with the kernel's default, whatever the
/// node's setting is.
pub(crate) fn read() -> RangeInclusive<u16> {
    let of_node = fs::read_to_string(SETTING).ok().and_then(|text| parse(&text));
    let Some(of_node) = of_node else {
        tracing::warn!(setting = SETTING, "cannot be read; the kernel's default is assumed");
        return EPHEMERAL_PORTS;
    };
    *of_node.start().min(EPHEMERAL_PORTS.start())..=*of_node.end().max(EPHEMERAL_PORTS.end())
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(first), Ok(last)) => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{Scratch, can_run};

    #[test]
    fn the_setting_is_two_numbers() {
        assert_eq!(parse("1024\t65535\n"), Some(1024..=65535));
        assert_eq!((parse("1024"), parse("many more"), parse("")), (None, None, None));
    }

    #[test]
    fn it_is_the_nodes_and_widened_to_what_pods_have() {
        if !can_run() {
            return;
        }
        let node = Scratch::new("ports");
        let set = |range: &str| node.0.set_sysctl("net/ipv4/ip_local_port_range", range).unwrap();
        let read = || node.0.run(read).unwrap();
        assert_eq!(read(), EPHEMERAL_PORTS);
        set("20000 40000");
        assert_eq!(read(), 20_000..=60_999);
        set("50000 65535");
        assert_eq!(read(), 32_768..=65_535);
    }
}
