//! Hosts: nodes and domain names, which rules match by their addresses.
//!
//! A peer selector in use that matches hosts applies to each of their addresses, so these are prefixes of their own
//! ([`super::prefixes`]). Several hosts may share an address, which then has the peer selectors of all of them.
//! Addresses of a domain name that have expired linger: they have the peer selector only in connections that were open
//! before. Addresses inside of the cluster have peer selectors with the exact name only, no wildcards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::{Domain, DomainName, DomainPattern, Name, Node};

use super::Planner;
use super::peer_selectors::PeerSelector;
use super::prefixes::Prefixes;
use super::strings::{Pairs, Sym, matches};

/// An address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    ip: IpAddr,
    /// The host has the address only in connections that were open before.
    lingers: bool,
    /// The address has exact-name selectors only.
    inside: bool,
}

/// A peer selector that matches a host, and true if it is not a wildcard.
type Meaning = (u32, bool);

/// The addresses of a node or of a domain name.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Sorted.
    addresses: Box<[Address]>,
    /// The peer selectors in use that match it, ascending.
    peer_selectors: Vec<Meaning>,
}

/// All nodes and domain names, in scope or not.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    nodes: HashMap<Name, (Pairs, Host)>,
    /// By the reversed name: names below a name follow it.
    domains: BTreeMap<Backwards, (DomainName, Host)>,
    /// The peer selectors in use that match nodes.
    selectors: Vec<u32>,
}

/// A reversed domain name.
type Backwards = String;

fn backwards(name: &DomainName) -> Backwards {
    name.as_str().chars().rev().collect()
}

/// True if a peer selector names its hosts exactly.
fn names(key: &PeerSelector) -> bool {
    !matches!(key, PeerSelector::Domain(pattern) if pattern.is_wildcard())
}

fn include(prefixes: &mut Prefixes, peer_selector: u32, at: Address) {
    if at.lingers {
        prefixes.linger(peer_selector, at.ip);
    } else {
        prefixes.include(peer_selector, at.ip);
    }
}

fn exclude(prefixes: &mut Prefixes, peer_selector: u32, at: Address) {
    if at.lingers {
        prefixes.cease(peer_selector, at.ip);
    } else {
        prefixes.exclude(peer_selector, at.ip);
    }
}

impl Host {
    fn new(
        addresses: &[IpAddr],
        lingering: &[IpAddr],
        inside: &BTreeSet<IpAddr>,
        mut peer_selectors: Vec<Meaning>,
    ) -> Self {
        let address = |lingers| move |ip: &IpAddr| Address { ip: *ip, lingers, inside: inside.contains(ip) };
        let mut addresses: Vec<_> =
            addresses.iter().map(address(false)).chain(lingering.iter().map(address(true))).collect();
        addresses.sort_unstable();
        addresses.dedup();
        peer_selectors.sort_unstable();
        Self { addresses: addresses.into(), peer_selectors }
    }

    /// Pairs of peer selector and address.
    fn pairs(&self) -> impl Iterator<Item = (u32, Address)> + '_ {
        self.peer_selectors
            .iter()
            .flat_map(|(peer_selector, names)| self.meant(*names).map(|address| (*peer_selector, address)))
    }

    /// The addresses that an exact selector, or a wildcard, applies to.
    fn meant(&self, names: bool) -> impl Iterator<Item = Address> + '_ {
        self.addresses.iter().copied().filter(move |address| names || !address.inside)
    }

    fn has(&self, (peer_selector, address): (u32, Address)) -> bool {
        let Ok(position) = self.position(peer_selector) else { return false };
        let (_, names) = self.peer_selectors[position];
        (names || !address.inside) && self.addresses.binary_search(&address).is_ok()
    }

    fn position(&self, peer_selector: u32) -> Result<usize, usize> {
        self.peer_selectors.binary_search_by_key(&peer_selector, |(peer_selector, _)| *peer_selector)
    }
}

impl Hosts {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Name> {
        self.nodes.keys()
    }

    pub(super) fn domains(&self) -> impl Iterator<Item = &DomainName> {
        self.domains.values().map(|(name, _)| name)
    }

    /// The number of addresses; shared ones count for each host.
    pub(super) fn addresses(&self) -> usize {
        let nodes = self.nodes.values().map(|(_, host)| host);
        nodes.chain(self.domains.values().map(|(_, host)| host)).map(|host| host.addresses.len()).sum()
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = Sym> {
        self.nodes.values().flat_map(|(labels, _)| labels.iter().flat_map(|(key, value)| [*key, *value]))
    }

    /// The hosts that a peer selector matches.
    fn meant(&mut self, key: &PeerSelector) -> Vec<&mut Host> {
        match key {
            PeerSelector::Nodes(selector) => {
                let nodes = self.nodes.values_mut().filter(|(labels, _)| matches(selector, labels));
                nodes.map(|(_, host)| host).collect()
            }
            PeerSelector::Domain(pattern) => self.named(pattern),
            PeerSelector::Pods(_) | PeerSelector::Block(_) | PeerSelector::Port(_) => Vec::new(),
        }
    }

    fn named(&mut self, pattern: &DomainPattern) -> Vec<&mut Host> {
        let mut name = backwards(pattern.name());
        if !pattern.is_wildcard() {
            return self.domains.get_mut(&name).map(|(_, host)| host).into_iter().collect();
        }
        name.push('.');
        let below = self.domains.range_mut(name.clone()..).take_while(|(other, _)| other.starts_with(&name));
        below.filter(|(_, (name, _))| pattern.matches(name)).map(|(_, (_, host))| host).collect()
    }
}

impl Planner {
    /// Adds or replaces a node.
    pub(super) fn apply_node_host(&mut self, node: &Node) {
        let labels = self.strings.labels(&node.labels);
        let means = |peer_selector: &u32| match &self.peer_selectors[*peer_selector].key {
            PeerSelector::Nodes(selector) => matches(selector, &labels),
            PeerSelector::Pods(_) | PeerSelector::Block(_) | PeerSelector::Domain(_) | PeerSelector::Port(_) => false,
        };
        let peer_selectors =
            self.hosts.selectors.iter().copied().filter(means).map(|peer_selector| (peer_selector, true)).collect();
        let after = Host::new(&node.addresses, &[], &BTreeSet::new(), peer_selectors);
        let before = self.hosts.nodes.remove(&node.name).map(|(_, host)| host);
        self.move_host(&before.unwrap_or_default(), &after);
        self.hosts.nodes.insert(Name::clone(&node.name), (labels, after));
    }

    pub(super) fn delete_node_host(&mut self, name: &Name) {
        if let Some((_, host)) = self.hosts.nodes.remove(name) {
            self.move_host(&host, &Host::default());
        }
    }

    /// Adds or replaces a domain name.
    pub(super) fn apply_domain(&mut self, domain: Domain) {
        let peer_selectors = domain.name.patterns().map(PeerSelector::Domain);
        let peer_selectors =
            peer_selectors.filter_map(|key| Some((self.peer_selectors.in_use(&key)?, names(&key)))).collect();
        let after = Host::new(&domain.addresses, &domain.lingering, &domain.inside, peer_selectors);
        let key = backwards(&domain.name);
        let before = self.hosts.domains.remove(&key).map(|(_, host)| host);
        self.move_host(&before.unwrap_or_default(), &after);
        self.hosts.domains.insert(key, (domain.name, after));
    }

    pub(super) fn delete_domain(&mut self, name: &DomainName) {
        if let Some((_, host)) = self.hosts.domains.remove(&backwards(name)) {
            self.move_host(&host, &Host::default());
        }
    }

    /// Replaces the addresses of a host: addresses gain and lose peer selectors.
    fn move_host(&mut self, before: &Host, after: &Host) {
        for (peer_selector, address) in after.pairs().filter(|pair| !before.has(*pair)) {
            include(&mut self.prefixes, peer_selector, address);
            self.dirty.nets.insert(IpNet::from(address.ip));
        }
        for (peer_selector, address) in before.pairs().filter(|pair| !after.has(*pair)) {
            exclude(&mut self.prefixes, peer_selector, address);
            self.dirty.nets.insert(IpNet::from(address.ip));
        }
    }

    /// Activates a peer selector that matches hosts.
    pub(super) fn activate_host_selector(&mut self, peer_selector: u32, key: &PeerSelector) {
        if matches!(key, PeerSelector::Nodes(_)) {
            self.hosts.selectors.push(peer_selector);
        }
        for host in self.hosts.meant(key) {
            if let Err(position) = host.position(peer_selector) {
                host.peer_selectors.insert(position, (peer_selector, names(key)));
                for address in host.meant(names(key)) {
                    include(&mut self.prefixes, peer_selector, address);
                    self.dirty.nets.insert(IpNet::from(address.ip));
                }
            }
        }
    }

    /// Deactivates a peer selector that matches hosts.
    pub(super) fn deactivate_host_selector(&mut self, peer_selector: u32, key: &PeerSelector) {
        self.hosts.selectors.retain(|other| *other != peer_selector);
        for host in self.hosts.meant(key) {
            if let Ok(position) = host.position(peer_selector) {
                host.peer_selectors.remove(position);
                for address in host.meant(names(key)) {
                    exclude(&mut self.prefixes, peer_selector, address);
                    self.dirty.nets.insert(IpNet::from(address.ip));
                }
            }
        }
    }
}
