//! Hosts: nodes and domain names, which rules mean by their addresses.
//!
//! An atom in use that means hosts is an atom of each of their addresses, which therefore are entries of their own
//! among the prefixes ([`super::prefixes`]). Several hosts may have an address; it has the atoms of them all.
//! Domain names linger at addresses whose time is over: these have the atom only in connections that were open before.
//! Those of their addresses that are inside of the cluster have only atoms that name them, none of a wildcard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;
use ringfence_model::{Domain, DomainName, DomainPattern, Name, Node};

use super::Planner;
use super::atoms::AtomKey;
use super::prefixes::Prefixes;
use super::strings::{Pairs, Sym, matches};

/// An address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    ip: IpAddr,
    /// Only in connections that were open before.
    lingers: bool,
    /// Only for atoms that name the host.
    inside: bool,
}

/// An atom that means a host; whether it names it, not by a wildcard.
type Meaning = (u32, bool);

/// The addresses of a node or of a domain name.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Sorted.
    addresses: Box<[Address]>,
    /// The atoms in use that mean it, ascending.
    atoms: Vec<Meaning>,
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

/// Whether an atom names the hosts it means.
fn names(key: &AtomKey) -> bool {
    !matches!(key, AtomKey::Domain(pattern) if pattern.is_wildcard())
}

fn include(prefixes: &mut Prefixes, atom: u32, at: Address) {
    if at.lingers {
        prefixes.linger(atom, at.ip);
    } else {
        prefixes.include(atom, at.ip);
    }
}

fn exclude(prefixes: &mut Prefixes, atom: u32, at: Address) {
    if at.lingers {
        prefixes.cease(atom, at.ip);
    } else {
        prefixes.exclude(atom, at.ip);
    }
}

impl Host {
    fn new(addresses: &[IpAddr], lingering: &[IpAddr], inside: &BTreeSet<IpAddr>, mut atoms: Vec<Meaning>) -> Self {
        let address = |lingers| move |ip: &IpAddr| Address { ip: *ip, lingers, inside: inside.contains(ip) };
        let mut addresses: Vec<_> =
            addresses.iter().map(address(false)).chain(lingering.iter().map(address(true))).collect();
        addresses.sort_unstable();
        addresses.dedup();
        atoms.sort_unstable();
        Self { addresses: addresses.into(), atoms }
    }

    /// Atoms of addresses.
    fn pairs(&self) -> impl Iterator<Item = (u32, Address)> + '_ {
        self.atoms.iter().flat_map(|(atom, names)| self.meant(*names).map(|address| (*atom, address)))
    }

    /// The addresses that an atom has which names the host, or does not.
    fn meant(&self, names: bool) -> impl Iterator<Item = Address> + '_ {
        self.addresses.iter().copied().filter(move |address| names || !address.inside)
    }

    fn has(&self, (atom, address): (u32, Address)) -> bool {
        let Ok(position) = self.position(atom) else { return false };
        let (_, names) = self.atoms[position];
        (names || !address.inside) && self.addresses.binary_search(&address).is_ok()
    }

    fn position(&self, atom: u32) -> Result<usize, usize> {
        self.atoms.binary_search_by_key(&atom, |(atom, _)| *atom)
    }
}

impl Hosts {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Name> {
        self.nodes.keys()
    }

    pub(super) fn domains(&self) -> impl Iterator<Item = &DomainName> {
        self.domains.values().map(|(name, _)| name)
    }

    /// How many addresses they have, those of several counted for each.
    pub(super) fn addresses(&self) -> usize {
        let nodes = self.nodes.values().map(|(_, host)| host);
        nodes.chain(self.domains.values().map(|(_, host)| host)).map(|host| host.addresses.len()).sum()
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
        let atoms = self.hosts.selectors.iter().copied().filter(means).map(|atom| (atom, true)).collect();
        let after = Host::new(&node.addresses, &[], &BTreeSet::new(), atoms);
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
        let atoms = domain.name.patterns().map(AtomKey::Domain);
        let atoms = atoms.filter_map(|key| Some((self.atoms.in_use(&key)?, names(&key)))).collect();
        let after = Host::new(&domain.addresses, &domain.lingering, &domain.inside, atoms);
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
            self.dirty.nets.insert(IpNet::from(address.ip));
        }
        for (atom, address) in before.pairs().filter(|pair| !after.has(*pair)) {
            exclude(&mut self.prefixes, atom, address);
            self.dirty.nets.insert(IpNet::from(address.ip));
        }
    }

    /// An atom that means hosts comes into use.
    pub(super) fn join_hosts(&mut self, atom: u32, key: &AtomKey) {
        if matches!(key, AtomKey::Nodes(_)) {
            self.hosts.selectors.push(atom);
        }
        for host in self.hosts.meant(key) {
            if let Err(position) = host.position(atom) {
                host.atoms.insert(position, (atom, names(key)));
                for address in host.meant(names(key)) {
                    include(&mut self.prefixes, atom, address);
                    self.dirty.nets.insert(IpNet::from(address.ip));
                }
            }
        }
    }

    /// An atom that means hosts goes out of use.
    pub(super) fn leave_hosts(&mut self, atom: u32, key: &AtomKey) {
        self.hosts.selectors.retain(|other| *other != atom);
        for host in self.hosts.meant(key) {
            if let Ok(position) = host.position(atom) {
                host.atoms.remove(position);
                for address in host.meant(names(key)) {
                    exclude(&mut self.prefixes, atom, address);
                    self.dirty.nets.insert(IpNet::from(address.ip));
                }
            }
        }
    }
}
