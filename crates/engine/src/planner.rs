//! The planner: from a world that changes object by object to plans, and from plan to plan by deltas.
//!
//! What a peer is to the policies of this node is a set of **atoms**: the pod selections, the `ipBlock`s, the node
//! selections, the domain names and the (name, protocol, port) triples that the rulesets in use on this node ask for.
//! Peers with equal sets are one
//! **class**. What a local pod is subject to in one direction is a **ruleset**: the policies that select it, in order
//! of evaluation. For a ruleset and a class the decision depends on protocol and port only and is flattened into a
//! [`Block`]. All three have ids that are hashes of their content, so that the plan is a function of the world: the
//! order of events cannot show.
//!
//! The work of an event is proportional to what it touches:
//! * Pods that differ in nothing policy can see (namespace, labels, named ports) share an *identity*; selectors are
//!   matched once an identity.
//! * `apply` and `delete` update the indexes and mark identities, addresses and namespaces; `commit` recomputes what
//!   is marked: policies → rulesets → atoms in use → classes of identities → classes of addresses → entries.
//! * "Every pod of every known namespace" is no atom but a flag of the class: it is what tells the two fallback
//!   entries of each ruleset apart, so that the many peers that differ in nothing else need no entries of their own.
//! * Entries are stored only where the decision differs from that of the fallback.
//! * Blocks are closed under longest match ([`prefixes`]): every prefix in use carries all blocks that cover it. An
//!   address of a node or domain name in use ([`hosts`]) is such a prefix, which carries those atoms too.
//! * An address that lingers as one of a domain name has two classes: one without that atom, and one with it for
//!   connections that were open before.
//!
//! A commit that takes atoms out of use comes in two deltas. In the first, classes tell apart what the old *and* the
//! new rulesets ask for; entries for both are there before peers move, and endpoints flip when everything is in
//! place. In the second, classes shrink to what the new rulesets ask for. So no write of either changes a verdict but
//! the one that flips an endpoint (or that moves the very peer that changed).

mod admission;
mod atoms;
mod by_subject;
mod causes;
mod claims;
mod classes;
mod commit;
mod crowd;
mod digest;
mod flatten;
mod hosts;
mod isolation;
mod kept;
mod layout;
mod ledger;
mod listing;
mod peers;
mod pods;
mod policy;
mod prefixes;
mod rations;
mod recipe;
mod rulesets;
mod share;
mod slab;
mod strings;
mod subjects;
mod sweep;
mod turnover;
mod usage;
mod world;

#[cfg(feature = "testing")]
pub(crate) use digest::short::with as short_ids;

use foldhash::{HashMap, HashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::{Name, PolicyId};

use crate::{Block, Cause, CauseId, Endpoint, EntryKey, Limits, Plan, Room, RulesetId};
pub use claims::{Claimant, Dispute};
pub use share::{fair_share, left_out};

use atoms::Atoms;
use by_subject::BySubject;
use causes::Causes;
use classes::{Classes, Standing};
use crowd::Crowd;
use hosts::Hosts;
use kept::Kept;
use ledger::Ledger;
use pods::Pods;
use policy::Policy;
use prefixes::Prefixes;
use rulesets::Ruleset;
use slab::Slab;
use strings::{Pairs, Strings, Sym};
use subjects::Doubt;

/// Whose pods are enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of this node.
    Node(Name),
    /// All: the cluster as one node.
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
    /// Ranges of pods, by node in scope.
    nodes: BTreeMap<Name, Vec<IpNet>>,
    /// Addresses that are closed while no pod has them.
    guards: BTreeSet<IpAddr>,
    /// These are too many: ranges around them are closed.
    widened: bool,
    /// What rations were found for last.
    rationed: Option<rations::Rooms>,
    hosts: Hosts,
    pods: Pods,
    policies: Policies,
    /// Identities with pods in scope, now or when it was last committed: which policies select them is kept up to date.
    locals: HashSet<u32>,
    atoms: Atoms,
    prefixes: Prefixes,
    classes: Classes,
    rulesets: Rulesets,
    /// One copy of equal decisions.
    blocks: HashSet<Arc<Block>>,
    /// How much room all decisions take up.
    ledger: Ledger,
    /// Rulesets that are not laid out, because their rules do not fit.
    unlaid: BTreeMap<RulesetId, Room>,
    /// Rulesets in the plan for which there was no room any more since the last commit.
    ousted: Vec<RulesetId>,
    /// Rulesets for which there is room again, by number, until the end of the commit.
    readmitted: Vec<u32>,
    /// Local addresses that are no endpoints, because there are too many.
    unseated: BTreeSet<IpAddr>,
    /// Rulesets that stand until there is room for those that are to come for them.
    kept: Kept,
    /// Addresses of pods that are no peers, because there are too many.
    crowd: Crowd,
    published: Published,
    dirty: Dirty,
    /// How much there was to keep at the last sweep.
    swept: usize,
}

/// What is known of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    /// None: its object is not known.
    labels: Option<Pairs>,
    identities: HashSet<u32>,
    /// Policies whose subject is this namespace.
    policies: BySubject,
    /// Atoms in use that select pods here.
    candidates: Vec<u32>,
}

#[derive(Debug, Default)]
struct Policies {
    slab: Slab<Arc<Policy>>,
    by_id: HashMap<PolicyId, u32>,
    /// Those whose subject is not one namespace.
    wide: BySubject,
    /// How many have their rules withheld.
    withheld: usize,
}

#[derive(Debug, Default)]
struct Rulesets {
    slab: Slab<Ruleset>,
    by_id: HashMap<RulesetId, u32>,
    causes: Causes,
}

/// What the deltas so far add up to, as far as it is not kept elsewhere.
#[derive(Debug, Default)]
struct Published {
    endpoints: BTreeMap<IpAddr, Endpoint>,
    peers: HashMap<IpNet, Standing>,
    gates: Vec<IpNet>,
    /// Some endpoint has [`RulesetId::NO_ROOM`].
    no_room: bool,
}

/// What has to be looked at by the next commit.
#[derive(Debug, Default)]
struct Dirty {
    namespaces: HashSet<Sym>,
    /// Their class may differ.
    identities: HashSet<u32>,
    /// Their rulesets may differ.
    subjects: HashMap<u32, Doubt>,
    addresses: HashSet<IpAddr>,
    /// They are or were addresses of local pods.
    endpoints: HashSet<IpAddr>,
    nets: HashSet<IpNet>,
    /// Nodes whose pods' ranges are others, and what they have no more or did not have before.
    nodes: HashSet<Sym>,
    ranges: HashSet<IpNet>,
    gates: bool,
}

impl Planner {
    /// A planner of an empty world, whose plans may be of any size.
    pub fn new(scope: Scope) -> Self {
        Self::with_limits(scope, Limits::NONE)
    }

    /// A planner of an empty world. What does not fit into the limits is denied: to pods whose policies do not fit.
    /// Which these are is a function of the world, as the whole plan is.
    pub fn with_limits(scope: Scope, limits: Limits) -> Self {
        let knows_own = matches!(scope, Scope::Node(_));
        Self {
            scope,
            limits,
            strings: Strings::default(),
            namespaces: HashMap::default(),
            labelled: HashMap::default(),
            nodes: BTreeMap::new(),
            guards: BTreeSet::new(),
            widened: false,
            rationed: None,
            hosts: Hosts::default(),
            pods: Pods::new(knows_own),
            policies: Policies::default(),
            locals: HashSet::default(),
            atoms: Atoms::default(),
            prefixes: Prefixes::default(),
            classes: Classes::default(),
            rulesets: Rulesets::default(),
            blocks: HashSet::default(),
            ledger: Ledger::default(),
            unlaid: BTreeMap::new(),
            ousted: Vec::new(),
            readmitted: Vec::new(),
            unseated: BTreeSet::new(),
            kept: Kept::default(),
            crowd: Crowd::default(),
            published: Published::default(),
            dirty: Dirty::default(),
            swept: 0,
        }
    }

    /// Changes how much a plan may hold, from the next [`Planner::commit`] on.
    pub fn set_limits(&mut self, limits: Limits) {
        if limits != self.limits {
            self.limits = limits;
            self.ledger.touch();
            self.dirty.gates = true;
        }
    }

    /// How much a plan may hold.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whose pods are enforced.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The whole plan as of the last [`Planner::commit`]: what all deltas so far add up to.
    pub fn plan(&self) -> Plan {
        let mut entries = std::collections::HashMap::new();
        for (_, ruleset) in self.rulesets.slab.iter().filter(|(_, ruleset)| ruleset.published) {
            let blocks = ruleset.blocks(|class| self.classes[class].id);
            let key = |class| EntryKey { ruleset: ruleset.id, class };
            entries.extend(blocks.map(|(class, block)| (key(class), Arc::clone(block))));
        }
        let mut causes: std::collections::HashMap<_, _> =
            self.rulesets.causes.iter().map(|(id, cause)| (id, cause.clone())).collect();
        if self.published.no_room {
            entries.extend(admission::no_room());
            causes.insert(CauseId::NO_ROOM, Cause::NoRoom);
        }
        let peers = self.published.peers.iter();
        Plan {
            endpoints: self.published.endpoints.clone(),
            peers: peers.map(|(net, standing)| (*net, self.classes.peer(*standing))).collect(),
            entries,
            causes,
            gates: self.published.gates.clone(),
        }
    }
}
