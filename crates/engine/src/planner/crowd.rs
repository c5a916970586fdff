//! The crowd: addresses of pods that the map `peers` has no room for.
//!
//! Each of them is charged to the namespace of its pod. Who has none is denied by everybody who has rules: the range
//! around it is closed (the range of its node, where there is one), so that no rule that denies misses it; whoever else
//! is a pod in such a range has an entry of its own. Pods without policies ask about nobody, and go on hearing
//! everybody.

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::HashSet;
use ipnet::IpNet;
use ringfence_model::{Name, PodKey};

use super::Planner;
use super::claims::Claimant;
use super::classes::EMPTY;
use super::pods::Pod;
use super::share::left_out;

/// How long the ranges around addresses outside of their nodes' ranges are, IPv4 and IPv6; and all of them, where more
/// than fit would be needed.
const LENGTHS: [[u8; 2]; 5] = [[31, 127], [24, 64], [16, 48], [8, 32], [0, 0]];

/// As many are always there: everything, IPv4 and IPv6.
const FEWEST: usize = 2;

/// Who has no entry among the peers, though a rule may be about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Crowd {
    out: BTreeSet<IpAddr>,
    /// Ranges that hold all of them.
    covers: HashSet<IpNet>,
    /// How long these are.
    lengths: BTreeSet<u8>,
}

/// Ranges that hold these addresses, of which there are so many at most: that of an address, or one around it.
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

impl Crowd {
    /// Those addresses in ranges, of which there are so many at most.
    fn new(out: BTreeSet<IpAddr>, range: impl Fn(IpAddr) -> Option<IpNet>, most: usize) -> Self {
        let covers = covers(&out, range, most);
        let lengths = covers.iter().map(IpNet::prefix_len).collect();
        Self { out, covers, lengths }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether there is no room for an address.
    pub(super) fn is_out(&self, address: IpAddr) -> bool {
        self.out.contains(&address)
    }

    /// Whether this very range is closed.
    pub(super) fn closes(&self, range: IpNet) -> bool {
        self.covers.contains(&range)
    }

    /// Whether a prefix is in a range that is closed.
    pub(super) fn covers(&self, net: IpNet) -> bool {
        let wider = self.lengths.range(..=net.prefix_len()).filter_map(|length| IpNet::new(net.addr(), *length).ok());
        wider.map(|wider| wider.trunc()).any(|wider| self.covers.contains(&wider))
    }
}

impl Planner {
    /// Addresses of pods that everybody denies who has rules, for there is no room for them; and whose they are.
    pub fn crowded_out(&self) -> impl Iterator<Item = (IpAddr, Claimant)> {
        let owner = |address| self.pods.sole(address).map(|owner| &self.pods[owner]);
        let claimant = |pod: &Pod| {
            let namespace = Name::clone(self.strings.name(pod.namespace));
            Claimant { pod: PodKey { namespace, name: Name::clone(&pod.name) }, uid: Name::clone(&pod.uid) }
        };
        self.crowd.out.iter().filter_map(move |address| Some((*address, claimant(owner(*address)?))))
    }

    /// How many there are.
    pub fn crowded_out_count(&self) -> usize {
        self.crowd.out.len()
    }

    /// Whether so many addresses are known that there may not be room for all.
    pub(super) fn may_be_crowded(&self) -> bool {
        self.pods.owned_count() + self.hosts.addresses() > self.limits.peers / 4 * 3
    }

    /// How many ranges may be closed on account of those without room.
    pub(super) fn room_for_covers(&self) -> usize {
        (self.limits.prefixes / 8).max(FEWEST)
    }

    /// Finds those without room, and marks what has to be looked at on that account.
    pub(super) fn crowd_out(&mut self) {
        let crowd = self.find_crowd();
        if crowd == self.crowd {
            return;
        }
        let before = std::mem::replace(&mut self.crowd, crowd);
        self.dirty.addresses.extend(before.out.symmetric_difference(&self.crowd.out));
        for cover in before.covers.symmetric_difference(&self.crowd.covers) {
            self.dirty.nets.insert(*cover);
            self.dirty.nets.extend(self.prefixes.inside(*cover));
            self.dirty.addresses.extend(self.pods.owned(cover.network(), cover.broadcast()));
        }
    }

    fn find_crowd(&self) -> Crowd {
        let (mentioned, _) = self.prefixes.count();
        if self.pods.owned_count() + mentioned <= self.limits.peers {
            return Crowd::default();
        }
        // What is in dispute counts, whoever it is.
        let needs = |(address, pod): &(IpAddr, &Pod)| {
            self.prefixes.get(IpNet::from(*address)).is_none()
                && (self.pods.identities[pod.identity].class != EMPTY || self.pods.is_contested(*address))
        };
        if self.pods.owners_of_all().filter(needs).count() + mentioned <= self.limits.peers {
            return Crowd::default();
        }
        // Blocks have been rationed, and nodes and domain names are few: they have theirs.
        let room = self.limits.peers.saturating_sub(mentioned);
        let wants = self.pods.owners_of_all().map(|(address, pod)| (pod.namespace, (pod.created, address)));
        let out = left_out(room, wants).into_iter().map(|(_, address)| address).collect();
        let range = |address| {
            let node = self.pods.sole(address).and_then(|owner| self.pods[owner].node);
            self.pods.ranges.holding(node, address)
        };
        Crowd::new(out, range, self.room_for_covers())
    }
}
