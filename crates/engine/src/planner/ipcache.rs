//! The ipcache: the peer set of every address.

use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::IpBlock;

use super::peer_selectors::PeerSelector;
use super::peer_sets::{CLOSED, EMPTY, Membership, NO_ROOM, PeerSetContent};
use super::strings::{Sym, matches};
use super::{Planner, Published};
use crate::Delta;

/// Peer sets, and true if they had peers before.
type Touched = HashMap<u32, bool>;

impl Planner {
    /// Marks all pods that declare a port of this name.
    pub(super) fn mark_declaring(&mut self, name: Sym) {
        let identities = self.pods.identities.iter();
        let declaring = identities.filter(|(_, identity)| identity.visible.ports.iter().any(|port| port.name == name));
        self.dirty.identities.extend(declaring.map(|(number, _)| number));
    }

    /// Marks every identity.
    pub(super) fn mark_all(&mut self) {
        self.dirty.identities.extend(self.pods.identities.iter().map(|(number, _)| number));
    }

    /// Marks the addresses that an `ipBlock` covers, and prefixes that changed with it.
    pub(super) fn mark_ip_block(&mut self, block: &IpBlock, nets: Vec<IpNet>) {
        self.dirty.nets.extend(nets);
        let cidr = block.cidr();
        self.dirty.addresses.extend(self.pods.owned(cidr.network(), cidr.broadcast()));
    }

    /// Moves marked peers to their peer sets. Returns the peer sets that gained their first peer and those that lost
    /// their last one.
    ///
    /// `flips`: endpoints get new rulesets in this delta. They do so before ipcache entries are removed, and have to
    /// find the same peer set with and without such an entry. So the entry first takes the value that applies after its
    /// removal, and is removed by the next delta.
    pub(super) fn move_ipcache(&mut self, delta: &mut Delta, flips: bool) -> (Vec<u32>, Vec<u32>) {
        let mut touched = HashMap::default();
        let mut identities: Vec<_> = std::mem::take(&mut self.dirty.identities).into_iter().collect();
        identities.retain(|identity| self.refresh_identity(*identity));
        self.update_overflow();
        for identity in identities {
            self.move_pods(identity, delta, &mut touched);
        }
        let mut nets = std::mem::take(&mut self.dirty.nets);
        nets.extend(std::mem::take(&mut self.dirty.addresses).into_iter().map(IpNet::from));
        for net in nets {
            let mut membership = self.peer_set_of(net).map(|peer_set| self.membership(net, peer_set));
            if flips && membership.is_none() {
                membership = self.tombstone(net);
            }
            self.move_ipcache_entry(net, membership, delta, &mut touched);
        }
        let (mut born, mut dead) = (Vec::new(), Vec::new());
        for (peer_set, had) in touched {
            match (had, self.peer_sets[peer_set].peers > 0) {
                (false, true) => born.push(peer_set),
                (true, false) => dead.push(peer_set),
                (false, false) | (true, true) => {}
            }
        }
        (born, dead)
    }

    /// Moves all pods of an identity whose peer set changed. Addresses with several claimants are processed later.
    fn move_pods(&mut self, number: u32, delta: &mut Delta, touched: &mut Touched) {
        let peer_set = self.pods.identities[number].peer_set;
        let addresses: Vec<_> = self.pods.addresses(number).collect();
        for address in addresses {
            if peer_set == EMPTY || self.pods.is_contested(address) || !self.overflow.is_empty() {
                self.dirty.addresses.insert(address);
                continue;
            }
            self.dirty.addresses.remove(&address);
            let net = IpNet::from(address);
            let around = self.peer_set_around(net);
            let peer_set = self.peer_sets.union(peer_set, around, &self.peer_selectors);
            let membership = self.membership(net, peer_set);
            self.move_ipcache_entry(net, Some(membership), delta, touched);
        }
    }

    /// Records the peer sets of a peer; none if it needs no entry.
    fn move_ipcache_entry(
        &mut self,
        net: IpNet,
        membership: Option<Membership>,
        delta: &mut Delta,
        touched: &mut Touched,
    ) {
        let Published { ipcache, .. } = &mut self.published;
        let before = match membership {
            Some(membership) => ipcache.insert(net, membership),
            None => ipcache.remove(&net),
        };
        if before == membership {
            return;
        }
        for peer_set in before.iter().chain(&membership).flat_map(|membership| membership.peer_sets()) {
            touched.entry(peer_set).or_insert_with(|| self.peer_sets[peer_set].peers > 0);
        }
        if let Some(before) = before {
            self.peer_sets.remove_peer(before);
        }
        match membership {
            Some(membership) => {
                self.peer_sets.add_peer(membership);
                delta.put_ipcache.push((net, self.peer_sets.peer(membership)));
            }
            None => delta.delete_ipcache.push(net),
        }
    }

    /// Computes the peer set of an identity; removes the identity if it has no pods. Returns true if the peer set
    /// changed.
    fn refresh_identity(&mut self, number: u32) -> bool {
        let Some(identity) = self.pods.identities.get(number) else { return false };
        if identity.pods.is_empty() {
            if let Some(identity) = self.pods.remove_identity(number)
                && let Some(namespace) = self.namespaces.get_mut(&identity.visible.namespace)
            {
                namespace.identities.remove(&number);
            }
            return false;
        }
        let visible = &identity.visible;
        let Some(namespace) = self.namespaces.get(&visible.namespace) else { return false };
        let selected =
            namespace.candidates.iter().filter(|peer_selector| match &self.peer_selectors[**peer_selector].key {
                PeerSelector::Pods(selection) => matches(&selection.pods, &visible.labels),
                PeerSelector::Block(_) | PeerSelector::Nodes(_) | PeerSelector::Domain(_) | PeerSelector::Port(_) => {
                    false
                }
            });
        let mut peer_selectors: Vec<_> = selected.copied().collect();
        for port in &visible.ports {
            if self.peer_selectors.is_wanted(*port) {
                peer_selectors.push(self.peer_selectors.intern(PeerSelector::Port(*port), &self.strings));
            }
        }
        peer_selectors.sort_unstable();
        let any_pod = self.peer_selectors.any_pod > 0 && namespace.labels.is_some();
        let peer_set = self.peer_sets.intern(PeerSetContent::new(any_pod, peer_selectors), &self.peer_selectors);
        std::mem::replace(&mut self.pods.identities[number].peer_set, peer_set) != peer_set
    }

    /// The peer set of a prefix or address. None: it needs no entry, because the next longer prefix around it has the
    /// same one.
    fn peer_set_of(&mut self, net: IpNet) -> Option<u32> {
        if net.prefix_len() < net.max_prefix_len() {
            if self.overflow.closes(net) || self.overflow.covers(net) && self.prefixes.get(net).is_some() {
                return Some(NO_ROOM);
            }
        } else if self.overflow.is_out(net.addr()) {
            // Without another reason for an entry, the closed range around the address denies it.
            return self.prefixes.get(net).map(|_| NO_ROOM);
        } else {
            let pod = self.peer_set_of_owners(net.addr());
            // A pod in a range that is closed because of others needs an entry of its own.
            if pod != EMPTY || self.overflow.covers(net) && self.pods.sole(net.addr()).is_some() {
                let address = self.peer_set_around(net);
                return Some(self.peer_sets.union(pod, address, &self.peer_selectors));
            }
        }
        let peer_selectors = self.prefixes.get(net)?.to_vec();
        Some(self.peer_sets.intern(PeerSetContent::new(false, peer_selectors), &self.peer_selectors))
    }

    /// The peer set of the owners of an address, as pods. Conflicting owners close it if the namespace of one is
    /// unknown.
    fn peer_set_of_owners(&mut self, address: IpAddr) -> u32 {
        let owners = self.pods.owners(address);
        let peer_set = |index: &u32| self.pods.identities[self.pods[*index].identity].peer_set;
        match &owners[..] {
            [] => EMPTY,
            [one] => peer_set(one),
            [..] if self.pods.are_alike(&owners) => peer_set(&owners[0]),
            [..] if owners.iter().any(|index| self.labels(self.pods[*index].namespace).is_none()) => CLOSED,
            several => {
                let several: Vec<_> = several.iter().map(peer_set).collect();
                self.peer_sets.conflict(&several, &self.peer_selectors)
            }
        }
    }

    /// The value that an entry has to take before it is removed, if it differs.
    fn tombstone(&mut self, net: IpNet) -> Option<Membership> {
        let before = *self.published.ipcache.get(&net)?;
        let peer_set = if self.overflow.covers(net) { NO_ROOM } else { self.peer_set_around(net) };
        let membership = Membership { peer_set, established: peer_set };
        (membership != before).then(|| {
            self.dirty.nets.insert(net);
            membership
        })
    }

    /// The peer sets of a peer, from the one for new connections.
    fn membership(&mut self, net: IpNet, peer_set: u32) -> Membership {
        let peer_selectors = self.prefixes.lingering(net);
        if peer_selectors.is_empty() || peer_set == NO_ROOM {
            return Membership { peer_set, established: peer_set };
        }
        let lingering = self.peer_sets.intern(PeerSetContent::new(false, peer_selectors), &self.peer_selectors);
        Membership { peer_set, established: self.peer_sets.union(peer_set, lingering, &self.peer_selectors) }
    }

    /// The peer set of a prefix or address without an entry of its own, pods aside.
    fn peer_set_around(&mut self, net: IpNet) -> u32 {
        let peer_selectors = self.prefixes.around(net);
        if peer_selectors.is_empty() {
            return EMPTY;
        }
        let peer_selectors = peer_selectors.to_vec();
        self.peer_sets.intern(PeerSetContent::new(false, peer_selectors), &self.peer_selectors)
    }
}
