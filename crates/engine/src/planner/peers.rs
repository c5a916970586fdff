//! Peers: which class every address is in.

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::IpBlock;

use super::atoms::AtomKey;
use super::classes::{EMPTY, Satisfied};
use super::strings::{Sym, matches};
use super::{Planner, Published};
use crate::Delta;

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
        for identity in std::mem::take(&mut self.dirty.identities) {
            self.refresh_identity(identity);
        }
        let mut nets = std::mem::take(&mut self.dirty.nets);
        nets.extend(std::mem::take(&mut self.dirty.addresses).into_iter().map(IpNet::from));
        let mut touched: HashMap<u32, bool> = HashMap::default();
        for net in nets {
            let mut class = self.class_of(net);
            if flips && class.is_none() {
                class = self.farewell(net);
            }
            let Published { peers, .. } = &mut self.published;
            let before = match class {
                Some(class) => peers.insert(net, class),
                None => peers.remove(&net),
            };
            if before == class {
                continue;
            }
            for class in before.iter().chain(&class) {
                touched.entry(*class).or_insert_with(|| self.classes[*class].peers > 0);
            }
            if let Some(before) = before {
                self.classes.leave(before);
            }
            match class {
                Some(class) => {
                    self.classes.enter(class);
                    delta.put_peers.push((net, self.classes[class].peer()));
                }
                None => delta.delete_peers.push(net),
            }
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

    /// Finds out what the pods of an identity satisfy as pods; removes it if there are none.
    fn refresh_identity(&mut self, number: u32) {
        let Some(identity) = self.pods.identities.get(number) else { return };
        if identity.pods.is_empty() {
            if let Some(identity) = self.pods.remove_identity(number)
                && let Some(namespace) = self.namespaces.get_mut(&identity.visible.namespace)
            {
                namespace.identities.remove(&number);
            }
            return;
        }
        let visible = &identity.visible;
        let Some(namespace) = self.namespaces.get(&visible.namespace) else { return };
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
        let class = self.classes.intern(Satisfied { universal, atoms }, &self.atoms);
        if class != identity.class {
            self.pods.identities[number].class = class;
            self.dirty.addresses.extend(self.pods.addresses(number));
        }
    }

    /// The class of a prefix or address; none: it needs no entry, because it is in that of the next longest prefix.
    fn class_of(&mut self, net: IpNet) -> Option<u32> {
        if net.prefix_len() == net.max_prefix_len() {
            let owner = self.pods.owner(net.addr());
            let pod = owner.map_or(EMPTY, |pod| self.pods.identities[pod.identity].class);
            if pod != EMPTY {
                let address = self.class_around(net);
                return Some(self.classes.join(pod, address, &self.atoms));
            }
        }
        let atoms = self.prefixes.get(net)?.to_vec();
        Some(self.classes.intern(Satisfied { universal: false, atoms }, &self.atoms))
    }

    /// What an entry that goes has to be before it does, if it is not that already.
    fn farewell(&mut self, net: IpNet) -> Option<u32> {
        let before = *self.published.peers.get(&net)?;
        let class = self.class_around(net);
        (class != before).then(|| {
            self.dirty.nets.insert(net);
            class
        })
    }

    /// The class of the addresses of a prefix that has no entry, or of an address, pods aside.
    fn class_around(&mut self, net: IpNet) -> u32 {
        let atoms = self.prefixes.around(net).to_vec();
        self.classes.intern(Satisfied { universal: false, atoms }, &self.atoms)
    }
}
