//! State of the planning thread, and the events that change it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use ringfence_api as api;
use ringfence_api::{Connections, OverCapacity};
use ringfence_engine::{AddressConflict, Plan, Planner, Refusal, RuleId, Scope};
use ringfence_k8s::Diagnostic;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{DomainName, Name, Object, ObjectKey, PolicyId, Reason};
use tokio::sync::{oneshot, watch};

use super::commit::Failure;
use super::domains::Domains;
use super::ending::Ending;
use super::inheritance::Inheritance;
use super::known::Known;
use super::links::Links;
use super::names::Names;
use super::rule_counters::RuleCounters;
use super::sandboxes::Sandboxes;
use super::turns::Turns;
use super::waiting::Waiter;
use crate::dns::{Learning, Listener};
use crate::enforcer::Enforcer;
use crate::forget::Given;
use crate::index::Index;
use crate::interfaces::Nudge;
use crate::metrics::Meters;
use crate::policy_memory::PolicyMemory;

/// Name of links and maps among the repaired components.
const PINS: &str = "pins";

/// The parts that a [`Core`] is made of.
pub(crate) struct Setup {
    /// The node whose pods are guarded.
    pub(crate) node: Name,
    /// `cut` or `drain`, for the status.
    pub(crate) connections: Connections,
    /// Pods whose policies do not fit.
    /// Who decides which policies are kept with their rules.
    pub(crate) policy_memory: PolicyMemory,
    pub(crate) over_capacity: OverCapacity,
    /// For the status.
    pub(crate) pin_dir: String,
    /// The kernel side.
    pub(crate) enforcer: Box<dyn Enforcer>,
    /// Durations and counts of this thread.
    pub(crate) meters: Arc<Meters>,
    /// The thread that finds the interfaces of addresses: told all local addresses whenever they change.
    pub(crate) scout: Option<mpsc::Sender<Nudge>>,
    /// Sandboxes that an agent before this one was told of, the newest last; and whether each is so recent that the API
    /// may not have heard of it.
    pub(crate) sandboxes: Vec<(api::WaitRequest, bool)>,
    /// The thread that flushes connections of addresses which another pod gets.
    pub(crate) forget: Option<mpsc::Sender<Given>>,
    /// The thread that learns the addresses of names.
    pub(crate) listener: Option<Listener>,
    /// The domain of the cluster's own names.
    pub(crate) cluster_domain: DomainName,
    /// Told whenever something else is to be said of a policy, once the kernel holds the whole view.
    pub(crate) clerk: watch::Sender<u64>,
}

/// The state of the planning thread.
pub(crate) struct Core {
    pub(super) setup: Setup,
    pub(super) planner: Planner,
    pub(super) index: Index,
    pub(super) watches: BTreeMap<Kind, WatchState>,
    /// Every kind was listed: the view is whole and may reach the kernel.
    pub(super) in_sync: bool,
    /// The kernel held the whole view at least once.
    pub(super) ready: bool,
    /// Something changed since the last commit.
    pub(super) dirty: bool,
    /// When the oldest of these changes was delivered.
    pub(super) since: Option<Instant>,
    pub(super) failure: Option<Failure>,
    /// Less than the whole room is planned with until then, because it did not fit though it should have.
    pub(super) squeezed: Option<Instant>,
    /// Pods whose policies do not fit.
    pub(super) refusals: Vec<Refusal>,
    /// Number of addresses of pods that do not fit among the peers.
    pub(super) crowded: usize,
    /// Policies that changed since the kernel was last up to date.
    pub(super) pending: HashSet<PolicyId>,
    /// Contents of the kernel.
    pub(super) held: Plan,
    /// Causes deleted by the last change: records about them may still be on their way.
    pub(super) retired: HashMap<RuleId, Reason>,
    pub(super) rule_counters: RuleCounters,
    pub(super) links: Links,
    pub(super) known: Known,
    pub(super) chain: Option<api::CniConfig>,
    pub(super) network: Option<api::NodeRoutes>,
    pub(super) waiters: Vec<Waiter>,
    /// Large policies that wait for a turn of their namespace.
    pub(super) turns: Turns,
    /// The pod of each address, as far as network plugins reported it.
    pub(super) sandboxes: Sandboxes,
    /// Policies in force of namespaces that are being deleted.
    pub(super) ending: Ending,
    /// Addresses that several pods claim, or one that cannot have it.
    pub(super) disputes: Vec<AddressConflict>,
    /// Addresses whose earlier connections are known to be forgotten.
    pub(super) inheritance: Inheritance,
    /// Those who wait until addresses are closed.
    pub(super) closing: Vec<oneshot::Sender<()>>,
    pub(super) names: Names,
    /// The addresses of names.
    pub(super) domains: Domains,
    pub(super) learning: Learning,
    /// Watches of kinds that are no objects of policy.
    pub(super) others: BTreeMap<String, api::Watch>,
    /// The part of the agent that ended first.
    pub(super) missing: Option<&'static str>,
    /// Those who wait until the kernel holds the whole view for the first time.
    pub(super) unsynced: Vec<oneshot::Sender<()>>,
}

/// State of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WatchState {
    pub(super) synced: bool,
    pub(super) error: Option<String>,
}

impl Core {
    /// Nothing known, nothing applied.
    pub(crate) fn new(setup: Setup) -> Self {
        let node = Name::clone(&setup.node);
        let mut planner = Planner::with_limits(Scope::Node(Name::clone(&node)), setup.enforcer.limits());
        planner.retain_previous(setup.over_capacity == OverCapacity::Keep);
        let mut sandboxes = Sandboxes::default();
        for (request, recent) in &setup.sandboxes {
            sandboxes.restore(request, *recent);
        }
        Self {
            planner,
            index: Index::new(node),
            watches: Kind::ALL.map(|kind| (kind, WatchState::default())).into(),
            in_sync: false,
            ready: false,
            dirty: false,
            since: None,
            failure: None,
            squeezed: None,
            refusals: Vec::new(),
            crowded: 0,
            pending: HashSet::new(),
            held: Plan::default(),
            retired: HashMap::new(),
            rule_counters: RuleCounters::default(),
            links: Links::default(),
            known: Known::default(),
            chain: None,
            network: None,
            waiters: Vec::new(),
            turns: Turns::default(),
            sandboxes,
            ending: Ending::default(),
            disputes: Vec::new(),
            inheritance: Inheritance::default(),
            closing: Vec::new(),
            names: Names::default(),
            domains: Domains::new(setup.cluster_domain.clone()),
            learning: Learning::default(),
            others: BTreeMap::new(),
            missing: None,
            unsynced: Vec::new(),
            setup,
        }
    }

    /// Takes in one event.
    pub(super) fn event(&mut self, event: Event, received: Instant) {
        self.setup.meters.events.inc();
        match event {
            Event::Apply { object, diagnostics } => self.apply(object, &diagnostics),
            Event::Delete(key) => self.delete(&key),
            Event::Reset { kind, objects, diagnostics } => self.reset(kind, objects, diagnostics),
            Event::InSync => {
                self.in_sync = true;
                self.dirty = true;
                self.close_unguarded();
            }
            Event::Connected { kind } => {
                if self.watch(kind).error.take().is_some() {
                    tracing::info!(?kind, "the API answers again");
                }
            }
            Event::Disconnected { kind, error } => {
                if self.watch(kind).error.is_none() {
                    tracing::warn!(?kind, %error, "the API does not answer; what is in the kernel stays in force");
                }
                self.watch(kind).error = Some(error);
            }
        }
        if self.dirty {
            self.since.get_or_insert(received);
        }
    }

    fn watch(&mut self, kind: Kind) -> &mut WatchState {
        self.watches.entry(kind).or_default()
    }

    /// Plans an object, as new or in place of the one before.
    pub(super) fn put(&mut self, mut object: Object) {
        match &mut object {
            Object::Pod(pod) => {
                self.correct(pod);
                self.doubt_pod(&pod.key, &pod.addresses);
            }
            Object::Policy(policy) => {
                self.pending.insert(policy.id.clone());
                self.ending.is_there(&policy.id);
            }
            Object::Node(node) => {
                if self.domains.inside.put(node) {
                    self.doubt_names();
                }
            }
            Object::Namespace(_) | Object::Domain(_) => {}
        }
        let settled = match &object {
            Object::Namespace(namespace) => self.index.homeless_of(&namespace.name),
            _ => Vec::new(),
        };
        self.index.apply(&object);
        self.known.put(&object);
        self.plan(object);
        for pod in settled {
            self.plan(Object::Pod(pod));
        }
    }

    /// Plans an object. A pod of this node whose Namespace object is not known (they come by watches of their own) has
    /// no address until it is, and what has none is closed: who can tell which cluster-wide policies select it? Nor has
    /// one whose policies may have been gone before anybody saw them.
    pub(super) fn plan(&mut self, mut object: Object) {
        if let Object::Pod(pod) = &mut object
            && (self.index.is_homeless(pod) || self.ending.is_unguarded(&pod.key.namespace))
        {
            pod.addresses.clear();
        }
        if let Object::Node(node) = &mut object
            && self.sandboxes.ranges_ignored
        {
            node.pod_cidrs.clear();
        }
        self.planner.apply(object);
        self.dirty = true;
    }

    /// Forgets an object that is gone; a policy that stands on, when everything else that came with the news is known.
    pub(super) fn delete(&mut self, key: &ObjectKey) {
        if let ObjectKey::Policy(id) = key
            && id.namespace.is_some()
        {
            self.forget_turn(id);
            self.ending.is_gone(id);
            self.dirty = true;
            return;
        }
        self.remove(key);
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        self.vacate(key);
        match key {
            ObjectKey::Pod(pod) => self.doubt_pod(pod, &[]),
            ObjectKey::Node(name) if self.domains.inside.remove(name) => self.doubt_names(),
            _ => {}
        }
        self.index.delete(key);
        self.known.delete(key);
        self.planner.delete(key);
        self.dirty = true;
        if let ObjectKey::Namespace(name) = key {
            for pod in self.index.homeless_of(name) {
                self.plan(Object::Pod(pod));
            }
        }
    }

    fn reset(&mut self, kind: Kind, objects: Vec<Object>, diagnostics: Vec<Diagnostic>) {
        let listed: HashSet<ObjectKey> = objects.iter().map(Object::key).collect();
        if kind == Kind::NetworkPolicy {
            self.turns.clear();
        }
        for key in self.index.keys(kind) {
            if !listed.contains(&key) {
                self.delete(&key);
            }
        }
        self.index.note_all(listed.iter(), diagnostics);
        for object in objects {
            self.put(self.within_memory(object));
        }
        let watch = self.watch(kind);
        watch.synced = true;
        watch.error = None;
    }

    /// Looks whether what enforces is still where it belongs.
    pub(super) fn look(&mut self) {
        let mended = &self.setup.meters.mended;
        match self.setup.enforcer.mend() {
            Ok(None) => mended.whole(PINS),
            Ok(Some(found)) => mended.mended(PINS, found),
            Err(error) => mended.broken(PINS, format!("what enforces policy is not attached and pinned: {error}")),
        }
    }
}
