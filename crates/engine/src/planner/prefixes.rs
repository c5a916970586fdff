//! Longest-match closure of CIDRs.
//!
//! The kernel finds the longest prefix only. So each prefix of an `ipBlock` in use (its `cidr` and every `except`) is
//! an entry with all `ipBlock`s that match its addresses. Each address of a host in use ([`super::hosts`]) is an entry
//! too, with the peer selectors of its hosts.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::IpBlock;

/// A prefix of an `ipBlock` or host.
#[derive(Debug, Default)]
struct Prefix {
    /// The number of `ipBlock`s that mention it, plus that of pairs of an address and a peer selector of its hosts.
    mentions: u32,
    /// The address-based peer selectors that addresses satisfy for which this prefix is the longest match, ascending.
    peer_selectors: Vec<u32>,
}

/// All prefixes of `ipBlock`s and hosts in use.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    nets: HashMap<IpNet, Prefix>,
    /// The same prefixes in order: those inside a prefix follow it.
    order: BTreeSet<IpNet>,
    /// The number of prefixes of each length, IPv4 and IPv6.
    lengths: [BTreeMap<u8, u32>; 2],
    /// The number of hosts that give an address a peer selector.
    hosts: HashMap<(IpAddr, u32), u32>,
    /// The peer selectors of addresses in connections that were open before, and the number of their hosts.
    lingering: HashMap<IpAddr, BTreeMap<u32, u32>>,
}

impl Prefixes {
    /// Adds an `ipBlock`. Returns the prefixes that changed.
    pub(super) fn add(&mut self, peer_selector: u32, block: &IpBlock) -> Vec<IpNet> {
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
                && let Err(position) = prefix.peer_selectors.binary_search(&peer_selector)
            {
                prefix.peer_selectors.insert(position, peer_selector);
                changed.push(*net);
            }
        }
        changed
    }

    /// Removes an `ipBlock`. Returns the prefixes that changed.
    pub(super) fn remove(&mut self, peer_selector: u32, block: &IpBlock) -> Vec<IpNet> {
        if is_void(block) {
            return Vec::new();
        }
        let mut changed: Vec<_> = mentioned(block).collect();
        for net in inside(&self.order, block.cidr()) {
            if let Some(prefix) = self.nets.get_mut(net)
                && let Ok(position) = prefix.peer_selectors.binary_search(&peer_selector)
            {
                prefix.peer_selectors.remove(position);
                changed.push(*net);
            }
        }
        for net in mentioned(block) {
            self.unmention(net);
        }
        changed
    }

    /// Adds a peer selector of a host to an address.
    pub(super) fn include(&mut self, peer_selector: u32, address: IpAddr) {
        let hosts = self.hosts.entry((address, peer_selector)).or_default();
        *hosts += 1;
        if *hosts == 1 {
            let prefix = self.mention(IpNet::from(address));
            if let Err(position) = prefix.peer_selectors.binary_search(&peer_selector) {
                prefix.peer_selectors.insert(position, peer_selector);
            }
        }
    }

    /// Removes a peer selector of a host from an address.
    pub(super) fn exclude(&mut self, peer_selector: u32, address: IpAddr) {
        let Some(hosts) = self.hosts.get_mut(&(address, peer_selector)) else { return };
        *hosts -= 1;
        if *hosts == 0 {
            self.hosts.remove(&(address, peer_selector));
            let net = IpNet::from(address);
            if let Some(prefix) = self.nets.get_mut(&net)
                && let Ok(position) = prefix.peer_selectors.binary_search(&peer_selector)
            {
                prefix.peer_selectors.remove(position);
            }
            self.unmention(net);
        }
    }

    /// Adds a peer selector of a host to an address, for open connections only. The address becomes an entry.
    pub(super) fn linger(&mut self, peer_selector: u32, address: IpAddr) {
        *self.lingering.entry(address).or_default().entry(peer_selector).or_default() += 1;
        self.mention(IpNet::from(address));
    }

    /// Removes a peer selector of a host from an address, for open connections only.
    pub(super) fn cease(&mut self, peer_selector: u32, address: IpAddr) {
        let Entry::Occupied(mut peer_selectors) = self.lingering.entry(address) else { return };
        let btree_map::Entry::Occupied(mut hosts) = peer_selectors.get_mut().entry(peer_selector) else { return };
        *hosts.get_mut() -= 1;
        if *hosts.get() == 0 {
            hosts.remove();
        }
        if peer_selectors.get().is_empty() {
            peer_selectors.remove();
        }
        self.unmention(IpNet::from(address));
    }

    /// The peer selectors that a prefix has in addition in connections that were open before, ascending.
    pub(super) fn lingering(&self, net: IpNet) -> Vec<u32> {
        if self.lingering.is_empty() || net.prefix_len() < net.max_prefix_len() {
            return Vec::new();
        }
        self.lingering
            .get(&net.addr())
            .map(|peer_selectors| peer_selectors.keys().copied().collect())
            .unwrap_or_default()
    }

    /// Adds a reference to a prefix.
    fn mention(&mut self, net: IpNet) -> &mut Prefix {
        if !self.nets.contains_key(&net) {
            let peer_selectors = self.parent(net).to_vec();
            self.nets.insert(net, Prefix { mentions: 0, peer_selectors });
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

    /// The number of single addresses, and that of CIDRs.
    pub(super) fn count(&self) -> (usize, usize) {
        let of = |lengths: &BTreeMap<u8, u32>, longest| lengths.get(&longest).map_or(0, |count| *count as usize);
        let single = of(&self.lengths[0], 32) + of(&self.lengths[1], 128);
        (single, self.nets.len() - single)
    }

    /// The prefixes inside a range, itself included.
    pub(super) fn inside(&self, range: IpNet) -> impl Iterator<Item = IpNet> + '_ {
        inside(&self.order, range).copied()
    }

    /// The peer selectors of exactly this prefix, if it is an entry.
    pub(super) fn get(&self, net: IpNet) -> Option<&[u32]> {
        self.nets.get(&net).map(|prefix| &*prefix.peer_selectors)
    }

    /// The peer selectors of the longest entry around a prefix; a single address may be an entry itself.
    pub(super) fn around(&self, net: IpNet) -> &[u32] {
        self.longest(net, net.prefix_len() == net.max_prefix_len())
    }

    /// The peer selectors of the longest entry around a prefix, itself excluded.
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

/// True if its `except`s leave nothing of an `ipBlock`.
fn is_void(block: &IpBlock) -> bool {
    block.except().iter().any(|except| except.contains(&block.cidr()))
}

/// True if a prefix is a single address.
pub(super) fn is_single(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The prefixes that are entries because of an `ipBlock`.
pub(super) fn needed(block: &IpBlock) -> impl Iterator<Item = IpNet> + '_ {
    mentioned(block).filter(|_| !is_void(block))
}

/// The prefixes that separate the addresses of an `ipBlock` from others.
fn mentioned(block: &IpBlock) -> impl Iterator<Item = IpNet> + '_ {
    let cidr = block.cidr();
    std::iter::once(cidr).chain(block.except().iter().copied().filter(move |except| cidr.contains(except)))
}

/// The prefixes inside `cidr`, itself included: they are neighbours in the order of `IpNet`.
fn inside(order: &BTreeSet<IpNet>, cidr: IpNet) -> impl Iterator<Item = &IpNet> {
    order.range(cidr..).take_while(move |net| cidr.contains(*net))
}
