//! Hosts: nodes and domain names, which rules mean by their addresses.
//!
//! An atom in use that means hosts is an atom of each of their addresses, which therefore are entries of their own
//! among the prefixes ([`super::prefixes`]). Several hosts may have an address; it has the atoms of them all.
//! Domain names linger at addresses whose time is over: these have the atom only in connections that were open before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::{Domain, DomainName, DomainPattern, Name, Node};

use super::Planner;
use super::atoms::AtomKey;
use super::prefixes::Prefixes;
use super::strings::{Pairs, Sym, matches};

/// An address of a host; whether only in connections that were open before.
type Address = (IpAddr, bool);

/// The addresses of a node or of a domain name.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Sorted.
    addresses: Box<[Address]>,
    /// The atoms in use that mean it, ascending.
    atoms: Vec<u32>,
}

/// All nodes and domain names, in scope or not.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    nodes: HashMap<Name, (Pairs, Host)>,
    /// By the name read backwards: names below a name follow it.
    domains: BTreeMap<Backwards, (DomainName, Host)>,
    /// The atoms in use that mean nodes.
    selectors: Vec<u32>,
}

/// A domain name, read backwards.
type Backwards = String;

fn backwards(name: &DomainName) -> Backwards {
    name.as_str().chars().rev().collect()
}

fn include(prefixes: &mut Prefixes, atom: u32, (address, lingers): Address) {
    if lingers {
        prefixes.linger(atom, address);
    } else {
        prefixes.include(atom, address);
    }
}

fn exclude(prefixes: &mut Prefixes, atom: u32, (address, lingers): Address) {
    if lingers {
        prefixes.cease(atom, address);
    } else {
        prefixes.exclude(atom, address);
    }
}

impl Host {
    fn new(addresses: Vec<IpAddr>, lingering: Vec<IpAddr>, mut atoms: Vec<u32>) -> Self {
        let lingering = lingering.into_iter().map(|address| (address, true));
        let mut addresses: Vec<_> = addresses.into_iter().map(|address| (address, false)).chain(lingering).collect();
        addresses.sort_unstable();
        addresses.dedup();
        atoms.sort_unstable();
        Self { addresses: addresses.into(), atoms }
    }

    /// Atoms of addresses.
    fn pairs(&self) -> impl Iterator<Item = (u32, Address)> + '_ {
        self.atoms.iter().flat_map(|atom| self.addresses.iter().map(|address| (*atom, *address)))
    }

    fn has(&self, (atom, address): (u32, Address)) -> bool {
        self.atoms.binary_search(&atom).is_ok() && self.addresses.binary_search(&address).is_ok()
    }
}

impl Hosts {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Name> {
        self.nodes.keys()
    }

    pub(super) fn domains(&self) -> impl Iterator<Item = &DomainName> {
        self.domains.values().map(|(name, _)| name)
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = Sym> {
        self.nodes.values().flat_map(|(labels, _)| labels.iter().flat_map(|(key, value)| [*key, *value]))
    }

    /// The hosts an atom means.
    fn meant(&mut self, key: &AtomKey) -> Vec<&mut Host> {
        match key {
            AtomKey::Nodes(selector) => {
                let nodes = self.nodes.values_mut().filter(|(labels, _)| matches(selector, labels));
                nodes.map(|(_, host)| host).collect()
            }
            AtomKey::Domain(pattern) => self.named(pattern),
            AtomKey::Pods(_) | AtomKey::Block(_) | AtomKey::Port(_) => Vec::new(),
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
    /// A node is there, with these labels and addresses.
    pub(super) fn apply_node_host(&mut self, node: &Node) {
        let labels = self.strings.labels(&node.labels);
        let means = |atom: &u32| match &self.atoms[*atom].key {
            AtomKey::Nodes(selector) => matches(selector, &labels),
            AtomKey::Pods(_) | AtomKey::Block(_) | AtomKey::Domain(_) | AtomKey::Port(_) => false,
        };
        let atoms = self.hosts.selectors.iter().copied().filter(means).collect();
        let after = Host::new(node.addresses.clone(), Vec::new(), atoms);
        let before = self.hosts.nodes.remove(&node.name).map(|(_, host)| host);
        self.move_host(&before.unwrap_or_default(), &after);
        self.hosts.nodes.insert(Name::clone(&node.name), (labels, after));
    }

    pub(super) fn delete_node_host(&mut self, name: &Name) {
        if let Some((_, host)) = self.hosts.nodes.remove(name) {
            self.move_host(&host, &Host::default());
        }
    }

    /// A domain name stands for these addresses.
    pub(super) fn apply_domain(&mut self, domain: Domain) {
        let atoms = domain.name.patterns().filter_map(|pattern| self.atoms.in_use(&AtomKey::Domain(pattern)));
        let after = Host::new(domain.addresses, domain.lingering, atoms.collect());
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

    /// What a host was is what it is now: addresses get and lose atoms.
    fn move_host(&mut self, before: &Host, after: &Host) {
        for (atom, address) in after.pairs().filter(|pair| !before.has(*pair)) {
            include(&mut self.prefixes, atom, address);
            self.dirty.nets.insert(IpNet::from(address.0));
        }
        for (atom, address) in before.pairs().filter(|pair| !after.has(*pair)) {
            exclude(&mut self.prefixes, atom, address);
            self.dirty.nets.insert(IpNet::from(address.0));
        }
    }

    /// An atom that means hosts comes into use.
    pub(super) fn join_hosts(&mut self, atom: u32, key: &AtomKey) {
        if matches!(key, AtomKey::Nodes(_)) {
            self.hosts.selectors.push(atom);
        }
        for host in self.hosts.meant(key) {
            if let Err(position) = host.atoms.binary_search(&atom) {
                host.atoms.insert(position, atom);
                for address in &host.addresses {
                    include(&mut self.prefixes, atom, *address);
                    self.dirty.nets.insert(IpNet::from(address.0));
                }
            }
        }
    }

    /// An atom that means hosts goes out of use.
    pub(super) fn leave_hosts(&mut self, atom: u32, key: &AtomKey) {
        self.hosts.selectors.retain(|other| *other != atom);
        for host in self.hosts.meant(key) {
            if let Ok(position) = host.atoms.binary_search(&atom) {
                host.atoms.remove(position);
                for address in &host.addresses {
                    exclude(&mut self.prefixes, atom, *address);
                    self.dirty.nets.insert(IpNet::from(address.0));
                }
            }
        }
    }
}
