//! The policy that one node must enforce, as a plain value.
//!
//! All ids are content hashes: the same content has the same id in every process and on every run. So the content of
//! the kernel can be compared with a plan by keys alone, also after a restart.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::{Direction, Name, PodKey, Reason};

use crate::PortTable;

/// The ordered rules that apply to a pod in one direction. [`RulesetId::NONE`]: no policy applies, everything is
/// allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RulesetId(pub u64);

/// The set of peer selectors of this node's rulesets that a peer satisfies: pod selectors, `ipBlock`s, node selectors,
/// domain names and named ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerSetId(pub u64);

/// The id of a reason of a decision: a rule, or the policies that isolate the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u64);

impl RulesetId {
    /// No policy applies.
    pub const NONE: Self = Self(0);
    /// Two different contents have the same hash: there are no entries for this id, so everything is denied.
    pub const COLLISION: Self = Self(1);
    /// The ruleset does not fit ([`crate::Limits`]): everything is denied.
    pub const NO_ROOM: Self = Self(2);
}

impl PeerSetId {
    /// An address without known owner, outside of every CIDR in use.
    pub const UNKNOWN: Self = Self(0);
    /// A pod that satisfies no peer selector of any ruleset of this node.
    pub const ANY_POD: Self = Self(1);
    /// Two different contents have the same hash: there are no entries for this id, so everything is denied.
    pub const COLLISION: Self = Self(2);
    /// There is no room for the peer ([`crate::Limits`]): every ruleset has an entry that denies it.
    pub const NO_ROOM: Self = Self(3);
}

impl RuleId {
    /// No policy applies ([`Reason::Default`]).
    pub const DEFAULT: Self = Self(0);
    /// The policies do not fit ([`Reason::NoRoom`]).
    pub const NO_ROOM: Self = Self(1);
}

/// A local pod address and its policy. One write of this value swaps the whole policy of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The pod.
    pub pod: PodKey,
    /// Unique id of the pod.
    pub uid: Name,
    /// The node that runs the pod, which may always connect to it. In the plan of a node: that node.
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

/// The peer set of the addresses of a prefix, and the fallback entry for rulesets without an entry of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpcacheEntry {
    /// The peer set.
    pub peer_set: PeerSetId,
    /// [`PeerSetId::ANY_POD`] for pods of known namespaces, else [`PeerSetId::UNKNOWN`].
    pub fallback: PeerSetId,
    /// The peer set in connections that were open before. It differs from `peer_set` if the address has expired for a
    /// domain name. Only single addresses differ, not CIDRs.
    pub established: PeerSetId,
}

impl IpcacheEntry {
    /// The entry of an address outside of every prefix.
    pub const UNKNOWN: Self = Self::plain(PeerSetId::UNKNOWN, PeerSetId::UNKNOWN);

    /// An entry with the same peer set for new and for open connections.
    pub const fn plain(peer_set: PeerSetId, fallback: PeerSetId) -> Self {
        Self { peer_set, fallback, established: peer_set }
    }

    /// The peer set in new connections, or in `established` ones.
    pub fn of(self, established: bool) -> PeerSetId {
        if established { self.established } else { self.peer_set }
    }
}

/// The key of a policy entry: the decision of a ruleset about a peer set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The ruleset.
    pub ruleset: RulesetId,
    /// The peer set of the peer.
    pub peer_set: PeerSetId,
}

/// The policy that one node must enforce (or, offline, the whole cluster as one node).
///
/// The verdict of an endpoint about a peer is found in three steps. The endpoint has a ruleset in that direction;
/// [`RulesetId::NONE`] allows. The peer has the entry of the longest prefix in `ipcache` that holds its address, else
/// [`PeerSetId::UNKNOWN`] in all fields; `established` replaces `peer_set` for connections that were open before. The
/// port table is `policy[ruleset, peer_set]`, else `policy[ruleset, fallback]`. Every ruleset in use has entries for
/// `UNKNOWN` and `ANY_POD`; a missing entry denies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Local pods by address.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Peer sets of addresses and CIDRs; a full-length prefix is a single address.
    pub ipcache: BTreeMap<IpNet, IpcacheEntry>,
    /// Port tables by ruleset and peer set.
    pub policy: HashMap<PolicyKey, Arc<PortTable>>,
    /// The reasons that the rule ids in port tables stand for.
    pub rules: HashMap<RuleId, Reason>,
    /// Pod CIDRs of this node, and pod addresses outside of these: an address inside without an endpoint is dropped.
    pub closed_cidrs: Vec<IpNet>,
}

/// The change from one plan to the next, to be carried out in the order of the fields.
///
/// That order keeps every pod on one whole policy at every instant. Port tables are written before a peer moves to a
/// peer set that needs them and before an endpoint refers to them. They are removed after the last reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// New rule ids.
    pub put_rules: Vec<(RuleId, Reason)>,
    /// New or replaced policy entries.
    pub put_policy: Vec<(PolicyKey, Arc<PortTable>)>,
    /// New or replaced ipcache entries.
    pub put_ipcache: Vec<(IpNet, IpcacheEntry)>,
    /// The closed CIDRs, if they changed.
    pub closed_cidrs: Option<Vec<IpNet>>,
    /// New or replaced endpoints.
    pub put_endpoints: Vec<(IpAddr, Endpoint)>,
    /// Endpoints to remove.
    pub delete_endpoints: Vec<IpAddr>,
    /// Ipcache entries to remove.
    pub delete_ipcache: Vec<IpNet>,
    /// Policy entries to remove.
    pub delete_policy: Vec<PolicyKey>,
    /// Rule ids to remove.
    pub delete_rules: Vec<RuleId>,
}

impl Delta {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same change, with each field in one order, so that changes can be compared. The order matters only for
    /// removed policy entries: the fallbacks of a ruleset come first, so that a packet that misses another entry misses
    /// the fallback too.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.put_rules.sort_unstable_by_key(|(id, _)| *id);
        self.put_policy.sort_unstable_by_key(|(key, _)| *key);
        self.put_ipcache.sort_unstable_by_key(|(net, _)| *net);
        self.put_endpoints.sort_unstable_by_key(|(address, _)| *address);
        self.delete_endpoints.sort_unstable();
        self.delete_ipcache.sort_unstable();
        self.delete_policy.sort_unstable();
        self.delete_rules.sort_unstable();
        self
    }
}

impl Plan {
    /// Carries out a change.
    pub fn apply(&mut self, delta: &Delta) {
        self.rules.extend(delta.put_rules.iter().cloned());
        self.policy.extend(delta.put_policy.iter().map(|(key, table)| (*key, Arc::clone(table))));
        self.ipcache.extend(delta.put_ipcache.iter().copied());
        if let Some(closed_cidrs) = &delta.closed_cidrs {
            self.closed_cidrs.clone_from(closed_cidrs);
        }
        self.endpoints.extend(delta.put_endpoints.iter().cloned());
        for address in &delta.delete_endpoints {
            self.endpoints.remove(address);
        }
        for net in &delta.delete_ipcache {
            self.ipcache.remove(net);
        }
        for key in &delta.delete_policy {
            self.policy.remove(key);
        }
        for rule_id in &delta.delete_rules {
            self.rules.remove(rule_id);
        }
    }
}
