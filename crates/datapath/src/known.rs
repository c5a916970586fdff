//! What is known of addresses beyond policy: which are of nodes and of Services, which ranges are of pods, and where
//! tunnels of nodes end.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::abi::{Address, KnownValue, PrefixKey, known_flags};
use crate::mirror::Mirror;
use crate::{ApplyError, Error};

/// The maps `known_addresses`, `tunnels` and `pod_ranges`.
#[derive(Debug)]
pub(crate) struct Known {
    addresses: Mirror<Address, KnownValue>,
    tunnels: Mirror<u32, u32>,
    pod_ranges: Mirror<PrefixKey, u64>,
}

impl Known {
    pub(crate) fn open(maps: &Path) -> Result<Self, Error> {
        Ok(Self {
            addresses: Mirror::open(maps, "known_addresses")?,
            tunnels: Mirror::open(maps, "tunnels")?,
            pod_ranges: Mirror::open(maps, "pod_ranges")?,
        })
    }

    /// True if anything differs.
    pub(crate) fn set_addresses(
        &mut self,
        nodes: impl IntoIterator<Item = IpAddr>,
        services: impl IntoIterator<Item = IpAddr>,
    ) -> Result<bool, ApplyError> {
        let nodes = nodes.into_iter().map(|address| (address, known_flags::NODE));
        let services = services.into_iter().map(|address| (address, known_flags::SERVICE));
        let mut flags: HashMap<Address, u64> = HashMap::new();
        for (address, flag) in nodes.chain(services) {
            *flags.entry(address.to_canonical().into()).or_default() |= flag;
        }
        self.addresses
            .set(flags.into_iter().map(|(address, flags)| (address, KnownValue::new(address, flags))).collect())
    }

    /// True if anything differs.
    pub(crate) fn set_pod_ranges(&mut self, ranges: impl IntoIterator<Item = IpNet>) -> Result<bool, ApplyError> {
        self.pod_ranges.set(ranges.into_iter().map(|range| (range.into(), 1)).collect())
    }

    /// True if anything differs.
    pub(crate) fn set_tunnels(&mut self, ends: &BTreeSet<(u8, u16)>) -> Result<bool, ApplyError> {
        let key = |(protocol, port): &(u8, u16)| (u32::from(*protocol) << 16 | u32::from(*port), 1);
        self.tunnels.set(ends.iter().map(key).collect())
    }
}
