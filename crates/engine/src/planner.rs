//! The planner: from a world that changes object by object to plans, and from plan to plan by deltas.
//!
//! A **peer selector** is one kind of peer that the rulesets in use on this node refer to: a pod selector, an
//! `ipBlock`, a node selector, a domain name, or a named port. The **peer set** of a peer is the set of peer selectors
//! that it satisfies; peers with equal ones cannot be distinguished. The **ruleset** of a local pod in one direction is
//! the list of policies that select it, in order of evaluation. For a ruleset and a peer set the decision depends on
//! protocol and port only, and is flattened into a [`PortTable`]. All ids are hashes of content. So the plan is a
//! function of the world, and does not depend on the order of events.
//!
//! The work of an event is proportional to what it touches:
//! * Pods with the same properties visible to policy (namespace, labels, named ports) share an *identity*. Selectors
//!   are matched once per identity.
//! * `apply` and `delete` update the indexes and mark identities, addresses and namespaces. `commit` recomputes what
//!   is marked: policies → rulesets → peer selectors in use → peer sets of identities → ipcache → policy entries.
//! * "Every pod of every known namespace" is no peer selector but a flag of the peer set. It selects one of the two
//!   fallback entries of each ruleset, so that most peers need no entries of their own.
//! * Policy entries are stored only where the port table differs from that of the fallback.
//! * CIDRs are closed under longest match ([`prefixes`]): every prefix in use carries all `ipBlock`s that cover it. An
//!   address of a node or domain name in use ([`hosts`]) is such a prefix too, and carries their peer selectors.
//! * An address that has expired for a domain name has two peer sets: one without that peer selector, and one with it
//!   for connections that were open before.
//!
//! A commit that deactivates peer selectors has two deltas. In the first one, peer sets distinguish the peer selectors
//! of the old *and* the new rulesets. The entries for both are written before peers move, and endpoints change their
//! rulesets last. In the second one, peer sets shrink to the peer selectors of the new rulesets. So no write changes a
//! verdict, except for the one that changes an endpoint (or moves the very peer that changed).

mod accounting;
mod admission;
mod commit;
mod digest;
mod fair_share;
mod flatten;
mod gc;
mod hosts;
mod ipcache;
mod isolation;
mod layout;
mod objects;
mod overflow;
mod ownership;
mod peer_selectors;
mod peer_sets;
mod pods;
mod policy;
mod policy_lists;
mod prefixes;
mod quotas;
mod retained;
mod rule_ids;
mod ruleset_diff;
mod ruleset_spec;
mod rulesets;
mod selector_refs;
mod slab;
mod strings;
mod subject_index;
mod subjects;

#[cfg(feature = "testing")]
pub(crate) use digest::short::with as short_ids;

use foldhash::{HashMap, HashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::{Name, PolicyId, Reason};

use crate::{Endpoint, Limits, Plan, PolicyKey, PortTable, Resource, RuleId, RulesetId};
pub use fair_share::{fair_share, left_out};
pub use ownership::{AddressConflict, Claimant};

use accounting::TableAccounting;
use hosts::Hosts;
use overflow::Overflow;
use peer_selectors::PeerSelectors;
use peer_sets::{Membership, PeerSets};
use pods::Pods;
use policy::Policy;
use prefixes::Prefixes;
use retained::Retained;
use rule_ids::RuleIds;
use rulesets::Ruleset;
use slab::Slab;
use strings::{Pairs, Strings, Sym};
use subject_index::SubjectIndex;
use subjects::Invalidation;

/// The pods whose policy is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The pods of this node.
    Node(Name),
    /// The pods of all nodes: the cluster as one node.
    Cluster,
}

/// Compiles the world into plans, incrementally.
#[derive(Debug)]
pub struct Planner {
    scope: Scope,
    limits: Limits,
    strings: Strings,
    namespaces: HashMap<Sym, Namespace>,
    /// The namespaces with a label.
    labelled: HashMap<(Sym, Sym), HashSet<Sym>>,
    /// The pod CIDRs of nodes in scope.
    nodes: BTreeMap<Name, Vec<IpNet>>,
    /// Addresses that are closed while no pod has them.
    closed_addresses: BTreeSet<IpAddr>,
    /// There are too many closed addresses, so ranges around them are closed.
    closed_addresses_widened: bool,
    /// The inputs of the latest quotas.
    quota_inputs: Option<quotas::Capacities>,
    hosts: Hosts,
    pods: Pods,
    policies: Policies,
    /// Identities with pods in scope, now or at the last commit. The list of policies that select them is kept up to
    /// date.
    locals: HashSet<u32>,
    peer_selectors: PeerSelectors,
    prefixes: Prefixes,
    peer_sets: PeerSets,
    rulesets: Rulesets,
    /// The shared copies of equal port tables.
    tables: HashSet<Arc<PortTable>>,
    /// The space that the port tables of all rulesets take up.
    accounting: TableAccounting,
    /// Rulesets that are not laid out, because their rules do not fit.
    over_quota: BTreeMap<RulesetId, Resource>,
    /// Rulesets in the plan that have lost their room since the last commit.
    evicted: Vec<RulesetId>,
    /// Rulesets that have room again, by number, until the end of the commit.
    readmitted: Vec<u32>,
    /// Local addresses beyond the limit of endpoints.
    excess_endpoints: BTreeSet<IpAddr>,
    /// Rulesets that stay in force until their successors fit.
    retained: Retained,
    /// Addresses of pods beyond the limit of the ipcache.
    overflow: Overflow,
    published: Published,
    dirty: Dirty,
    /// The number of objects after the latest garbage collection.
    objects_after_gc: usize,
}

/// The state of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    /// None: the object is unknown.
    labels: Option<Pairs>,
    identities: HashSet<u32>,
    /// Policies whose subject is this namespace.
    policies: SubjectIndex,
    /// Active peer selectors that select pods of this namespace.
    candidates: Vec<u32>,
}

#[derive(Debug, Default)]
struct Policies {
    slab: Slab<Arc<Policy>>,
    by_id: HashMap<PolicyId, u32>,
    /// Policies whose subject is more than one namespace.
    wide: SubjectIndex,
    /// The number of policies whose rules are withheld.
    withheld: usize,
}

#[derive(Debug, Default)]
struct Rulesets {
    slab: Slab<Ruleset>,
    by_id: HashMap<RulesetId, u32>,
    rule_ids: RuleIds,
}

/// The sum of all deltas so far, as far as no other field holds it.
#[derive(Debug, Default)]
struct Published {
    endpoints: BTreeMap<IpAddr, Endpoint>,
    ipcache: HashMap<IpNet, Membership>,
    closed_cidrs: Vec<IpNet>,
    /// Some endpoint has [`RulesetId::NO_ROOM`].
    no_room: bool,
}

/// The objects that the next commit has to process.
#[derive(Debug, Default)]
struct Dirty {
    namespaces: HashSet<Sym>,
    /// Their peer set may differ.
    identities: HashSet<u32>,
    /// Their rulesets may differ.
    subjects: HashMap<u32, Invalidation>,
    addresses: HashSet<IpAddr>,
    /// They are or were addresses of local pods.
    endpoints: HashSet<IpAddr>,
    nets: HashSet<IpNet>,
    /// Nodes whose pod CIDRs have changed, and the CIDRs that were added or removed.
    nodes: HashSet<Sym>,
    ranges: HashSet<IpNet>,
    closed_cidrs: bool,
}

impl Planner {
    /// A planner of an empty world, whose plans may be of any size.
    pub fn new(scope: Scope) -> Self {
        Self::with_limits(scope, Limits::NONE)
    }

    /// A planner of an empty world. Policies beyond the limits are denied to their pods. The choice is a function of
    /// the world, like the whole plan.
    pub fn with_limits(scope: Scope, limits: Limits) -> Self {
        let knows_own = matches!(scope, Scope::Node(_));
        Self {
            scope,
            limits,
            strings: Strings::default(),
            namespaces: HashMap::default(),
            labelled: HashMap::default(),
            nodes: BTreeMap::new(),
            closed_addresses: BTreeSet::new(),
            closed_addresses_widened: false,
            quota_inputs: None,
            hosts: Hosts::default(),
            pods: Pods::new(knows_own),
            policies: Policies::default(),
            locals: HashSet::default(),
            peer_selectors: PeerSelectors::default(),
            prefixes: Prefixes::default(),
            peer_sets: PeerSets::default(),
            rulesets: Rulesets::default(),
            tables: HashSet::default(),
            accounting: TableAccounting::default(),
            over_quota: BTreeMap::new(),
            evicted: Vec::new(),
            readmitted: Vec::new(),
            excess_endpoints: BTreeSet::new(),
            retained: Retained::default(),
            overflow: Overflow::default(),
            published: Published::default(),
            dirty: Dirty::default(),
            objects_after_gc: 0,
        }
    }

    /// Changes the limits of a plan, from the next [`Planner::commit`] on.
    pub fn set_limits(&mut self, limits: Limits) {
        if limits != self.limits {
            self.limits = limits;
            self.accounting.touch();
            self.dirty.closed_cidrs = true;
        }
    }

    /// The limits of a plan.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The pods whose policy is enforced.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The whole plan as of the last [`Planner::commit`]: the sum of all deltas so far.
    pub fn plan(&self) -> Plan {
        let mut policy = std::collections::HashMap::new();
        for (_, ruleset) in self.rulesets.slab.iter().filter(|(_, ruleset)| ruleset.published) {
            let tables = ruleset.tables(|peer_set| self.peer_sets[peer_set].id);
            let key = |peer_set| PolicyKey { ruleset: ruleset.id, peer_set };
            policy.extend(tables.map(|(peer_set, table)| (key(peer_set), Arc::clone(table))));
        }
        let mut rules: std::collections::HashMap<_, _> =
            self.rulesets.rule_ids.iter().map(|(id, reason)| (id, reason.clone())).collect();
        if self.published.no_room {
            policy.extend(admission::no_room());
            rules.insert(RuleId::NO_ROOM, Reason::NoRoom);
        }
        let peers = self.published.ipcache.iter();
        Plan {
            endpoints: self.published.endpoints.clone(),
            ipcache: peers.map(|(net, membership)| (*net, self.peer_sets.peer(*membership))).collect(),
            policy,
            rules,
            closed_cidrs: self.published.closed_cidrs.clone(),
        }
    }
}
