//! Addresses that verdicts depend on beside policy: nodes and Services, pod CIDRs of all nodes, and end points of
//! tunnels between nodes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::abi::{Address, CidrKey, InfraValue, infra_flags};
use crate::synced_map::SyncedMap;
use crate::{ApplyError, Error};

/// The maps `infra_addresses`, `tunnels` and `pod_cidrs`.
#[derive(Debug)]
pub(crate) struct InfraMaps {
    addresses: SyncedMap<Address, InfraValue>,
    tunnels: SyncedMap<u32, u32>,
    pod_cidrs: SyncedMap<CidrKey, u64>,
}

impl InfraMaps {
    pub(crate) fn open(maps: &Path) -> Result<Self, Error> {
        Ok(Self {
            addresses: SyncedMap::open(maps, "infra_addresses")?,
            tunnels: SyncedMap::open(maps, "tunnels")?,
            pod_cidrs: SyncedMap::open(maps, "pod_cidrs")?,
        })
    }

    /// Returns true if anything changed.
    pub(crate) fn set_addresses(
        &mut self,
        nodes: impl IntoIterator<Item = IpAddr>,
        services: impl IntoIterator<Item = IpAddr>,
    ) -> Result<bool, ApplyError> {
        let nodes = nodes.into_iter().map(|address| (address, infra_flags::NODE));
        let services = services.into_iter().map(|address| (address, infra_flags::SERVICE));
        let mut flags: HashMap<Address, u64> = HashMap::new();
        for (address, flag) in nodes.chain(services) {
            *flags.entry(address.to_canonical().into()).or_default() |= flag;
        }
        self.addresses
            .set(flags.into_iter().map(|(address, flags)| (address, InfraValue::new(address, flags))).collect())
    }

    /// Returns true if anything changed.
    pub(crate) fn set_pod_cidrs(&mut self, ranges: impl IntoIterator<Item = IpNet>) -> Result<bool, ApplyError> {
        self.pod_cidrs.set(ranges.into_iter().map(|range| (range.into(), 1)).collect())
    }

    /// Returns true if anything changed.
    pub(crate) fn set_tunnels(&mut self, ends: &BTreeSet<(u8, u16)>) -> Result<bool, ApplyError> {
        let key = |(protocol, port): &(u8, u16)| (u32::from(*protocol) << 16 | u32::from(*port), 1);
        self.tunnels.set(ends.iter().map(key).collect())
    }
}
