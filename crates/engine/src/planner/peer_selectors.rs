//! Peer selectors in use: pod selectors, `ipBlock`s, node selectors, domain names and named ports of rulesets.

use foldhash::{HashMap, HashSet};
use std::sync::Arc;

use ringfence_model::{DomainPattern, IpBlock, Protocol};

use super::digest::{Content, Digest};
use super::slab::Slab;
use super::strings::{Compiled, Condition, NamedPort, Selection, Strings, Sym, describe};

/// A property that a peer can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PeerSelector {
    /// It is a pod of this selection.
    Pods(Arc<Selection>),
    /// Its address is in this `ipBlock`.
    Block(Arc<IpBlock>),
    /// Its address is one of a node with such labels.
    Nodes(Arc<Compiled>),
    /// Its address was learnt for such a domain name.
    Domain(DomainPattern),
    /// It is a pod that declares this port.
    Port(NamedPort),
}

/// A peer selector with its users. It keeps its number while a peer set has it, even if no ruleset uses it any more.
#[derive(Debug)]
pub(super) struct CachedSelector {
    pub(super) key: PeerSelector,
    pub(super) digest: Digest,
    /// The rulesets that refer to it. For named ports, the rulesets are found by name instead.
    pub(super) rulesets: Vec<u32>,
    /// The peer sets that contain it.
    pub(super) peer_sets: HashSet<u32>,
}

/// A named port of egress rules, and its protocol.
pub(super) type Wanted = (Sym, Option<Protocol>);

/// All peer selectors.
#[derive(Debug, Default)]
pub(super) struct PeerSelectors {
    slab: Slab<CachedSelector>,
    numbers: HashMap<PeerSelector, u32>,
    /// The number of rulesets with rules about every pod.
    pub(super) any_pod: usize,
    /// The rulesets that refer to a named port.
    names: HashMap<Wanted, Vec<u32>>,
    /// Port selectors by name.
    ports: HashMap<Sym, Vec<u32>>,
}

impl std::ops::Index<u32> for PeerSelectors {
    type Output = CachedSelector;

    fn index(&self, index: u32) -> &CachedSelector {
        &self.slab[index]
    }
}

impl std::ops::IndexMut<u32> for PeerSelectors {
    fn index_mut(&mut self, index: u32) -> &mut CachedSelector {
        &mut self.slab[index]
    }
}

impl PeerSelectors {
    pub(super) fn intern(&mut self, key: PeerSelector, strings: &Strings) -> u32 {
        if let Some(index) = self.numbers.get(&key) {
            return *index;
        }
        let mut content = Content::new("atom");
        match &key {
            PeerSelector::Pods(selection) => {
                content.number(0);
                selection.describe(strings, &mut content);
            }
            PeerSelector::Block(block) => {
                content.number(1);
                content.block(block);
            }
            PeerSelector::Port(port) => {
                content.number(2);
                content.text(strings.name(port.name));
                content.number(port.protocol.0);
                content.number(port.port);
            }
            PeerSelector::Nodes(selector) => {
                content.number(3);
                describe(selector, strings, &mut content);
            }
            PeerSelector::Domain(pattern) => {
                content.number(4);
                content.text(&pattern.to_string());
            }
        }
        let peer_selector = CachedSelector {
            key: key.clone(),
            digest: content.digest(),
            rulesets: Vec::new(),
            peer_sets: HashSet::default(),
        };
        let index = self.slab.insert(peer_selector);
        if let PeerSelector::Port(port) = &key {
            self.ports.entry(port.name).or_default().push(index);
        }
        self.numbers.insert(key, index);
        index
    }

    /// The number of a peer selector that some ruleset uses.
    pub(super) fn in_use(&self, key: &PeerSelector) -> Option<u32> {
        self.numbers.get(key).copied().filter(|index| !self.slab[*index].rulesets.is_empty())
    }

    /// Adds a reference of a ruleset to a named port. Returns true if it is the first.
    pub(super) fn ref_port_name(&mut self, wanted: Wanted, ruleset: u32) -> bool {
        let rulesets = self.names.entry(wanted).or_default();
        rulesets.push(ruleset);
        rulesets.len() == 1
    }

    /// Removes a reference of a ruleset to a named port. Returns true if it was the last.
    pub(super) fn unref_port_name(&mut self, wanted: Wanted, ruleset: u32) -> bool {
        let Some(rulesets) = self.names.get_mut(&wanted) else { return false };
        rulesets.retain(|other| *other != ruleset);
        let last = rulesets.is_empty();
        if last {
            self.names.remove(&wanted);
        }
        last
    }

    /// True if some ruleset uses this named port.
    pub(super) fn is_wanted(&self, port: NamedPort) -> bool {
        [None, Some(port.protocol)].iter().any(|protocol| self.names.contains_key(&(port.name, *protocol)))
    }

    /// The rulesets that use any of these peer selectors.
    pub(super) fn rulesets(&self, peer_selectors: &[u32]) -> Vec<u32> {
        let mut found = Vec::new();
        for peer_selector in peer_selectors {
            let peer_selector = &self.slab[*peer_selector];
            found.extend_from_slice(&peer_selector.rulesets);
            if let PeerSelector::Port(port) = &peer_selector.key {
                for protocol in [None, Some(port.protocol)] {
                    found.extend(self.names.get(&(port.name, protocol)).into_iter().flatten());
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The peer sets with any of these peer selectors or named ports.
    pub(super) fn peer_sets(&self, peer_selectors: impl IntoIterator<Item = u32>, wanted: &[Wanted]) -> HashSet<u32> {
        let ports = wanted.iter().flat_map(|(name, protocol)| {
            let declared = self.ports.get(name).into_iter().flatten().copied();
            declared.filter(move |peer_selector| match &self.slab[*peer_selector].key {
                PeerSelector::Port(port) => protocol.is_none_or(|protocol| protocol == port.protocol),
                PeerSelector::Pods(_) | PeerSelector::Block(_) | PeerSelector::Nodes(_) | PeerSelector::Domain(_) => {
                    false
                }
            })
        });
        peer_selectors
            .into_iter()
            .chain(ports)
            .flat_map(|peer_selector| self.slab[peer_selector].peer_sets.iter().copied())
            .collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &CachedSelector)> {
        self.slab.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = Sym> {
        self.slab.iter().flat_map(|(_, peer_selector)| {
            let (selection, selector, port) = match &peer_selector.key {
                PeerSelector::Pods(selection) => (Some(selection), None, None),
                PeerSelector::Block(_) | PeerSelector::Domain(_) => (None, None, None),
                PeerSelector::Nodes(selector) => (None, Some(selector), None),
                PeerSelector::Port(port) => (None, None, Some(port.name)),
            };
            let conditions = selector.into_iter().flat_map(|selector| selector.iter().flat_map(Condition::symbols));
            selection.into_iter().flat_map(|selection| selection.symbols()).chain(conditions).chain(port)
        })
    }

    /// Drops peer selectors that are neither in a ruleset nor in a peer set of `live`.
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
            indexes.retain(|index| {
                slab.get(*index).is_some_and(|peer_selector| matches!(peer_selector.key, PeerSelector::Port(_)))
            });
        }
        self.ports.retain(|_, indexes| !indexes.is_empty());
    }
}
