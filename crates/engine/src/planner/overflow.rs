//! Overflow: addresses of pods that do not fit into the map `ipcache`.
//!
//! Each address is charged to the namespace of its pod. Addresses without room are denied by every endpoint with rules:
//! the range around them is closed (the pod CIDR of their node, if it has one), so that no Deny rule misses them. Other
//! pods in such a range get an entry of their own. Pods without policies match no peers, and go on accepting everybody.

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::HashSet;
use ipnet::IpNet;
use ringfence_model::{Name, PodKey};

use super::Planner;
use super::fair_share::left_out;
use super::ownership::Claimant;
use super::peer_sets::EMPTY;
use super::pods::Pod;

/// Prefix lengths of the ranges around addresses outside of their nodes' pod CIDRs, IPv4 and IPv6. Shorter ones apply
/// to all addresses if there would be too many ranges.
const LENGTHS: [[u8; 2]; 5] = [[31, 127], [24, 64], [16, 48], [8, 32], [0, 0]];

/// Room for two ranges is always left: all of IPv4, and all of IPv6.
const FEWEST: usize = 2;

/// Addresses without an ipcache entry, though a rule may match them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overflow {
    out: BTreeSet<IpAddr>,
    /// The ranges that hold all of them.
    covers: HashSet<IpNet>,
    /// The prefix lengths of the ranges.
    lengths: BTreeSet<u8>,
}

/// Ranges that contain these addresses, at most `most`: the range of an address, or a wider one.
pub(super) fn covers(
    addresses: &BTreeSet<IpAddr>,
    range: impl Fn(IpAddr) -> Option<IpNet>,
    most: usize,
) -> HashSet<IpNet> {
    let mut covers = HashSet::default();
    for longest in LENGTHS {
        let cover = |address: &IpAddr| {
            let range = range(*address).unwrap_or_else(|| IpNet::from(*address));
            let longest = longest[usize::from(address.is_ipv6())];
            IpNet::new(*address, range.prefix_len().min(longest)).unwrap_or(range).trunc()
        };
        covers = addresses.iter().map(cover).collect();
        if covers.len() <= most {
            break;
        }
    }
    covers
}

impl Overflow {
    /// Returns the overflow of these addresses, with at most `most` ranges.
    fn new(out: BTreeSet<IpAddr>, range: impl Fn(IpAddr) -> Option<IpNet>, most: usize) -> Self {
        let covers = covers(&out, range, most);
        let lengths = covers.iter().map(IpNet::prefix_len).collect();
        Self { out, covers, lengths }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// True if there is no room for an address.
    pub(super) fn is_out(&self, address: IpAddr) -> bool {
        self.out.contains(&address)
    }

    /// True if exactly this range is closed.
    pub(super) fn closes(&self, range: IpNet) -> bool {
        self.covers.contains(&range)
    }

    /// True if a prefix lies in a closed range.
    pub(super) fn covers(&self, net: IpNet) -> bool {
        let wider = self.lengths.range(..=net.prefix_len()).filter_map(|length| IpNet::new(net.addr(), *length).ok());
        wider.map(|wider| wider.trunc()).any(|wider| self.covers.contains(&wider))
    }
}

impl Planner {
    /// Addresses of pods without room, which every endpoint with rules denies, and their owners.
    pub fn overflowed_addresses(&self) -> impl Iterator<Item = (IpAddr, Claimant)> {
        let owner = |address| self.pods.sole(address).map(|owner| &self.pods[owner]);
        let claimant = |pod: &Pod| {
            let namespace = Name::clone(self.strings.name(pod.namespace));
            Claimant { pod: PodKey { namespace, name: Name::clone(&pod.name) }, uid: Name::clone(&pod.uid) }
        };
        self.overflow.out.iter().filter_map(move |address| Some((*address, claimant(owner(*address)?))))
    }

    /// The number of these addresses.
    pub fn overflowed_address_count(&self) -> usize {
        self.overflow.out.len()
    }

    /// True if addresses may not fit because of their number.
    pub(super) fn may_overflow(&self) -> bool {
        self.pods.owned_count() + self.hosts.addresses() > self.limits.ipcache / 4 * 3
    }

    /// The largest number of ranges that may be closed because of the overflow.
    pub(super) fn closed_range_limit(&self) -> usize {
        (self.limits.ipcache_cidrs / 8).max(FEWEST)
    }

    /// Finds the addresses without room, and marks the entries that this changes.
    pub(super) fn update_overflow(&mut self) {
        let overflow = self.find_overflow();
        if overflow == self.overflow {
            return;
        }
        let before = std::mem::replace(&mut self.overflow, overflow);
        self.dirty.addresses.extend(before.out.symmetric_difference(&self.overflow.out));
        for cover in before.covers.symmetric_difference(&self.overflow.covers) {
            self.dirty.nets.insert(*cover);
            self.dirty.nets.extend(self.prefixes.inside(*cover));
            self.dirty.addresses.extend(self.pods.owned(cover.network(), cover.broadcast()));
        }
    }

    fn find_overflow(&self) -> Overflow {
        let (mentioned, _) = self.prefixes.count();
        if self.pods.owned_count() + mentioned <= self.limits.ipcache {
            return Overflow::default();
        }
        // Addresses with conflicting owners always count.
        let needs = |(address, pod): &(IpAddr, &Pod)| {
            self.prefixes.get(IpNet::from(*address)).is_none()
                && (self.pods.identities[pod.identity].peer_set != EMPTY || self.pods.is_contested(*address))
        };
        if self.pods.owners_of_all().filter(needs).count() + mentioned <= self.limits.ipcache {
            return Overflow::default();
        }
        // Addresses in `ipBlock`s have quotas, and nodes and domain names are few, so these come first.
        let capacity = self.limits.ipcache.saturating_sub(mentioned);
        let demands = self.pods.owners_of_all().map(|(address, pod)| (pod.namespace, (pod.created, address)));
        let out = left_out(capacity, demands).into_iter().map(|(_, address)| address).collect();
        let range = |address| {
            let node = self.pods.sole(address).and_then(|owner| self.pods[owner].node);
            self.pods.ranges.holding(node, address)
        };
        Overflow::new(out, range, self.closed_range_limit())
    }
}
