//! Pods, grouped by the properties that policy can see, and the owners of addresses.

use foldhash::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::Name;

use super::ownership::{ContestedAddress, PodCidrs};
use super::peer_sets::EMPTY;
use super::slab::Slab;
use super::strings::{NamedPort, Pairs, Strings, Sym};
use crate::RulesetId;

/// A pod that policies select.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: Sym,
    pub(super) name: Name,
    pub(super) uid: Name,
    pub(super) node: Option<Sym>,
    pub(super) created: i64,
    /// It runs and is not terminating.
    pub(super) running: bool,
    pub(super) addresses: Box<[IpAddr]>,
    pub(super) identity: u32,
    /// Its policy is enforced here.
    pub(super) local: bool,
    /// Its position in the list of its identity.
    position: u32,
}

impl Pod {
    /// True if its claim to an address excludes that of another pod (`Pod::precedes` of the model).
    pub(super) fn precedes(&self, other: &Self) -> bool {
        self.running && self.node != other.node && self.created != 0 && self.created < other.created
    }
}

/// The properties of a pod that policy can see.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Visible {
    pub(super) namespace: Sym,
    pub(super) labels: Pairs,
    /// Sorted.
    pub(super) ports: Box<[NamedPort]>,
}

/// All pods with the same visible properties.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) visible: Arc<Visible>,
    pub(super) pods: Vec<u32>,
    /// The number of pods whose policy is enforced here.
    pub(super) local: u32,
    /// The peer set of its pods, CIDRs and hosts aside.
    pub(super) peer_set: u32,
    /// The policy of its local pods.
    pub(super) rules: Option<Box<Enforced>>,
}

/// The policy of a pod.
#[derive(Debug, Default)]
pub(super) struct Enforced {
    /// All policies that select it, by number, in the order of evaluation.
    pub(super) policies: Vec<u32>,
    /// Rulesets for ingress and egress.
    pub(super) applied: [Applied; 2],
}

/// The ruleset of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Applied {
    /// No policy governs the direction.
    #[default]
    Nothing,
    /// Ids collide: everything is denied.
    Collision,
    /// The ruleset is over quota and not laid out: everything is denied.
    NoRoom(RulesetId),
    /// A ruleset, by number and id.
    Ruleset(u32, RulesetId),
}

impl Applied {
    /// The id of the target ruleset, if there is one.
    pub(super) fn wanted(self) -> Option<RulesetId> {
        match self {
            Self::Nothing | Self::Collision => None,
            Self::NoRoom(id) | Self::Ruleset(_, id) => Some(id),
        }
    }
}

/// An address as a number, IPv4 as mapped into IPv6: smaller and faster to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Address(u128);

impl Address {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().into()),
            IpAddr::V6(v6) => Self(v6.into()),
        }
    }

    fn get(self) -> IpAddr {
        IpAddr::V6(self.0.into()).to_canonical()
    }
}

/// All pods that policies select.
#[derive(Debug, Default)]
pub(super) struct Pods {
    slab: Slab<Pod>,
    by_key: HashMap<(Sym, Name), u32>,
    pub(super) identities: Slab<Identity>,
    by_visible: HashMap<Arc<Visible>, u32>,
    /// The pod that has an address; the first of several owners.
    owners: BTreeMap<Address, u32>,
    /// Addresses with several claims or none accepted.
    pub(super) contested: HashMap<IpAddr, ContestedAddress>,
    pub(super) ranges: PodCidrs,
    /// Claims of local pods win over those of others.
    pub(super) knows_own: bool,
}

impl std::ops::Index<u32> for Pods {
    type Output = Pod;

    fn index(&self, index: u32) -> &Pod {
        &self.slab[index]
    }
}

/// The properties of a pod in the world.
pub(super) struct Facts {
    pub(super) visible: Visible,
    pub(super) name: Name,
    pub(super) uid: Name,
    pub(super) node: Option<Sym>,
    pub(super) created: i64,
    pub(super) running: bool,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) local: bool,
}

impl Pods {
    /// `knows_own`: claims of local pods win over those of others.
    pub(super) fn new(knows_own: bool) -> Self {
        Self { knows_own, ..Self::default() }
    }

    pub(super) fn find(&self, namespace: Sym, name: &Name) -> Option<u32> {
        self.by_key.get(&(namespace, Name::clone(name))).copied()
    }

    /// True if the pod has these properties.
    pub(super) fn is(&self, index: u32, facts: &Facts) -> bool {
        let pod = &self.slab[index];
        *self.identities[pod.identity].visible == facts.visible
            && pod.uid == facts.uid
            && pod.node == facts.node
            && pod.created == facts.created
            && pod.running == facts.running
            && *pod.addresses == *facts.addresses
    }

    /// Adds a new pod. Returns its identity, and true if that is new.
    pub(super) fn insert(&mut self, facts: Facts, strings: &Strings) -> (u32, bool) {
        let Facts { visible, name, uid, node, created, running, addresses, local } = facts;
        let namespace = visible.namespace;
        let (identity, fresh) = match self.by_visible.get(&visible) {
            Some(identity) => (*identity, false),
            None => (self.add_identity(visible), true),
        };
        let Identity { pods, local: locals, .. } = &mut self.identities[identity];
        let position = u32::try_from(pods.len()).unwrap_or(u32::MAX);
        *locals += u32::from(local);
        let by_name = Name::clone(&name);
        let addresses = Box::from(addresses);
        let pod = Pod { namespace, name, uid, node, created, running, addresses, identity, local, position };
        let index = self.slab.insert(pod);
        self.identities[identity].pods.push(index);
        self.by_key.insert((namespace, by_name), index);
        for slot in 0..self.slab[index].addresses.len() {
            self.claim(self.slab[index].addresses[slot], index, strings);
        }
        (identity, fresh)
    }

    fn add_identity(&mut self, visible: Visible) -> u32 {
        let visible = Arc::new(visible);
        let identity =
            Identity { visible: Arc::clone(&visible), pods: Vec::new(), local: 0, peer_set: EMPTY, rules: None };
        let index = self.identities.insert(identity);
        self.by_visible.insert(visible, index);
        index
    }

    /// Removes a pod. Its identity stays, even without pods.
    pub(super) fn remove(&mut self, index: u32, strings: &Strings) -> Option<Pod> {
        let pod = self.slab.remove(index)?;
        self.by_key.remove(&(pod.namespace, Name::clone(&pod.name)));
        let identity = &mut self.identities[pod.identity];
        identity.local -= u32::from(pod.local);
        identity.pods.swap_remove(pod.position as usize);
        if let Some(moved) = identity.pods.get(pod.position as usize) {
            self.slab[*moved].position = pod.position;
        }
        for address in &pod.addresses {
            self.disclaim(*address, index, strings);
        }
        Some(pod)
    }

    /// Removes an identity without pods.
    pub(super) fn remove_identity(&mut self, index: u32) -> Option<Identity> {
        let identity = self.identities.remove(index)?;
        self.by_visible.remove(&identity.visible);
        Some(identity)
    }

    /// The pod that has an address; the first of several owners.
    pub(super) fn sole(&self, address: IpAddr) -> Option<u32> {
        self.owners.get(&Address::of(address)).copied()
    }

    /// Sets or removes the first owner of an address.
    pub(super) fn set_owner(&mut self, address: IpAddr, owner: Option<u32>) {
        match owner {
            Some(owner) => drop(self.owners.insert(Address::of(address), owner)),
            None => drop(self.owners.remove(&Address::of(address))),
        }
    }

    /// All pods, in an order that has no meaning.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.slab.iter().map(|(_, pod)| pod)
    }

    /// All owned addresses from the first to the last; `::/0` holds those of IPv4 too.
    pub(super) fn owned(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.owners.range(Address::of(first)..=Address::of(last)).map(|(address, _)| address.get())
    }

    /// All owned addresses, and the pod that has each; the first of those that do.
    pub(super) fn owners_of_all(&self) -> impl Iterator<Item = (IpAddr, &Pod)> {
        self.owners.iter().map(|(address, owner)| (address.get(), &self.slab[*owner]))
    }

    /// The number of owned addresses.
    pub(super) fn owned_count(&self) -> usize {
        self.owners.len()
    }

    /// All addresses of the pods of an identity.
    pub(super) fn addresses(&self, identity: u32) -> impl Iterator<Item = IpAddr> {
        self.identities[identity].pods.iter().flat_map(|index| self.slab[*index].addresses.iter().copied())
    }

    /// All keys, in an order that has no meaning.
    pub(super) fn keys(&self) -> impl Iterator<Item = &(Sym, Name)> {
        self.by_key.keys()
    }

    pub(super) fn symbols(&self) -> HashSet<Sym> {
        let identities = self.identities.iter().flat_map(|(_, identity)| {
            let Visible { namespace, labels, ports } = &*identity.visible;
            let labels = labels.iter().flat_map(|(key, value)| [*key, *value]);
            labels.chain(ports.iter().map(|port| port.name)).chain([*namespace])
        });
        identities.chain(self.iter().filter_map(|pod| pod.node)).chain(self.ranges.nodes()).collect()
    }
}
