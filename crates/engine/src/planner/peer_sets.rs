//! Peer sets: interned sets of peer selectors.

use foldhash::{HashMap, HashSet};
use std::sync::Arc;

use super::digest::Content;
use super::peer_selectors::PeerSelectors;
use super::slab::Slab;
use crate::{IpcacheEntry, PeerSetId};

/// Number of the empty peer set.
pub(super) const EMPTY: u32 = 0;
/// Number of the peer set that every ruleset denies.
pub(super) const CLOSED: u32 = 2;
/// Number of the peer set of overflowed addresses, which every ruleset denies with that reason.
pub(super) const NO_ROOM: u32 = 3;

/// The content of a peer set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PeerSetContent {
    /// The peer is a pod of a known namespace, and some ruleset in use has a rule about every pod.
    pub(super) any_pod: bool,
    /// Numbers of peer selectors, ascending; of conflicting owners the union.
    pub(super) peer_selectors: Vec<u32>,
    /// The different contents of conflicting owners of the address, two or more, oldest first. Empty without a
    /// conflict.
    pub(super) conflicting: Vec<OwnerContent>,
}

/// The content of one of several owners.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OwnerContent {
    pub(super) any_pod: bool,
    /// Numbers of peer selectors, ascending.
    pub(super) peer_selectors: Vec<u32>,
}

impl PeerSetContent {
    pub(super) fn new(any_pod: bool, peer_selectors: Vec<u32>) -> Self {
        Self { any_pod, peer_selectors, conflicting: Vec::new() }
    }

    /// The content of an address that belongs to one of several owners.
    fn one_of(owner_contents: impl IntoIterator<Item = OwnerContent>) -> Self {
        let mut conflicting: Vec<OwnerContent> = Vec::new();
        for owner in owner_contents {
            if !conflicting.contains(&owner) {
                conflicting.push(owner);
            }
        }
        if conflicting.len() == 1 {
            return conflicting
                .pop()
                .map(|OwnerContent { any_pod, peer_selectors }| Self::new(any_pod, peer_selectors))
                .unwrap_or_default();
        }
        let peer_selectors = ascending(conflicting.iter().flat_map(|owner| owner.peer_selectors.iter().copied()));
        Self { any_pod: conflicting.iter().all(|owner| owner.any_pod), peer_selectors, conflicting }
    }

    fn owner_contents(&self) -> Vec<OwnerContent> {
        if self.conflicting.is_empty() {
            return vec![OwnerContent { any_pod: self.any_pod, peer_selectors: self.peer_selectors.clone() }];
        }
        self.conflicting.clone()
    }

    /// The content of an address that satisfies another content in addition.
    fn and(&self, other: &Self) -> Self {
        Self::one_of(self.owner_contents().into_iter().map(|owner| OwnerContent {
            any_pod: owner.any_pod || other.any_pod,
            peer_selectors: ascending(owner.peer_selectors.iter().chain(&other.peer_selectors).copied()),
        }))
    }
}

fn ascending(peer_selectors: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut peer_selectors: Vec<_> = peer_selectors.collect();
    peer_selectors.sort_unstable();
    peer_selectors.dedup();
    peer_selectors
}

/// A peer set.
#[derive(Debug)]
pub(super) struct PeerSet {
    pub(super) id: PeerSetId,
    pub(super) content: Arc<PeerSetContent>,
    /// The number of ipcache entries in it.
    pub(super) peers: u32,
}

impl PeerSet {
    pub(super) fn fallback(&self) -> PeerSetId {
        match self.id {
            PeerSetId::COLLISION | PeerSetId::NO_ROOM => PeerSetId::COLLISION,
            _ if self.content.any_pod => PeerSetId::ANY_POD,
            _ => PeerSetId::UNKNOWN,
        }
    }
}

/// The peer sets of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) peer_set: u32,
    /// The peer set in connections that were open before.
    pub(super) established: u32,
}

impl Membership {
    /// The one or two different peer sets.
    pub(super) fn peer_sets(self) -> impl Iterator<Item = u32> {
        std::iter::once(self.peer_set).chain((self.established != self.peer_set).then_some(self.established))
    }
}

/// All peer sets. Those without peers stay until the next garbage collection.
#[derive(Debug)]
pub(super) struct PeerSets {
    slab: Slab<PeerSet>,
    by_content: HashMap<Arc<PeerSetContent>, u32>,
    by_id: HashMap<PeerSetId, u32>,
    unions: HashMap<(u32, u32), u32>,
}

impl Default for PeerSets {
    fn default() -> Self {
        let mut peer_sets = Self {
            slab: Slab::default(),
            by_content: HashMap::default(),
            by_id: HashMap::default(),
            unions: HashMap::default(),
        };
        let empty = peer_sets.add(PeerSetId::UNKNOWN, PeerSetContent::default());
        debug_assert_eq!(empty, EMPTY, "the class of nothing comes first");
        peer_sets.add(PeerSetId::ANY_POD, PeerSetContent::new(true, Vec::new()));
        let closed = peer_sets.slab.insert(PeerSet { id: PeerSetId::COLLISION, content: Arc::default(), peers: 0 });
        debug_assert_eq!(closed, CLOSED, "the class of whoever may nothing comes third");
        let no_room = peer_sets.slab.insert(PeerSet { id: PeerSetId::NO_ROOM, content: Arc::default(), peers: 0 });
        debug_assert_eq!(no_room, NO_ROOM, "the class of whom there is no room for comes fourth");
        peer_sets
    }
}

impl std::ops::Index<u32> for PeerSets {
    type Output = PeerSet;

    fn index(&self, index: u32) -> &PeerSet {
        &self.slab[index]
    }
}

impl PeerSets {
    fn add(&mut self, id: PeerSetId, content: PeerSetContent) -> u32 {
        let content = Arc::new(content);
        let index = self.slab.insert(PeerSet { id, content: Arc::clone(&content), peers: 0 });
        self.by_content.insert(content, index);
        if id != PeerSetId::COLLISION {
            self.by_id.insert(id, index);
        }
        index
    }

    /// The peer set of a content.
    pub(super) fn intern(&mut self, content: PeerSetContent, peer_selectors: &PeerSelectors) -> u32 {
        if let Some(index) = self.by_content.get(&content) {
            return *index;
        }
        let mut hashed = Content::new(if content.conflicting.is_empty() { "class" } else { "dispute" });
        for owner in content.owner_contents() {
            let mut digests: Vec<_> =
                owner.peer_selectors.iter().map(|peer_selector| peer_selectors[*peer_selector].digest).collect();
            digests.sort_unstable();
            hashed.number(u8::from(owner.any_pod));
            if !content.conflicting.is_empty() {
                hashed.length(digests.len());
            }
            for digest in &digests {
                hashed.bytes(digest);
            }
        }
        let id = PeerSetId(hashed.id());
        let id = if self.by_id.contains_key(&id) { PeerSetId::COLLISION } else { id };
        self.add(id, content)
    }

    /// The peer set of an address whose owners have these peer sets; the first if all are equal.
    pub(super) fn conflict(&mut self, peer_sets: &[u32], peer_selectors: &PeerSelectors) -> u32 {
        if peer_sets.contains(&CLOSED) {
            return CLOSED;
        }
        let owner_contents: Vec<_> =
            peer_sets.iter().flat_map(|index| self.slab[*index].content.owner_contents()).collect();
        self.intern(PeerSetContent::one_of(owner_contents), peer_selectors)
    }

    /// The union of two peer sets, of which the second has no conflicting owners.
    pub(super) fn union(&mut self, a: u32, b: u32, peer_selectors: &PeerSelectors) -> u32 {
        if a == CLOSED || b == CLOSED {
            return CLOSED;
        }
        if a == EMPTY || b == EMPTY {
            return a.max(b);
        }
        if let Some(index) = self.unions.get(&(a, b)) {
            return *index;
        }
        let both = self.slab[a].content.and(&self.slab[b].content);
        let index = self.intern(both, peer_selectors);
        self.unions.insert((a, b), index);
        index
    }

    /// Adds a peer.
    pub(super) fn add_peer(&mut self, membership: Membership) {
        membership.peer_sets().for_each(|index| self.slab[index].peers += 1);
    }

    /// Removes a peer.
    pub(super) fn remove_peer(&mut self, membership: Membership) {
        membership.peer_sets().for_each(|index| self.slab[index].peers -= 1);
    }

    /// The ipcache entry of a peer.
    pub(super) fn peer(&self, membership: Membership) -> IpcacheEntry {
        let [peer_set, established] = [membership.peer_set, membership.established].map(|number| &self[number]);
        // A collision has no entries, and its fallback must not decide instead, because it may allow what a rule
        // denies.
        if established.id == PeerSetId::COLLISION {
            return IpcacheEntry::plain(PeerSetId::COLLISION, PeerSetId::COLLISION);
        }
        IpcacheEntry { peer_set: peer_set.id, fallback: peer_set.fallback(), established: established.id }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len() + self.unions.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PeerSet> {
        self.slab.iter().map(|(_, peer_set)| peer_set)
    }

    /// Drops peer sets without peers, except for those in `live` and the constants.
    pub(super) fn retain(&mut self, live: &HashSet<u32>) {
        let keep = |slab: &Slab<PeerSet>, index: u32| {
            index <= NO_ROOM || live.contains(&index) || slab.get(index).is_some_and(|peer_set| peer_set.peers > 0)
        };
        let slab = &mut self.slab;
        self.unions.retain(|(a, b), union| keep(slab, *a) && keep(slab, *b) && keep(slab, *union));
        self.by_id.retain(|_, index| keep(slab, *index));
        self.by_content.retain(|_, index| {
            let keep = keep(slab, *index);
            if !keep {
                slab.remove(*index);
            }
            keep
        });
    }
}
