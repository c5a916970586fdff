//! Addresses that are inside of the cluster or of a machine: an answer of DNS about a name outside opens none of them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ringfence_model::{Name, Node};

use crate::index::Index;

/// Addresses at which clouds tell machines secrets, besides those that are link-local: of Alibaba Cloud, Azure, AWS,
/// and Google Cloud (their documentation).
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Prefixes of 96 bits before an IPv4 address: IPv4-compatible and IPv4-mapped (RFC 4291), IPv4-translated (RFC 2765),
/// and that of translators (RFC 6052).
const BEFORE_IPV4: [[u16; 6]; 4] =
    [[0; 6], [0, 0, 0, 0, 0, 0xffff], [0, 0, 0, 0, 0xffff, 0], [0x64, 0xff9b, 0, 0, 0, 0]];

/// The address that an address means: the IPv4 address inside of it, if there is one.
pub(crate) fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let [head @ .., high, low] = six.segments();
    // `::` and `::1` are no IPv4-compatible addresses.
    let is_own = head == [0; 6] && high == 0;
    if is_own || !BEFORE_IPV4.contains(&head) {
        return address;
    }
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into()
}

/// Description of an address that no Service and no pod can have: such are reached on the machine or the link that one
/// is on. Takes what [`meant`] gives.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    let is_unspecified = match address {
        IpAddr::V4(four) => four.octets()[0] == 0,
        IpAddr::V6(six) => six.is_unspecified(),
    };
    let is_broadcast = address == IpAddr::from(Ipv4Addr::BROADCAST);
    [
        (is_unspecified, "unspecified"),
        (address.is_loopback(), "loopback"),
        (is_link_local, "link-local"),
        (METADATA.contains(&address), "a metadata service's"),
        (address.is_multicast(), "multicast"),
        (is_broadcast, "broadcast"),
    ]
    .into_iter()
    .find_map(|(is, what)| is.then_some(what))
}

/// Addresses of nodes, and ranges of their pods.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    nodes: HashMap<Name, (Vec<IpAddr>, Vec<IpNet>)>,
    /// Number of nodes with each address.
    addresses: HashMap<IpAddr, usize>,
    ranges: HashMap<IpNet, usize>,
    /// Number of ranges by family and length.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Inside {
    /// Takes in a node. Whether anything of it is new.
    pub(crate) fn put(&mut self, node: &Node) -> bool {
        let told = (node.addresses.clone(), node.pod_cidrs.iter().map(IpNet::trunc).collect());
        if self.nodes.get(&node.name) == Some(&told) {
            return false;
        }
        self.remove(&node.name);
        for address in &told.0 {
            *self.addresses.entry(*address).or_default() += 1;
        }
        for range in &told.1 {
            *self.ranges.entry(*range).or_default() += 1;
            *self.lengths.entry(kind(*range)).or_default() += 1;
        }
        self.nodes.insert(Name::clone(&node.name), told);
        true
    }

    /// A node is gone. Whether it was there.
    pub(crate) fn remove(&mut self, name: &Name) -> bool {
        let Some((addresses, ranges)) = self.nodes.remove(name) else { return false };
        for address in &addresses {
            less(&mut self.addresses, address);
        }
        for range in ranges {
            less(&mut self.ranges, &range);
            let Some(count) = self.lengths.get_mut(&kind(range)) else { continue };
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&kind(range));
            }
        }
        true
    }

    /// Whose address it is inside of the cluster, if anybody's. Takes what [`meant`] gives.
    pub(crate) fn whose(&self, address: IpAddr, index: &Index) -> Option<&'static str> {
        if index.claimants(address).next().is_some() {
            return Some("a pod's");
        }
        if self.addresses.contains_key(&address) {
            return Some("a node's");
        }
        if self.is_in_range(address) {
            return Some("in a range of pods");
        }
        index.is_of_services(address).then_some("a Service's")
    }

    fn is_in_range(&self, address: IpAddr) -> bool {
        let lengths = self.lengths.keys().filter(|(four, _)| *four == address.is_ipv4());
        let mut around = lengths.filter_map(|(_, length)| Some(IpNet::new(address, *length).ok()?.trunc()));
        around.any(|net| self.ranges.contains_key(&net))
    }
}

fn kind(range: IpNet) -> (bool, u8) {
    (range.addr().is_ipv4(), range.prefix_len())
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfence_model::Labels;

    use super::*;

    fn of(text: &str) -> Option<&'static str> {
        special(meant(text.parse().unwrap()))
    }

    #[test]
    fn addresses_of_a_machine_or_a_link_are_recognised_in_every_form() {
        for (texts, what) in [
            (["0.0.0.0", "0.1.2.3", "::"].as_slice(), "unspecified"),
            (&["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::127.0.0.1"], "loopback"),
            (&["169.254.169.254", "fe80::1", "febf::1", "::ffff:a9fe:a9fe", "::ffff:0:a9fe:a9fe"], "link-local"),
            (&["fd00:ec2::254", "100.100.100.200", "168.63.129.16", "fd20:ce::254"], "a metadata service's"),
            (&["224.0.0.1", "239.255.255.255", "ff02::1", "::ffff:224.0.0.1"], "multicast"),
            (&["255.255.255.255", "::ffff:255.255.255.255"], "broadcast"),
        ] {
            for text in texts {
                assert_eq!(of(text), Some(what), "{text}");
            }
        }
        for text in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1", "64:ff9b::c000:201", "fec0::1", "1.0.0.0"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn nodes_and_ranges_come_and_go() {
        let index = Index::new("here".into());
        let node = |name: &str, address: &str, ranges: &[&str]| Node {
            name: name.into(),
            labels: Labels::default(),
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        };
        let mut inside = Inside::default();
        assert!(inside.put(&node("a", "10.0.0.1", &["10.244.0.0/24", "fd00:1::/64"])));
        assert!(!inside.put(&node("a", "10.0.0.1", &["10.244.0.0/24", "fd00:1::/64"])), "nothing new");
        assert!(inside.put(&node("b", "10.0.0.1", &["10.244.0.0/24", "10.245.0.0/16"])));
        let whose = |inside: &Inside, text: &str| inside.whose(text.parse().unwrap(), &index);
        assert_eq!(whose(&inside, "10.0.0.1"), Some("a node's"));
        for (text, is) in [("10.244.0.9", true), ("fd00:1::9", true), ("10.245.9.9", true), ("10.244.1.1", false)] {
            assert_eq!(whose(&inside, text).is_some(), is, "{text}");
        }
        assert!(inside.remove(&"a".into()));
        assert_eq!((whose(&inside, "10.0.0.1"), whose(&inside, "fd00:1::9")), (Some("a node's"), None));
        assert!(inside.remove(&"b".into()) && !inside.remove(&"b".into()));
        assert_eq!((whose(&inside, "10.0.0.1"), whose(&inside, "10.244.0.9")), (None, None));
        assert!(inside.lengths.is_empty() && inside.ranges.is_empty() && inside.addresses.is_empty());
    }
}
