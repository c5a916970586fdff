//! Peer classes: interned sets of atoms.

use foldhash::{HashMap, HashSet};
use std::sync::Arc;

use super::atoms::Atoms;
use super::digest::Content;
use super::slab::Slab;
use crate::{ClassId, PeerClass};

/// Number of the class of nothing.
pub(super) const EMPTY: u32 = 0;
/// Number of the class of whoever may nothing, wherever there are rules.
pub(super) const CLOSED: u32 = 2;
/// Number of the class of whom there is no room for: may nothing either, and it is said why.
pub(super) const NO_ROOM: u32 = 3;

/// What a peer satisfies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Satisfied {
    /// It is a pod of a known namespace, and some ruleset in use speaks of all of them.
    pub(super) universal: bool,
    /// Numbers of atoms, ascending; in dispute: of everybody's.
    pub(super) atoms: Vec<u32>,
    /// Who has the address is in dispute between pods that satisfy these: different ones, two or more, oldest first.
    pub(super) disputed: Vec<Share>,
}

/// What one of several satisfies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Share {
    pub(super) universal: bool,
    /// Numbers of atoms, ascending.
    pub(super) atoms: Vec<u32>,
}

impl Satisfied {
    pub(super) fn new(universal: bool, atoms: Vec<u32>) -> Self {
        Self { universal, atoms, disputed: Vec::new() }
    }

    /// What is satisfied by who is one of these.
    fn one_of(shares: impl IntoIterator<Item = Share>) -> Self {
        let mut disputed: Vec<Share> = Vec::new();
        for share in shares {
            if !disputed.contains(&share) {
                disputed.push(share);
            }
        }
        if disputed.len() == 1 {
            return disputed.pop().map(|Share { universal, atoms }| Self::new(universal, atoms)).unwrap_or_default();
        }
        let atoms = ascending(disputed.iter().flat_map(|share| share.atoms.iter().copied()));
        Self { universal: disputed.iter().all(|share| share.universal), atoms, disputed }
    }

    fn shares(&self) -> Vec<Share> {
        if self.disputed.is_empty() {
            return vec![Share { universal: self.universal, atoms: self.atoms.clone() }];
        }
        self.disputed.clone()
    }

    /// Everybody who may be it satisfies this too.
    fn and(&self, other: &Self) -> Self {
        Self::one_of(self.shares().into_iter().map(|share| Share {
            universal: share.universal || other.universal,
            atoms: ascending(share.atoms.iter().chain(&other.atoms).copied()),
        }))
    }
}

fn ascending(atoms: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut atoms: Vec<_> = atoms.collect();
    atoms.sort_unstable();
    atoms.dedup();
    atoms
}

/// A set of atoms.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) id: ClassId,
    pub(super) content: Arc<Satisfied>,
    /// How many entries of `peers` are in it.
    pub(super) peers: u32,
}

impl Class {
    pub(super) fn fallback(&self) -> ClassId {
        match self.id {
            ClassId::CONFLICT | ClassId::NO_ROOM => ClassId::CONFLICT,
            _ if self.content.universal => ClassId::ANY_POD,
            _ => ClassId::UNKNOWN,
        }
    }
}

/// The numbers of the classes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) class: u32,
    /// In connections that were open before: more is satisfied.
    pub(super) established: u32,
}

impl Standing {
    /// Those that are different.
    pub(super) fn classes(self) -> impl Iterator<Item = u32> {
        std::iter::once(self.class).chain((self.established != self.class).then_some(self.established))
    }
}

/// All classes, those without peers included until the next sweep.
#[derive(Debug)]
pub(super) struct Classes {
    slab: Slab<Class>,
    by_content: HashMap<Arc<Satisfied>, u32>,
    by_id: HashMap<ClassId, u32>,
    joined: HashMap<(u32, u32), u32>,
}

impl Default for Classes {
    fn default() -> Self {
        let mut classes = Self {
            slab: Slab::default(),
            by_content: HashMap::default(),
            by_id: HashMap::default(),
            joined: HashMap::default(),
        };
        let empty = classes.add(ClassId::UNKNOWN, Satisfied::default());
        debug_assert_eq!(empty, EMPTY, "the class of nothing comes first");
        classes.add(ClassId::ANY_POD, Satisfied::new(true, Vec::new()));
        let closed = classes.slab.insert(Class { id: ClassId::CONFLICT, content: Arc::default(), peers: 0 });
        debug_assert_eq!(closed, CLOSED, "the class of whoever may nothing comes third");
        let no_room = classes.slab.insert(Class { id: ClassId::NO_ROOM, content: Arc::default(), peers: 0 });
        debug_assert_eq!(no_room, NO_ROOM, "the class of whom there is no room for comes fourth");
        classes
    }
}

impl std::ops::Index<u32> for Classes {
    type Output = Class;

    fn index(&self, index: u32) -> &Class {
        &self.slab[index]
    }
}

impl Classes {
    fn add(&mut self, id: ClassId, content: Satisfied) -> u32 {
        let content = Arc::new(content);
        let index = self.slab.insert(Class { id, content: Arc::clone(&content), peers: 0 });
        self.by_content.insert(content, index);
        if id != ClassId::CONFLICT {
            self.by_id.insert(id, index);
        }
        index
    }

    /// The class of a set.
    pub(super) fn intern(&mut self, content: Satisfied, atoms: &Atoms) -> u32 {
        if let Some(index) = self.by_content.get(&content) {
            return *index;
        }
        let mut hashed = Content::new(if content.disputed.is_empty() { "class" } else { "dispute" });
        for share in content.shares() {
            let mut digests: Vec<_> = share.atoms.iter().map(|atom| atoms[*atom].digest).collect();
            digests.sort_unstable();
            hashed.number(u8::from(share.universal));
            if !content.disputed.is_empty() {
                hashed.length(digests.len());
            }
            for digest in &digests {
                hashed.bytes(digest);
            }
        }
        let id = ClassId(hashed.id());
        let id = if self.by_id.contains_key(&id) { ClassId::CONFLICT } else { id };
        self.add(id, content)
    }

    /// The class of whoever is in one of these, the first if all are the same.
    pub(super) fn dispute(&mut self, classes: &[u32], atoms: &Atoms) -> u32 {
        if classes.contains(&CLOSED) {
            return CLOSED;
        }
        let shares: Vec<_> = classes.iter().flat_map(|index| self.slab[*index].content.shares()).collect();
        self.intern(Satisfied::one_of(shares), atoms)
    }

    /// The class of what satisfies both, the second of which is not in dispute.
    pub(super) fn join(&mut self, a: u32, b: u32, atoms: &Atoms) -> u32 {
        if a == CLOSED || b == CLOSED {
            return CLOSED;
        }
        if a == EMPTY || b == EMPTY {
            return a.max(b);
        }
        if let Some(index) = self.joined.get(&(a, b)) {
            return *index;
        }
        let both = self.slab[a].content.and(&self.slab[b].content);
        let index = self.intern(both, atoms);
        self.joined.insert((a, b), index);
        index
    }

    /// One peer more.
    pub(super) fn enter(&mut self, standing: Standing) {
        standing.classes().for_each(|index| self.slab[index].peers += 1);
    }

    /// One peer less.
    pub(super) fn leave(&mut self, standing: Standing) {
        standing.classes().for_each(|index| self.slab[index].peers -= 1);
    }

    /// What a plan says of a peer.
    pub(super) fn peer(&self, standing: Standing) -> PeerClass {
        let [class, established] = [standing.class, standing.established].map(|number| &self[number]);
        // A conflict has no entries, and no fallback may decide in their place: it may allow what a rule denies.
        if established.id == ClassId::CONFLICT {
            return PeerClass::plain(ClassId::CONFLICT, ClassId::CONFLICT);
        }
        PeerClass { class: class.id, fallback: class.fallback(), established: established.id }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len() + self.joined.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Class> {
        self.slab.iter().map(|(_, class)| class)
    }

    /// Forgets classes without peers, but for those in `live` and the constants.
    pub(super) fn retain(&mut self, live: &HashSet<u32>) {
        let keep = |slab: &Slab<Class>, index: u32| {
            index <= NO_ROOM || live.contains(&index) || slab.get(index).is_some_and(|class| class.peers > 0)
        };
        let slab = &mut self.slab;
        self.joined.retain(|(a, b), union| keep(slab, *a) && keep(slab, *b) && keep(slab, *union));
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
