//! Longest-match closure of blocks.
//!
//! The kernel looks up the longest prefix only, so each prefix that a block in use mentions (its `cidr` and every
//! `except`) is an entry that carries all blocks its addresses are in. So is each address that some host in use has
//! ([`super::hosts`]): it carries the atoms of its hosts too.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::IpBlock;

/// A prefix that is mentioned.
#[derive(Debug, Default)]
struct Prefix {
    /// How many blocks, and pairs of an address and an atom of its hosts, mention it.
    mentions: u32,
    /// What the addresses satisfy for which this prefix is the longest match, as far as it is about addresses,
    /// ascending.
    atoms: Vec<u32>,
}

/// All prefixes of blocks and hosts in use.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    nets: HashMap<IpNet, Prefix>,
    /// The same in order: what is inside of a prefix follows it.
    order: BTreeSet<IpNet>,
    /// How many prefixes have a length, IPv4 and IPv6.
    lengths: [BTreeMap<u8, u32>; 2],
    /// How many hosts give an address an atom.
    hosts: HashMap<(IpAddr, u32), u32>,
    /// The atoms that addresses have in connections that were open before, and of how many hosts.
    lingering: HashMap<IpAddr, BTreeMap<u32, u32>>,
}

impl Prefixes {
    /// A block comes into use. Returns the prefixes that changed.
    pub(super) fn add(&mut self, atom: u32, block: &IpBlock) -> Vec<IpNet> {
        if is_void(block) {
            return Vec::new();
        }
        for net in mentioned(block) {
            self.mention(net);
        }
        let mut changed: Vec<_> = mentioned(block).collect();
        for net in inside(&self.order, block.cidr()) {
            if !block.except().iter().any(|except| except.contains(net))
                && let Some(prefix) = self.nets.get_mut(net)
                && let Err(position) = prefix.atoms.binary_search(&atom)
            {
                prefix.atoms.insert(position, atom);
                changed.push(*net);
            }
        }
        changed
    }

    /// A block is not used any more. Returns the prefixes that changed.
    pub(super) fn remove(&mut self, atom: u32, block: &IpBlock) -> Vec<IpNet> {
        if is_void(block) {
            return Vec::new();
        }
        let mut changed: Vec<_> = mentioned(block).collect();
        for net in inside(&self.order, block.cidr()) {
            if let Some(prefix) = self.nets.get_mut(net)
                && let Ok(position) = prefix.atoms.binary_search(&atom)
            {
                prefix.atoms.remove(position);
                changed.push(*net);
            }
        }
        for net in mentioned(block) {
            self.unmention(net);
        }
        changed
    }

    /// A host with an address comes to have an atom, or one that has it gets the address.
    pub(super) fn include(&mut self, atom: u32, address: IpAddr) {
        let hosts = self.hosts.entry((address, atom)).or_default();
        *hosts += 1;
        if *hosts == 1 {
            let prefix = self.mention(IpNet::from(address));
            if let Err(position) = prefix.atoms.binary_search(&atom) {
                prefix.atoms.insert(position, atom);
            }
        }
    }

    /// A host with an address and an atom loses one of them.
    pub(super) fn exclude(&mut self, atom: u32, address: IpAddr) {
        let Some(hosts) = self.hosts.get_mut(&(address, atom)) else { return };
        *hosts -= 1;
        if *hosts == 0 {
            self.hosts.remove(&(address, atom));
            let net = IpNet::from(address);
            if let Some(prefix) = self.nets.get_mut(&net)
                && let Ok(position) = prefix.atoms.binary_search(&atom)
            {
                prefix.atoms.remove(position);
            }
            self.unmention(net);
        }
    }

    /// A host with an atom comes to linger at an address. The address is mentioned, so that it is an entry.
    pub(super) fn linger(&mut self, atom: u32, address: IpAddr) {
        *self.lingering.entry(address).or_default().entry(atom).or_default() += 1;
        self.mention(IpNet::from(address));
    }

    /// A host with an atom does not linger at an address any more.
    pub(super) fn cease(&mut self, atom: u32, address: IpAddr) {
        let Entry::Occupied(mut atoms) = self.lingering.entry(address) else { return };
        let btree_map::Entry::Occupied(mut hosts) = atoms.get_mut().entry(atom) else { return };
        *hosts.get_mut() -= 1;
        if *hosts.get() == 0 {
            hosts.remove();
        }
        if atoms.get().is_empty() {
            atoms.remove();
        }
        self.unmention(IpNet::from(address));
    }

    /// What a prefix satisfies beyond everything else in connections that were open before, ascending.
    pub(super) fn lingering(&self, net: IpNet) -> Vec<u32> {
        if self.lingering.is_empty() || net.prefix_len() < net.max_prefix_len() {
            return Vec::new();
        }
        self.lingering.get(&net.addr()).map(|atoms| atoms.keys().copied().collect()).unwrap_or_default()
    }

    /// A prefix is mentioned once more.
    fn mention(&mut self, net: IpNet) -> &mut Prefix {
        if !self.nets.contains_key(&net) {
            let atoms = self.parent(net).to_vec();
            self.nets.insert(net, Prefix { mentions: 0, atoms });
            self.order.insert(net);
            *self.lengths[family(net)].entry(net.prefix_len()).or_default() += 1;
        }
        let prefix = self.nets.entry(net).or_default();
        prefix.mentions += 1;
        prefix
    }

    fn unmention(&mut self, net: IpNet) {
        let Some(prefix) = self.nets.get_mut(&net) else { return };
        prefix.mentions -= 1;
        if prefix.mentions > 0 {
            return;
        }
        self.nets.remove(&net);
        self.order.remove(&net);
        let lengths = &mut self.lengths[family(net)];
        if let Some(count) = lengths.get_mut(&net.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&net.prefix_len());
            }
        }
    }

    /// How many are single addresses, and how many are wider.
    pub(super) fn count(&self) -> (usize, usize) {
        let of = |lengths: &BTreeMap<u8, u32>, longest| lengths.get(&longest).map_or(0, |count| *count as usize);
        let single = of(&self.lengths[0], 32) + of(&self.lengths[1], 128);
        (single, self.nets.len() - single)
    }

    /// Those inside a range, itself included.
    pub(super) fn inside(&self, range: IpNet) -> impl Iterator<Item = IpNet> + '_ {
        inside(&self.order, range).copied()
    }

    /// What is satisfied in exactly this prefix, if it is one.
    pub(super) fn get(&self, net: IpNet) -> Option<&[u32]> {
        self.nets.get(&net).map(|prefix| &*prefix.atoms)
    }

    /// What the addresses of a prefix satisfy that is no entry (or, an address, may be one).
    pub(super) fn around(&self, net: IpNet) -> &[u32] {
        self.longest(net, net.prefix_len() == net.max_prefix_len())
    }

    /// What is satisfied in the longest prefix around a prefix.
    fn parent(&self, net: IpNet) -> &[u32] {
        self.longest(net, false)
    }

    fn longest(&self, net: IpNet, itself: bool) -> &[u32] {
        let lengths = self.lengths[family(net)].keys().rev();
        lengths
            .filter(|length| **length < net.prefix_len() || (itself && **length == net.prefix_len()))
            .filter_map(|length| IpNet::new(net.addr(), *length).ok())
            .find_map(|wider| self.get(wider.trunc()))
            .unwrap_or_default()
    }
}

fn family(net: IpNet) -> usize {
    usize::from(net.addr().is_ipv6())
}

/// Whether its exceptions leave nothing of a block.
fn is_void(block: &IpBlock) -> bool {
    block.except().iter().any(|except| except.contains(&block.cidr()))
}

/// Whether a prefix is one address.
pub(super) fn is_single(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The prefixes that are entries because of a block.
pub(super) fn needed(block: &IpBlock) -> impl Iterator<Item = IpNet> + '_ {
    mentioned(block).filter(|_| !is_void(block))
}

/// The prefixes that tell the addresses of a block from others.
fn mentioned(block: &IpBlock) -> impl Iterator<Item = IpNet> + '_ {
    let cidr = block.cidr();
    std::iter::once(cidr).chain(block.except().iter().copied().filter(move |except| cidr.contains(except)))
}

/// The prefixes inside `cidr`, itself included: they are neighbours in the order of `IpNet`.
fn inside(order: &BTreeSet<IpNet>, cidr: IpNet) -> impl Iterator<Item = &IpNet> {
    order.range(cidr..).take_while(move |net| cidr.contains(*net))
}
