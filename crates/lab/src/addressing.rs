//! Addresses of the lab, for each of the two IP families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Port of the API inside the lab's network.
pub const API_PORT: u16 = 6443;
/// Most nodes a lab can have.
pub const MAX_NODES: usize = 64;

/// The IP families of a lab; the first is the one objects have by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Families {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// IPv4 first, IPv6 beside it.
    DualStack,
}

/// One IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Families {
    /// The families, default first.
    pub fn each(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::V4],
            Self::Ipv6 => &[Family::V6],
            Self::DualStack => &[Family::V4, Family::V6],
        }
    }

    fn map<T>(self, what: impl Fn(Family) -> T) -> Vec<T> {
        self.each().iter().map(|family| what(*family)).collect()
    }

    /// Addresses of the fabric, where the API is.
    pub fn fabric(self) -> Vec<IpNet> {
        self.map(|family| host(family, 1))
    }

    /// Addresses of a node in the fabric; nodes count from 1.
    pub fn node(self, number: usize) -> Vec<IpNet> {
        self.map(|family| host(family, number as u128 + 10))
    }

    /// Ranges of a node's pods.
    pub fn pod_ranges(self, number: usize) -> Vec<IpNet> {
        self.map(|family| match family {
            Family::V4 => net4(Ipv4Addr::new(10, 245, u8::try_from(number).unwrap_or(u8::MAX), 0), 24),
            Family::V6 => net6(Ipv6Addr::from_bits(POD_BASE6 | (number as u128) << 64), 64),
        })
    }

    /// The range all pods are in.
    pub fn cluster_ranges(self) -> Vec<IpNet> {
        self.map(|family| match family {
            Family::V4 => net4(Ipv4Addr::new(10, 245, 0, 0), 16),
            Family::V6 => net6(Ipv6Addr::from_bits(POD_BASE6), 56),
        })
    }

    /// The range Services get their addresses from.
    pub fn service_ranges(self) -> Vec<IpNet> {
        self.map(|family| match family {
            Family::V4 => net4(Ipv4Addr::new(10, 97, 0, 0), 16),
            Family::V6 => net6(Ipv6Addr::new(0xfd00, 0x10, 0x97, 0, 0, 0, 0, 0), 112),
        })
    }

    /// Addresses of the cluster's DNS.
    pub fn dns(self) -> Vec<IpAddr> {
        self.map(|family| match family {
            Family::V4 => Ipv4Addr::new(10, 97, 0, 10).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x97, 0, 0, 0, 0, 0xa).into(),
        })
    }

    /// Addresses of the Service `kubernetes`.
    pub fn api_service(self) -> Vec<IpAddr> {
        self.map(|family| match family {
            Family::V4 => Ipv4Addr::new(10, 97, 0, 1).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x97, 0, 0, 0, 0, 1).into(),
        })
    }
}

impl Family {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The next hop of every pod. Every node answers for it on every pod's link, so pods need no subnet.
    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(169, 254, 1, 1).into(),
            Self::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The prefix that contains every address of the family.
    pub fn everywhere(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }
}

const POD_BASE6: u128 = 0xfd00_0010_0245 << 80;

/// A pod's address: the node's range and the pod's number on the node.
pub fn pod_address(range: IpNet, number: u8) -> IpAddr {
    match range {
        IpNet::V4(range) => Ipv4Addr::from_bits(range.network().to_bits() | u32::from(number)).into(),
        IpNet::V6(range) => Ipv6Addr::from_bits(range.network().to_bits() | u128::from(number)).into(),
    }
}

fn host(family: Family, number: u128) -> IpNet {
    match family {
        Family::V4 => net4(Ipv4Addr::new(10, 89, 0, (number & 0xff) as u8), 24),
        Family::V6 => net6(Ipv6Addr::from_bits(0xfd89 << 112 | number), 64),
    }
}

fn net4(address: Ipv4Addr, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, length))
}

fn net6(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_pods_have_addresses_of_both_families() {
        let text = |nets: Vec<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        let families = Families::DualStack;
        assert_eq!(text(families.fabric()), ["10.89.0.1/24", "fd89::1/64"]);
        assert_eq!(text(families.node(2)), ["10.89.0.12/24", "fd89::c/64"]);
        assert_eq!(text(families.pod_ranges(2)), ["10.245.2.0/24", "fd00:10:245:2::/64"]);
        assert_eq!(text(families.cluster_ranges()), ["10.245.0.0/16", "fd00:10:245::/56"]);
        let pods: Vec<String> =
            families.pod_ranges(1).into_iter().map(|range| pod_address(range, 7).to_string()).collect();
        assert_eq!(pods, ["10.245.1.7", "fd00:10:245:1::7"]);
    }

    #[test]
    fn every_nodes_pods_are_inside_the_clusters_range() {
        for (range, cluster) in
            Families::DualStack.pod_ranges(MAX_NODES).iter().zip(Families::DualStack.cluster_ranges())
        {
            assert!(cluster.contains(range), "{cluster} {range}");
        }
    }
}
