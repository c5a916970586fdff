//! Claims: who has an address, of all pods that say so. The same as `World::owners` of the model, kept up to date.
//!
//! Nearly every address is said to be one pod's, who can have it; only of the others it is remembered who says what.

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
pub(super) struct Contest {
    claimants: Vec<u32>,
    /// Those whose claims stand, oldest first.
    standing: Vec<u32>,
}

/// The ranges that nodes have for their pods.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    by_node: HashMap<Sym, Vec<IpNet>>,
    holders: HashMap<IpNet, Vec<Sym>>,
    /// How many ranges have a length, IPv4 and IPv6.
    lengths: [BTreeMap<u8, u32>; 2],
}

impl Ranges {
    /// Whether pods of a node can have an address.
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

    /// A node has these ranges from now on. Returns those that it has no more or did not have before.
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

    /// The range of a node that holds an address.
    pub(super) fn holding(&self, node: Option<Sym>, address: IpAddr) -> Option<IpNet> {
        self.by_node.get(&node?)?.iter().find(|range| range.contains(&address)).copied()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Sym> {
        self.by_node.keys().copied()
    }
}

impl Pods {
    /// A pod says that it has an address.
    pub(super) fn claim(&mut self, address: IpAddr, index: u32, strings: &Strings) {
        let mut contest = self.contested.remove(&address).unwrap_or_default();
        if contest.claimants.is_empty() {
            contest.claimants.extend(self.sole(address));
        }
        contest.claimants.push(index);
        self.settle(address, contest, strings);
    }

    /// A pod says so no more.
    pub(super) fn disclaim(&mut self, address: IpAddr, index: u32, strings: &Strings) {
        let mut contest = self.contested.remove(&address).unwrap_or_default();
        contest.claimants.retain(|claimant| *claimant != index);
        self.settle(address, contest, strings);
    }

    /// Finds out whose claims stand, and remembers as much of it as there is to say.
    fn settle(&mut self, address: IpAddr, mut contest: Contest, strings: &Strings) {
        contest.standing = self.standing(address, &contest.claimants, strings);
        self.set_owner(address, contest.standing.first().copied());
        if contest.claimants.len() > 1 || contest.standing.is_empty() && !contest.claimants.is_empty() {
            self.contested.insert(address, contest);
        }
    }

    fn standing(&self, address: IpAddr, claimants: &[u32], strings: &Strings) -> Vec<u32> {
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
        let mut standing: Vec<u32> = Vec::new();
        for index in all {
            if !standing.iter().any(|older| self[*older].precedes(&self[index])) {
                standing.push(index);
            }
        }
        standing
    }

    /// Settles anew whatever these nodes claim and whatever is in these ranges. Returns the addresses.
    pub(super) fn settle_again(
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
            let contest = contest.unwrap_or_else(|| Contest {
                claimants: self.sole(*address).into_iter().collect(),
                standing: Vec::new(),
            });
            self.settle(*address, contest, strings);
        }
        addresses
    }

    /// Whether several pods claim an address, or one that cannot have it.
    pub(super) fn is_contested(&self, address: IpAddr) -> bool {
        !self.contested.is_empty() && self.contested.contains_key(&address)
    }

    /// The addresses that pods of a namespace have in dispute.
    pub(super) fn disputed_in(&self, namespace: Sym) -> impl Iterator<Item = IpAddr> {
        let of = move |contest: &Contest| {
            contest.standing.len() > 1 && contest.standing.iter().any(|index| self[*index].namespace == namespace)
        };
        self.contested.iter().filter(move |(_, contest)| of(contest)).map(|(address, _)| *address)
    }

    /// Who has an address, oldest first.
    pub(super) fn owners(&self, address: IpAddr) -> Vec<u32> {
        match self.contested.get(&address) {
            Some(contest) => contest.standing.clone(),
            None => self.sole(address).into_iter().collect(),
        }
    }

    /// Whether nothing that policy can see tells pods apart.
    pub(super) fn are_alike(&self, pods: &[u32]) -> bool {
        pods.iter().all(|index| self[*index].identity == self[pods[0]].identity)
    }
}

/// An address of which several pods say that they have it, or one that cannot have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// The address.
    pub address: IpAddr,
    /// Who has it, oldest first; several, if it is in dispute.
    pub owners: Vec<Claimant>,
    /// Who says so and is not believed, by name.
    pub refused: Vec<Claimant>,
    /// Policy tells the owners apart: the address may only what each of them may.
    pub matters: bool,
}

/// A pod that says it has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// The pod.
    pub pod: PodKey,
    /// Its unique id.
    pub uid: Name,
}

impl Planner {
    /// The addresses of which several pods say that they have them, or one that cannot have it; by address.
    pub fn disputes(&self) -> Vec<Dispute> {
        let key = |index: &u32| {
            let pod = &self.pods[*index];
            let namespace = Name::clone(self.strings.name(pod.namespace));
            Claimant { pod: PodKey { namespace, name: Name::clone(&pod.name) }, uid: Name::clone(&pod.uid) }
        };
        let dispute = |(address, contest): (&IpAddr, &Contest)| {
            let refused = contest.claimants.iter().filter(|index| !contest.standing.contains(index));
            let mut refused: Vec<_> = refused.map(key).collect();
            refused.sort_unstable();
            let owners = contest.standing.iter().map(key).collect();
            Dispute { address: *address, owners, refused, matters: !self.pods.are_alike(&contest.standing) }
        };
        let mut disputes: Vec<_> = self.pods.contested.iter().map(dispute).collect();
        disputes.sort_unstable_by_key(|dispute| dispute.address);
        disputes
    }
}
