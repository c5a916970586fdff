//! Peers: which class every address is in.

use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::IpBlock;

use super::atoms::AtomKey;
use super::classes::{CLOSED, EMPTY, NO_ROOM, Satisfied, Standing};
use super::strings::{Sym, matches};
use super::{Planner, Published};
use crate::Delta;

/// Whether classes had peers before.
type Touched = HashMap<u32, bool>;

impl Planner {
    /// Marks whoever declares a port of this name.
    pub(super) fn mark_declaring(&mut self, name: Sym) {
        let identities = self.pods.identities.iter();
        let declaring = identities.filter(|(_, identity)| identity.visible.ports.iter().any(|port| port.name == name));
        self.dirty.identities.extend(declaring.map(|(number, _)| number));
    }

    /// Marks every identity.
    pub(super) fn mark_all(&mut self) {
        self.dirty.identities.extend(self.pods.identities.iter().map(|(number, _)| number));
    }

    /// Marks the addresses a block covers, and prefixes that changed with it.
    pub(super) fn mark_block(&mut self, block: &IpBlock, nets: Vec<IpNet>) {
        self.dirty.nets.extend(nets);
        let cidr = block.cidr();
        self.dirty.addresses.extend(self.pods.owned(cidr.network(), cidr.broadcast()));
    }

    /// Moves marked peers to their classes. Returns the classes that had no peers and those that have none any more.
    ///
    /// `flips`: endpoints get new rulesets in this delta. They do so before peers go, and must find in an entry that is
    /// about to go what will be there without it; so it first becomes that and goes with the next delta.
    pub(super) fn move_peers(&mut self, delta: &mut Delta, flips: bool) -> (Vec<u32>, Vec<u32>) {
        let mut touched = HashMap::default();
        let mut identities: Vec<_> = std::mem::take(&mut self.dirty.identities).into_iter().collect();
        identities.retain(|identity| self.refresh_identity(*identity));
        self.crowd_out();
        for identity in identities {
            self.move_pods(identity, delta, &mut touched);
        }
        let mut nets = std::mem::take(&mut self.dirty.nets);
        nets.extend(std::mem::take(&mut self.dirty.addresses).into_iter().map(IpNet::from));
        for net in nets {
            let mut standing = self.class_of(net).map(|class| self.standing(net, class));
            if flips && standing.is_none() {
                standing = self.farewell(net);
            }
            self.move_peer(net, standing, delta, &mut touched);
        }
        let (mut born, mut dead) = (Vec::new(), Vec::new());
        for (class, had) in touched {
            match (had, self.classes[class].peers > 0) {
                (false, true) => born.push(class),
                (true, false) => dead.push(class),
                (false, false) | (true, true) => {}
            }
        }
        (born, dead)
    }

    /// Moves all pods of an identity whose class is another. Addresses that several pods claim are looked at later.
    fn move_pods(&mut self, number: u32, delta: &mut Delta, touched: &mut Touched) {
        let class = self.pods.identities[number].class;
        let addresses: Vec<_> = self.pods.addresses(number).collect();
        for address in addresses {
            if class == EMPTY || self.pods.is_contested(address) || !self.crowd.is_empty() {
                self.dirty.addresses.insert(address);
                continue;
            }
            self.dirty.addresses.remove(&address);
            let net = IpNet::from(address);
            let around = self.class_around(net);
            let class = self.classes.join(class, around, &self.atoms);
            let standing = self.standing(net, class);
            self.move_peer(net, Some(standing), delta, touched);
        }
    }

    /// Notes that a peer is in classes, or needs no entry.
    fn move_peer(&mut self, net: IpNet, standing: Option<Standing>, delta: &mut Delta, touched: &mut Touched) {
        let Published { peers, .. } = &mut self.published;
        let before = match standing {
            Some(standing) => peers.insert(net, standing),
            None => peers.remove(&net),
        };
        if before == standing {
            return;
        }
        for class in before.iter().chain(&standing).flat_map(|standing| standing.classes()) {
            touched.entry(class).or_insert_with(|| self.classes[class].peers > 0);
        }
        if let Some(before) = before {
            self.classes.leave(before);
        }
        match standing {
            Some(standing) => {
                self.classes.enter(standing);
                delta.put_peers.push((net, self.classes.peer(standing)));
            }
            None => delta.delete_peers.push(net),
        }
    }

    /// Finds out what the pods of an identity satisfy as pods; removes it if there are none. Whether their class is
    /// another.
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
        let selected = namespace.candidates.iter().filter(|atom| match &self.atoms[**atom].key {
            AtomKey::Pods(selection) => matches(&selection.pods, &visible.labels),
            AtomKey::Block(_) | AtomKey::Nodes(_) | AtomKey::Domain(_) | AtomKey::Port(_) => false,
        });
        let mut atoms: Vec<_> = selected.copied().collect();
        for port in &visible.ports {
            if self.atoms.is_wanted(*port) {
                atoms.push(self.atoms.intern(AtomKey::Port(*port), &self.strings));
            }
        }
        atoms.sort_unstable();
        let universal = self.atoms.universal > 0 && namespace.labels.is_some();
        let class = self.classes.intern(Satisfied::new(universal, atoms), &self.atoms);
        std::mem::replace(&mut self.pods.identities[number].class, class) != class
    }

    /// The class of a prefix or address; none: it needs no entry, because it is in that of the next longest prefix.
    fn class_of(&mut self, net: IpNet) -> Option<u32> {
        if net.prefix_len() < net.max_prefix_len() {
            if self.crowd.closes(net) || self.crowd.covers(net) && self.prefixes.get(net).is_some() {
                return Some(NO_ROOM);
            }
        } else if self.crowd.is_out(net.addr()) {
            // Where nothing else mentions it the range around it speaks for it.
            return self.prefixes.get(net).map(|_| NO_ROOM);
        } else {
            let pod = self.class_of_owners(net.addr());
            // In a range that is closed on account of others who is let in needs an entry, whoever it is.
            if pod != EMPTY || self.crowd.covers(net) && self.pods.sole(net.addr()).is_some() {
                let address = self.class_around(net);
                return Some(self.classes.join(pod, address, &self.atoms));
            }
        }
        let atoms = self.prefixes.get(net)?.to_vec();
        Some(self.classes.intern(Satisfied::new(false, atoms), &self.atoms))
    }

    /// The class of whoever has an address, as a pod. In dispute it is closed if what one of them may is not known.
    fn class_of_owners(&mut self, address: IpAddr) -> u32 {
        let owners = self.pods.owners(address);
        let class = |index: &u32| self.pods.identities[self.pods[*index].identity].class;
        match &owners[..] {
            [] => EMPTY,
            [one] => class(one),
            [..] if self.pods.are_alike(&owners) => class(&owners[0]),
            [..] if owners.iter().any(|index| self.labels(self.pods[*index].namespace).is_none()) => CLOSED,
            several => {
                let several: Vec<_> = several.iter().map(class).collect();
                self.classes.dispute(&several, &self.atoms)
            }
        }
    }

    /// What an entry that goes has to be before it does, if it is not that already.
    fn farewell(&mut self, net: IpNet) -> Option<Standing> {
        let before = *self.published.peers.get(&net)?;
        let class = if self.crowd.covers(net) { NO_ROOM } else { self.class_around(net) };
        let standing = Standing { class, established: class };
        (standing != before).then(|| {
            self.dirty.nets.insert(net);
            standing
        })
    }

    /// The classes of a peer, given that in connections that are opened.
    fn standing(&mut self, net: IpNet, class: u32) -> Standing {
        let atoms = self.prefixes.lingering(net);
        if atoms.is_empty() || class == NO_ROOM {
            return Standing { class, established: class };
        }
        let lingering = self.classes.intern(Satisfied::new(false, atoms), &self.atoms);
        Standing { class, established: self.classes.join(class, lingering, &self.atoms) }
    }

    /// The class of the addresses of a prefix that has no entry, or of an address, pods aside.
    fn class_around(&mut self, net: IpNet) -> u32 {
        let atoms = self.prefixes.around(net);
        if atoms.is_empty() {
            return EMPTY;
        }
        let atoms = atoms.to_vec();
        self.classes.intern(Satisfied::new(false, atoms), &self.atoms)
    }
}
