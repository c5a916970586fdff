//! Atoms: the selections, blocks and port names that rulesets in use ask of a peer.

use foldhash::{HashMap, HashSet};
use std::sync::Arc;

use ringfence_model::{DomainPattern, IpBlock, Protocol};

use super::digest::{Content, Digest};
use super::slab::Slab;
use super::strings::{Compiled, Condition, NamedPort, Selection, Strings, Sym, describe};

/// What a peer can satisfy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AtomKey {
    /// It is a pod of this selection.
    Pods(Arc<Selection>),
    /// Its address is in this block.
    Block(Arc<IpBlock>),
    /// Its address is one of a node with such labels.
    Nodes(Arc<Compiled>),
    /// Its address was learnt for such a domain name.
    Domain(DomainPattern),
    /// It is a pod that declares this port.
    Port(NamedPort),
}

/// One atom. It keeps its number while a class has it, also when no ruleset does any more.
#[derive(Debug)]
pub(super) struct Atom {
    pub(super) key: AtomKey,
    pub(super) digest: Digest,
    /// The rulesets that ask for it (not for ports: those are asked for by name).
    pub(super) rulesets: Vec<u32>,
    /// The classes with peers that have it.
    pub(super) classes: HashSet<u32>,
}

/// A port name in egress rules, and the protocol wanted.
pub(super) type Wanted = (Sym, Option<Protocol>);

/// All atoms.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    slab: Slab<Atom>,
    numbers: HashMap<AtomKey, u32>,
    /// How many rulesets speak of every pod.
    pub(super) universal: usize,
    /// The rulesets that ask for a port name.
    names: HashMap<Wanted, Vec<u32>>,
    /// Port atoms by name.
    ports: HashMap<Sym, Vec<u32>>,
}

impl std::ops::Index<u32> for Atoms {
    type Output = Atom;

    fn index(&self, index: u32) -> &Atom {
        &self.slab[index]
    }
}

impl std::ops::IndexMut<u32> for Atoms {
    fn index_mut(&mut self, index: u32) -> &mut Atom {
        &mut self.slab[index]
    }
}

impl Atoms {
    pub(super) fn intern(&mut self, key: AtomKey, strings: &Strings) -> u32 {
        if let Some(index) = self.numbers.get(&key) {
            return *index;
        }
        let mut content = Content::new("atom");
        match &key {
            AtomKey::Pods(selection) => {
                content.number(0);
                selection.describe(strings, &mut content);
            }
            AtomKey::Block(block) => {
                content.number(1);
                content.block(block);
            }
            AtomKey::Port(port) => {
                content.number(2);
                content.text(strings.name(port.name));
                content.number(port.protocol.0);
                content.number(port.port);
            }
            AtomKey::Nodes(selector) => {
                content.number(3);
                describe(selector, strings, &mut content);
            }
            AtomKey::Domain(pattern) => {
                content.number(4);
                content.text(&pattern.to_string());
            }
        }
        let atom =
            Atom { key: key.clone(), digest: content.digest(), rulesets: Vec::new(), classes: HashSet::default() };
        let index = self.slab.insert(atom);
        if let AtomKey::Port(port) = &key {
            self.ports.entry(port.name).or_default().push(index);
        }
        self.numbers.insert(key, index);
        index
    }

    /// The number of an atom that rulesets ask for, if any does.
    pub(super) fn in_use(&self, key: &AtomKey) -> Option<u32> {
        self.numbers.get(key).copied().filter(|index| !self.slab[*index].rulesets.is_empty())
    }

    /// A ruleset asks for a port name. Whether it is the first.
    pub(super) fn want(&mut self, wanted: Wanted, ruleset: u32) -> bool {
        let rulesets = self.names.entry(wanted).or_default();
        rulesets.push(ruleset);
        rulesets.len() == 1
    }

    /// A ruleset that asked for a port name is gone. Whether it was the last.
    pub(super) fn unwant(&mut self, wanted: Wanted, ruleset: u32) -> bool {
        let Some(rulesets) = self.names.get_mut(&wanted) else { return false };
        rulesets.retain(|other| *other != ruleset);
        let last = rulesets.is_empty();
        if last {
            self.names.remove(&wanted);
        }
        last
    }

    /// Whether any ruleset asks for this port.
    pub(super) fn is_wanted(&self, port: NamedPort) -> bool {
        [None, Some(port.protocol)].iter().any(|protocol| self.names.contains_key(&(port.name, *protocol)))
    }

    /// The rulesets that look at any of these atoms.
    pub(super) fn rulesets(&self, atoms: &[u32]) -> Vec<u32> {
        let mut found = Vec::new();
        for atom in atoms {
            let atom = &self.slab[*atom];
            found.extend_from_slice(&atom.rulesets);
            if let AtomKey::Port(port) = &atom.key {
                for protocol in [None, Some(port.protocol)] {
                    found.extend(self.names.get(&(port.name, protocol)).into_iter().flatten());
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The classes with peers that have any of these atoms or declare any of these ports.
    pub(super) fn classes(&self, atoms: impl IntoIterator<Item = u32>, wanted: &[Wanted]) -> HashSet<u32> {
        let ports = wanted.iter().flat_map(|(name, protocol)| {
            let declared = self.ports.get(name).into_iter().flatten().copied();
            declared.filter(move |atom| match &self.slab[*atom].key {
                AtomKey::Port(port) => protocol.is_none_or(|protocol| protocol == port.protocol),
                AtomKey::Pods(_) | AtomKey::Block(_) | AtomKey::Nodes(_) | AtomKey::Domain(_) => false,
            })
        });
        atoms.into_iter().chain(ports).flat_map(|atom| self.slab[atom].classes.iter().copied()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Atom)> {
        self.slab.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = Sym> {
        self.slab.iter().flat_map(|(_, atom)| {
            let (selection, selector, port) = match &atom.key {
                AtomKey::Pods(selection) => (Some(selection), None, None),
                AtomKey::Block(_) | AtomKey::Domain(_) => (None, None, None),
                AtomKey::Nodes(selector) => (None, Some(selector), None),
                AtomKey::Port(port) => (None, None, Some(port.name)),
            };
            let conditions = selector.into_iter().flat_map(|selector| selector.iter().flat_map(Condition::symbols));
            selection.into_iter().flat_map(|selection| selection.symbols()).chain(conditions).chain(port)
        })
    }

    /// Forgets atoms that neither a ruleset nor a class in `live` has.
    pub(super) fn retain(&mut self, live: &HashSet<u32>) {
        let slab = &mut self.slab;
        self.numbers.retain(|_, index| {
            let keep = live.contains(index) || !slab[*index].rulesets.is_empty();
            if !keep {
                slab.remove(*index);
            }
            keep
        });
        for indexes in self.ports.values_mut() {
            indexes.retain(|index| slab.get(*index).is_some_and(|atom| matches!(atom.key, AtomKey::Port(_))));
        }
        self.ports.retain(|_, indexes| !indexes.is_empty());
    }
}
