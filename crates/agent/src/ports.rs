//! Links of this node that are pods', the pod behind each, and links of no known pod: a function of what is seen.
//!
//! A pod joined by a route of its own (/32, /128) is behind the link of that route. A pod on a bridge is behind the
//! link that its network plugin told; where that is not told, or was renamed since, behind the one link of which the
//! kernel says that its other end has the pod's address. Links that have their other end in another namespace and are
//! ports of a bridge of pods, but of no pod that is known, are strangers: nothing may pass there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ringfence_datapath::{Interface, PodLink};
use ringfence_netns::{HardwareAddress, Link, Peer};

use crate::cni_cache::Told;

/// A node's links at one moment.
pub(crate) struct Seen<'a> {
    /// Links, in any order.
    pub(crate) links: &'a [Link],
    /// The links by which addresses are reached that have a route of their own.
    pub(crate) routes: &'a HashMap<IpAddr, u32>,
    /// Reports of network plugins, in any order.
    pub(crate) told: &'a [Told],
    /// The other ends of links that nobody reported.
    pub(crate) inside: &'a HashMap<u32, Peer>,
    /// Addresses of pods of this node.
    pub(crate) local: &'a BTreeSet<IpAddr>,
}

/// The pod behind each link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    /// The links of addresses, as far as known.
    pub(crate) interfaces: BTreeMap<IpAddr, Interface>,
    /// Guard of each link of a pod, links of no known pod included.
    pub(crate) links: BTreeMap<u32, PodLink>,
    /// Their names.
    pub(crate) names: BTreeMap<u32, String>,
}

impl Ports {
    /// Takes in what is known better of some links and addresses.
    pub(crate) fn extend(&mut self, newer: Self) {
        self.interfaces.extend(newer.interfaces);
        self.links.extend(newer.links);
        self.names.extend(newer.names);
    }

    /// Links of which not everything is known that has to be: their other end has to be looked at.
    pub(crate) fn in_doubt(&self) -> impl Iterator<Item = u32> {
        let doubtful = |port: &PodLink| !port.pod || (port.bridge.is_some() && port.mac.is_none());
        self.links.iter().filter(move |(_, port)| doubtful(port)).map(|(index, _)| *index)
    }

    /// True if some pod is on a bridge.
    pub(crate) fn bridged(&self) -> bool {
        self.links.values().any(|port| port.bridge.is_some())
    }
}

/// True if a link can be the node's end of a pod's: its other end is in another namespace.
pub(crate) fn is_end(link: &Link) -> bool {
    matches!(link.kind.as_str(), "veth" | "netkit") && link.peer_namespace.is_some()
}

/// Finds who is behind which link.
pub(crate) fn find(seen: &Seen<'_>) -> Ports {
    let mut search = Search::new(seen);
    search.by_routes(seen);
    search.by_results(seen);
    search.by_looking(seen);
    search.ports(seen)
}

/// Result so far.
struct Search<'a> {
    links: HashMap<u32, &'a Link>,
    owners: BTreeMap<IpAddr, u32>,
    /// Links of which a plugin told.
    claimed: HashSet<u32>,
    /// Hardware addresses that were told.
    hardware: HashMap<IpAddr, HardwareAddress>,
}

impl<'a> Search<'a> {
    fn new(seen: &Seen<'a>) -> Self {
        let links = seen.links.iter().map(|link| (link.index, link)).collect();
        Self { links, owners: BTreeMap::new(), claimed: HashSet::new(), hardware: HashMap::new() }
    }

    fn link(&self, index: u32) -> Option<&'a Link> {
        self.links.get(&index).copied()
    }

    /// A route to a bridge says nothing of the port.
    fn by_routes(&mut self, seen: &Seen<'_>) {
        for address in seen.local {
            let link = seen.routes.get(address).and_then(|index| self.link(*index));
            if let Some(link) = link.filter(|link| link.kind != "bridge") {
                self.owners.insert(*address, link.index);
            }
        }
    }

    /// A link is of the pod of which was told last, and so is an address, whether it is an address of a pod now or not.
    fn by_results(&mut self, seen: &Seen<'_>) {
        let names: HashMap<&str, &Link> =
            seen.links.iter().filter(|link| is_end(link)).map(|link| (link.name.as_str(), link)).collect();
        let mut told: Vec<&Told> = seen.told.iter().collect();
        told.sort_by_key(|told| std::cmp::Reverse(told.at));
        let mut spoken_of = HashSet::new();
        for told in told {
            let ends: Vec<&&Link> = told.links.iter().filter_map(|name| names.get(name.as_str())).collect();
            let port = ends.iter().find(|link| link.controller.is_some()).or_else(|| ends.first());
            let link = port.filter(|link| self.claimed.insert(link.index));
            for address in told.addresses.iter().filter(|address| seen.local.contains(address)) {
                if !spoken_of.insert(*address) {
                    continue;
                }
                self.hardware.extend(told.hardware_address.map(|hardware| (*address, hardware)));
                if let Some(link) = link {
                    self.owners.entry(*address).or_insert(link.index);
                }
            }
        }
    }

    /// Of what nothing else tells, the kernel does. An address that several have is nobody's.
    fn by_looking(&mut self, seen: &Seen<'_>) {
        let mut holders: HashMap<IpAddr, Vec<u32>> = HashMap::new();
        for (index, peer) in seen.inside {
            if self.link(*index).is_some_and(is_end) && !self.claimed.contains(index) {
                peer.addresses.iter().for_each(|address| holders.entry(*address).or_default().push(*index));
            }
        }
        for address in seen.local {
            if let Some([index]) = holders.get(address).map(Vec::as_slice) {
                self.owners.entry(*address).or_insert(*index);
            }
        }
    }

    fn ports(&self, seen: &Seen<'_>) -> Ports {
        let mut ports = Ports::default();
        for (address, index) in &self.owners {
            let Some(link) = self.link(*index) else { continue };
            ports.interfaces.insert(*address, Interface { index: *index, bridge: link.controller });
            if is_end(link) {
                let bridge = self.bridge(link);
                let looked = || seen.inside.get(index)?.hardware_address;
                let mac = bridge.and_then(|_| self.hardware.get(address).copied().or_else(looked));
                let port = ports.links.entry(*index).or_insert(PodLink { bridge, mac, pod: true, idle: false });
                port.mac = port.mac.or(mac);
            }
        }
        let bridges: BTreeSet<u32> = ports.links.values().filter_map(|port| port.bridge).collect();
        for link in seen.links.iter().filter(|link| is_end(link)) {
            let bridge = self.bridge(link).filter(|bridge| bridges.contains(bridge));
            if bridge.is_some() {
                ports.links.entry(link.index).or_insert(PodLink { bridge, mac: None, pod: false, idle: false });
            }
        }
        let name = |index: &u32| Some((*index, self.link(*index)?.name.clone()));
        ports.names = ports.links.keys().filter_map(name).collect();
        ports
    }

    /// The bridge that a link is a port of.
    fn bridge(&self, link: &Link) -> Option<u32> {
        link.controller.filter(|index| self.link(*index).is_some_and(|link| link.kind == "bridge"))
    }
}

#[cfg(test)]
mod tests;
