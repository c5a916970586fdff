//! Address ownership: the pods that have an address, of all pods that claim it. The same as `World::owners` of the
//! model, kept up to date.
//!
//! Nearly every address is claimed by one pod that can have it. The claims are stored for other addresses only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;
use ringfence_model::{Name, PodKey};

use super::Planner;
use super::pods::Pods;
use super::strings::{Strings, Sym};

/// An address that several pods claim, or one that cannot have it.
#[derive(Debug, Default)]
pub(super) struct ContestedAddress {
    claimants: Vec<u32>,
    /// The accepted claimants, oldest first.
    accepted: Vec<u32>,
}

/// The pod CIDRs of nodes.
#[derive(Debug, Default)]
pub(super) struct PodCidrs {
    by_node: HashMap<Sym, Vec<IpNet>>,
    holders: HashMap<IpNet, Vec<Sym>>,
    /// The number of CIDRs of each prefix length, IPv4 and IPv6.
    lengths: [BTreeMap<u8, u32>; 2],
}

impl PodCidrs {
    /// True if pods of a node can have an address.
    fn admit(&self, node: Option<Sym>, address: IpAddr) -> bool {
        let family = usize::from(address.is_ipv6());
        let nets = self.lengths[family].keys().filter_map(|length| IpNet::new(address, *length).ok());
        let mut held = false;
        for holders in nets.filter_map(|net| self.holders.get(&net.trunc())) {
            if node.is_some_and(|node| holders.contains(&node)) {
                return true;
            }
            held = true;
        }
        let own = node.and_then(|node| self.by_node.get(&node));
        !held && own.is_none_or(|ranges| ranges.iter().all(|range| range.addr().is_ipv6() != address.is_ipv6()))
    }

    /// Sets the pod CIDRs of a node. Returns those that were added or removed.
    pub(super) fn set(&mut self, node: Sym, mut ranges: Vec<IpNet>) -> Vec<IpNet> {
        for range in &mut ranges {
            *range = range.trunc();
        }
        ranges.sort_unstable();
        ranges.dedup();
        let before = self.by_node.remove(&node).unwrap_or_default();
        let gone: Vec<_> = before.iter().filter(|range| !ranges.contains(range)).copied().collect();
        let come: Vec<_> = ranges.iter().filter(|range| !before.contains(range)).copied().collect();
        for range in &gone {
            self.count(*range, false);
            let holders = self.holders.entry(*range).or_default();
            holders.retain(|holder| *holder != node);
            if holders.is_empty() {
                self.holders.remove(range);
            }
        }
        for range in &come {
            self.count(*range, true);
            self.holders.entry(*range).or_default().push(node);
        }
        if !ranges.is_empty() {
            self.by_node.insert(node, ranges);
        }
        gone.into_iter().chain(come).collect()
    }

    fn count(&mut self, range: IpNet, more: bool) {
        let lengths = &mut self.lengths[usize::from(range.addr().is_ipv6())];
        let count = lengths.entry(range.prefix_len()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            lengths.remove(&range.prefix_len());
        }
    }

    /// The pod CIDR of a node that holds an address.
    pub(super) fn holding(&self, node: Option<Sym>, address: IpAddr) -> Option<IpNet> {
        self.by_node.get(&node?)?.iter().find(|range| range.contains(&address)).copied()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Sym> {
        self.by_node.keys().copied()
    }
}

impl Pods {
    /// Adds a claim.
    pub(super) fn claim(&mut self, address: IpAddr, index: u32, strings: &Strings) {
        let mut contest = self.contested.remove(&address).unwrap_or_default();
        if contest.claimants.is_empty() {
            contest.claimants.extend(self.sole(address));
        }
        contest.claimants.push(index);
        self.resolve(address, contest, strings);
    }

    /// Removes a claim.
    pub(super) fn disclaim(&mut self, address: IpAddr, index: u32, strings: &Strings) {
        let mut contest = self.contested.remove(&address).unwrap_or_default();
        contest.claimants.retain(|claimant| *claimant != index);
        self.resolve(address, contest, strings);
    }

    /// Determines the accepted claims, and stores the address as contested if there is more than one claim or none is
    /// accepted.
    fn resolve(&mut self, address: IpAddr, mut contest: ContestedAddress, strings: &Strings) {
        contest.accepted = self.accepted(address, &contest.claimants, strings);
        self.set_owner(address, contest.accepted.first().copied());
        if contest.claimants.len() > 1 || contest.accepted.is_empty() && !contest.claimants.is_empty() {
            self.contested.insert(address, contest);
        }
    }

    fn accepted(&self, address: IpAddr, claimants: &[u32], strings: &Strings) -> Vec<u32> {
        let mut all = claimants.to_vec();
        if self.knows_own && all.iter().any(|index| self[*index].local) {
            all.retain(|index| self[*index].local);
        } else {
            all.retain(|index| self.ranges.admit(self[*index].node, address));
        }
        let age = |index: &u32| {
            let pod = &self[*index];
            (pod.created, &pod.uid, strings.name(pod.namespace), &pod.name)
        };
        all.sort_by(|a, b| age(a).cmp(&age(b)));
        let mut accepted: Vec<u32> = Vec::new();
        for index in all {
            if !accepted.iter().any(|older| self[*older].precedes(&self[index])) {
                accepted.push(index);
            }
        }
        accepted
    }

    /// Determines the owners again of all addresses that pods of these nodes claim or that lie in these ranges. Returns
    /// the addresses.
    pub(super) fn resolve_again(
        &mut self,
        nodes: &HashSet<Sym>,
        ranges: &HashSet<IpNet>,
        strings: &Strings,
    ) -> HashSet<IpAddr> {
        if nodes.is_empty() {
            return HashSet::default();
        }
        let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
        let mut addresses: HashSet<_> = self.contested.keys().copied().filter(within).collect();
        for range in ranges {
            addresses.extend(self.owned(range.network(), range.broadcast()));
        }
        let of_nodes = self.iter().filter(|pod| pod.node.is_some_and(|node| nodes.contains(&node)));
        addresses.extend(of_nodes.flat_map(|pod| pod.addresses.iter().copied()));
        for address in &addresses {
            let contest = self.contested.remove(address);
            let contest = contest.unwrap_or_else(|| ContestedAddress {
                claimants: self.sole(*address).into_iter().collect(),
                accepted: Vec::new(),
            });
            self.resolve(*address, contest, strings);
        }
        addresses
    }

    /// True if an address has several claimants, or one that cannot have it.
    pub(super) fn is_contested(&self, address: IpAddr) -> bool {
        !self.contested.is_empty() && self.contested.contains_key(&address)
    }

    /// The addresses in conflict that pods of a namespace claim.
    pub(super) fn conflicting_in(&self, namespace: Sym) -> impl Iterator<Item = IpAddr> {
        let of = move |contest: &ContestedAddress| {
            contest.accepted.len() > 1 && contest.accepted.iter().any(|index| self[*index].namespace == namespace)
        };
        self.contested.iter().filter(move |(_, contest)| of(contest)).map(|(address, _)| *address)
    }

    /// The owners of an address, oldest first.
    pub(super) fn owners(&self, address: IpAddr) -> Vec<u32> {
        match self.contested.get(&address) {
            Some(contest) => contest.accepted.clone(),
            None => self.sole(address).into_iter().collect(),
        }
    }

    /// True if policy cannot distinguish these pods.
    pub(super) fn are_alike(&self, pods: &[u32]) -> bool {
        pods.iter().all(|index| self[*index].identity == self[pods[0]].identity)
    }
}

/// An address with several claimants, or with one that cannot have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressConflict {
    /// The address.
    pub address: IpAddr,
    /// The owners, oldest first. Several owners are in conflict.
    pub owners: Vec<Claimant>,
    /// The claimants that are not accepted, by name.
    pub refused: Vec<Claimant>,
    /// Policy distinguishes the owners, so the address may only do what each of them may.
    pub matters: bool,
}

/// A pod that claims an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// The pod.
    pub pod: PodKey,
    /// Its unique id.
    pub uid: Name,
}

impl Planner {
    /// The addresses with several claimants, or with one that cannot have it; by address.
    pub fn address_conflicts(&self) -> Vec<AddressConflict> {
        let key = |index: &u32| {
            let pod = &self.pods[*index];
            let namespace = Name::clone(self.strings.name(pod.namespace));
            Claimant { pod: PodKey { namespace, name: Name::clone(&pod.name) }, uid: Name::clone(&pod.uid) }
        };
        let conflict = |(address, contest): (&IpAddr, &ContestedAddress)| {
            let refused = contest.claimants.iter().filter(|index| !contest.accepted.contains(index));
            let mut refused: Vec<_> = refused.map(key).collect();
            refused.sort_unstable();
            let owners = contest.accepted.iter().map(key).collect();
            AddressConflict { address: *address, owners, refused, matters: !self.pods.are_alike(&contest.accepted) }
        };
        let mut address_conflicts: Vec<_> = self.pods.contested.iter().map(conflict).collect();
        address_conflicts.sort_unstable_by_key(|conflict| conflict.address);
        address_conflicts
    }
}
