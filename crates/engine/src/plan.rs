//! What one node must enforce, as a plain value.
//!
//! All ids are content hashes: the same content has the same id in every process and on every run, so that what the
//! kernel holds can be compared with what should be there by keys alone, also after a restart.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::{Direction, Name, PodKey, Reason};

use crate::Block;

/// The ordered rules that apply to a pod in one direction. [`RulesetId::NONE`]: no policy does, everything is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RulesetId(pub u64);

/// The set of selectors, blocks and port names of this node's rulesets that a peer satisfies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u64);

/// A reason a packet was decided for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CauseId(pub u64);

impl RulesetId {
    /// No policy applies.
    pub const NONE: Self = Self(0);
    /// Two different contents have one hash: never has entries, so everything is denied.
    pub const CONFLICT: Self = Self(1);
    /// What should apply does not fit ([`crate::Limits`]): everything is denied.
    pub const NO_ROOM: Self = Self(2);
}

impl ClassId {
    /// An address nothing is known about, and which no block covers.
    pub const UNKNOWN: Self = Self(0);
    /// A pod that differs in nothing any ruleset of this node looks at, but that it is a pod.
    pub const ANY_POD: Self = Self(1);
    /// Two different contents have one hash: never has entries, so everything is denied.
    pub const CONFLICT: Self = Self(2);
    /// There is no room for the peer ([`crate::Limits`]): every ruleset has an entry that denies it.
    pub const NO_ROOM: Self = Self(3);
}

impl CauseId {
    /// No policy has an opinion ([`Reason::Default`]).
    pub const DEFAULT: Self = Self(0);
    /// The policies do not fit ([`Reason::NoRoom`]).
    pub const NO_ROOM: Self = Self(1);
}

/// What a cause stands for.
pub type Cause = Reason;

/// A local pod address and its policy. One write of this value swaps the whole policy of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The pod.
    pub pod: PodKey,
    /// Unique id of the pod.
    pub uid: Name,
    /// The node it runs on, which may always talk to it. In the plan of a node: that node.
    pub node: Option<Name>,
    /// Rules for connections into the pod.
    pub ingress: RulesetId,
    /// Rules for connections out of the pod.
    pub egress: RulesetId,
}

impl Endpoint {
    /// The rules of one direction.
    pub fn ruleset(&self, direction: Direction) -> RulesetId {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Which class the addresses of a prefix are in, and which entry decides where that class has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerClass {
    /// The class.
    pub class: ClassId,
    /// [`ClassId::ANY_POD`] for pods of known namespaces, else [`ClassId::UNKNOWN`].
    pub fallback: ClassId,
    /// The class in connections that were open before: another than `class` where the address lingers as one of a
    /// domain name, which only addresses do, not wider prefixes.
    pub established: ClassId,
}

impl PeerClass {
    /// What an address outside of every prefix is in.
    pub const UNKNOWN: Self = Self::plain(ClassId::UNKNOWN, ClassId::UNKNOWN);

    /// The same class for connections that are opened and that were open before.
    pub const fn plain(class: ClassId, fallback: ClassId) -> Self {
        Self { class, fallback, established: class }
    }

    /// The class in connections that are opened, or that were `established` before.
    pub fn of(self, established: bool) -> ClassId {
        if established { self.established } else { self.class }
    }
}

/// What a ruleset decides about a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey {
    /// The ruleset.
    pub ruleset: RulesetId,
    /// The class of the peer.
    pub class: ClassId,
}

/// What one node must enforce (or, offline, the whole cluster as one node).
///
/// The verdict of an endpoint about a peer: its ruleset in that direction, [`RulesetId::NONE`] allows. The peer's
/// class: the longest prefix in `peers` that holds its address, else [`ClassId::UNKNOWN`] for all fields; for a
/// connection that was open before, `established` is the class. The block:
/// `entries[ruleset, class]`, else `entries[ruleset, fallback]`. Every ruleset in use has entries for `UNKNOWN` and
/// `ANY_POD`; a missing one denies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Local pods by address.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Classes of addresses; a full-length prefix is one address.
    pub peers: BTreeMap<IpNet, PeerClass>,
    /// Decisions.
    pub entries: HashMap<EntryKey, Arc<Block>>,
    /// What the causes in blocks stand for.
    pub causes: HashMap<CauseId, Cause>,
    /// Ranges of this node's pods, and addresses of them outside of these: without an endpoint they are not let
    /// through.
    pub gates: Vec<IpNet>,
}

/// What changed from one plan to the next, to be carried out in the order of the fields.
///
/// That order keeps every pod on one whole policy at every instant: decisions are there before a peer moves to a
/// class that needs them and before an endpoint points to them, and go when nothing points to them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// New causes.
    pub put_causes: Vec<(CauseId, Cause)>,
    /// New or replaced decisions.
    pub put_entries: Vec<(EntryKey, Arc<Block>)>,
    /// New or replaced peers.
    pub put_peers: Vec<(IpNet, PeerClass)>,
    /// The ranges of this node's pods, if they changed.
    pub gates: Option<Vec<IpNet>>,
    /// New or replaced endpoints.
    pub put_endpoints: Vec<(IpAddr, Endpoint)>,
    /// Endpoints that are gone.
    pub delete_endpoints: Vec<IpAddr>,
    /// Peers that are gone.
    pub delete_peers: Vec<IpNet>,
    /// Decisions nothing uses any more.
    pub delete_entries: Vec<EntryKey>,
    /// Causes nothing uses any more.
    pub delete_causes: Vec<CauseId>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same change in the one order within each field that makes changes comparable. It means nothing but for
    /// decisions that go: the fallbacks of a ruleset before its others, so that who misses one misses the fallback,
    /// too.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.put_causes.sort_unstable_by_key(|(id, _)| *id);
        self.put_entries.sort_unstable_by_key(|(key, _)| *key);
        self.put_peers.sort_unstable_by_key(|(net, _)| *net);
        self.put_endpoints.sort_unstable_by_key(|(address, _)| *address);
        self.delete_endpoints.sort_unstable();
        self.delete_peers.sort_unstable();
        self.delete_entries.sort_unstable();
        self.delete_causes.sort_unstable();
        self
    }
}

impl Plan {
    /// Carries out a change.
    pub fn apply(&mut self, delta: &Delta) {
        self.causes.extend(delta.put_causes.iter().cloned());
        self.entries.extend(delta.put_entries.iter().map(|(key, block)| (*key, Arc::clone(block))));
        self.peers.extend(delta.put_peers.iter().copied());
        if let Some(gates) = &delta.gates {
            self.gates.clone_from(gates);
        }
        self.endpoints.extend(delta.put_endpoints.iter().cloned());
        for address in &delta.delete_endpoints {
            self.endpoints.remove(address);
        }
        for net in &delta.delete_peers {
            self.peers.remove(net);
        }
        for key in &delta.delete_entries {
            self.entries.remove(key);
        }
        for cause in &delta.delete_causes {
            self.causes.remove(cause);
        }
    }
}
