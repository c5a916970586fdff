//! What the thread keeps, and how changes reach the kernel.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use ringfence_datapath::Interface;
use ringfence_engine::{Cause, CauseId, Delta, Plan, Planner, Scope};
use ringfence_k8s::Diagnostic;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;

use ringfence_model::{Name, Object, ObjectKey, PodKey, PolicyId};
use tokio::sync::oneshot;

use super::backoff;
use super::names::Names;
use super::waiting::{Announced, Sandbox, Waiter};
use crate::api;
use crate::dns::{Learning, Listener};
use crate::enforcer::{EnforceError, Enforcer};
use crate::index::Index;
use crate::interfaces::Nudge;
use crate::metrics::Meters;

/// What a [`Core`] is made with.
pub(crate) struct Setup {
    /// The node whose pods are guarded.
    pub(crate) node: Name,
    /// `cut` or `drain`, for the status.
    pub(crate) connections: String,
    /// For the status.
    pub(crate) pin_dir: String,
    /// The kernel side.
    pub(crate) enforcer: Box<dyn Enforcer>,
    /// Durations and counts of this thread.
    pub(crate) meters: Arc<Meters>,
    /// Who finds out the interfaces of addresses: told all local addresses whenever they change.
    pub(crate) scout: Option<mpsc::Sender<Nudge>>,
    /// Who learns what names stand for.
    pub(crate) listener: Option<Listener>,
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
    since: Option<Instant>,
    pub(super) failure: Option<Failure>,
    /// Policies that changed since the kernel was last up to date.
    pending: HashSet<PolicyId>,
    /// What the kernel holds.
    pub(super) held: Plan,
    /// Causes deleted by the last change: records about them may still be on their way.
    pub(super) retired: HashMap<CauseId, Cause>,
    pub(super) interfaces: BTreeMap<IpAddr, Interface>,
    pub(super) bridge: Option<api::Bridge>,
    pub(super) chain: Option<api::Chain>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) announced: HashMap<PodKey, Announced>,
    /// The newest sandbox of each pod, as far as anybody told.
    pub(super) sandboxes: HashMap<PodKey, Sandbox>,
    /// Those who wait until addresses are closed.
    pub(super) closing: Vec<oneshot::Sender<()>>,
    pub(super) names: Names,
    pub(super) learning: Learning,
    /// Watches of kinds that are no objects of policy.
    pub(super) others: BTreeMap<String, api::Watch>,
}

/// Why the kernel is behind.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: EnforceError,
    /// Failures in a row.
    count: u32,
    retry: Option<Instant>,
}

/// How a watch stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WatchState {
    pub(super) synced: bool,
    pub(super) error: Option<String>,
}

impl Core {
    /// Nothing known, nothing applied.
    pub(crate) fn new(setup: Setup) -> Self {
        let node = Name::clone(&setup.node);
        Self {
            planner: Planner::new(Scope::Node(Name::clone(&node))),
            index: Index::new(node),
            watches: Kind::ALL.map(|kind| (kind, WatchState::default())).into(),
            in_sync: false,
            ready: false,
            dirty: false,
            since: None,
            failure: None,
            pending: HashSet::new(),
            held: Plan::default(),
            retired: HashMap::new(),
            interfaces: BTreeMap::new(),
            bridge: None,
            chain: None,
            waiters: Vec::new(),
            announced: HashMap::new(),
            sandboxes: HashMap::new(),
            closing: Vec::new(),
            names: Names::default(),
            learning: Learning::default(),
            others: BTreeMap::new(),
            setup,
        }
    }

    /// Takes in one event.
    pub(super) fn event(&mut self, event: Event, received: Instant) {
        self.setup.meters.events.inc();
        match event {
            Event::Apply { object, diagnostics } => self.apply(object, &diagnostics),
            Event::Delete(key) => self.delete(&key),
            Event::Reset { kind, objects, diagnostics } => self.reset(kind, objects, &diagnostics),
            Event::InSync => {
                self.in_sync = true;
                self.dirty = true;
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

    fn apply(&mut self, object: Object, diagnostics: &[Diagnostic]) {
        self.index.note(&object.key(), diagnostics);
        self.put(object);
    }

    /// Plans an object, as new or in place of the one before.
    pub(super) fn put(&mut self, mut object: Object) {
        match &mut object {
            Object::Pod(pod) => self.announce(pod),
            Object::Policy(policy) => drop(self.pending.insert(policy.id.clone())),
            Object::Namespace(_) | Object::Node(_) | Object::Domain(_) => {}
        }
        self.index.apply(&object);
        self.planner.apply(object);
        self.dirty = true;
    }

    pub(super) fn delete(&mut self, key: &ObjectKey) {
        if let ObjectKey::Pod(key) = key {
            self.announced.remove(key);
            self.sandboxes.remove(key);
        }
        self.index.delete(key);
        self.planner.delete(key);
        self.dirty = true;
    }

    fn reset(&mut self, kind: Kind, objects: Vec<Object>, diagnostics: &[Diagnostic]) {
        let listed: HashSet<ObjectKey> = objects.iter().map(Object::key).collect();
        for key in self.index.keys(kind) {
            if !listed.contains(&key) {
                self.delete(&key);
            }
        }
        for key in &listed {
            self.index.note(key, &[]);
        }
        self.index.note_all(diagnostics);
        for object in objects {
            self.put(object);
        }
        let watch = self.watch(kind);
        watch.synced = true;
        watch.error = None;
    }

    pub(super) fn interfaces(&mut self, interfaces: BTreeMap<IpAddr, Interface>) {
        if let Err(error) = self.setup.enforcer.set_interfaces(&interfaces) {
            tracing::error!(%error, "the interfaces of local pods are not in the kernel");
            return;
        }
        self.interfaces = interfaces;
    }

    pub(super) fn bridge(&mut self, bridge: Option<api::Bridge>) {
        self.bridge = bridge;
    }

    /// When to try again without being told anything.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failure.as_ref().and_then(|failure| failure.retry)
    }

    /// Brings the kernel up to date with what is known, once what is known is whole.
    pub(super) fn commit(&mut self) {
        let retry = self.retry_at().is_some_and(|at| at <= Instant::now());
        if self.in_sync && (self.dirty || retry) {
            self.carry_out();
        }
        self.tell_listener();
    }

    fn carry_out(&mut self) {
        self.dirty = false;
        let started = Instant::now();
        let deltas = self.planner.commit();
        let planned = Instant::now();
        self.setup.meters.plan.observe((planned - started).as_secs_f64());
        // Before the first commit, and after one that failed, what the kernel holds is not known: compare everything.
        let whole = !self.ready || self.failure.is_some();
        let result = if whole { self.sync() } else { self.apply_deltas(&deltas) };
        self.setup.meters.apply.observe(planned.elapsed().as_secs_f64());
        match result {
            Ok(()) => self.done(),
            Err(error) => self.failed(error),
        }
    }

    fn sync(&mut self) -> Result<(), EnforceError> {
        let plan = self.planner.plan();
        self.setup.enforcer.sync(&plan)?;
        self.retired = std::mem::replace(&mut self.held, plan).causes;
        self.tell_scout();
        Ok(())
    }

    fn apply_deltas(&mut self, deltas: &[Delta]) -> Result<(), EnforceError> {
        let mut moved = false;
        for delta in deltas {
            self.setup.enforcer.apply(delta)?;
            if !delta.delete_causes.is_empty() {
                let gone = delta.delete_causes.iter().filter_map(|id| Some((*id, self.held.causes.get(id)?.clone())));
                self.retired = gone.collect();
            }
            self.held.apply(delta);
            moved |= !delta.put_endpoints.is_empty() || !delta.delete_endpoints.is_empty();
        }
        if moved {
            self.tell_scout();
        }
        Ok(())
    }

    fn done(&mut self) {
        if self.failure.take().is_some() {
            tracing::info!("the kernel is up to date again");
        }
        if !std::mem::replace(&mut self.ready, true) {
            tracing::info!(
                endpoints = self.held.endpoints.len(),
                "in sync: the policy of the cluster is in the kernel"
            );
        }
        let pending = std::mem::take(&mut self.pending);
        self.index.mark_enforced(pending);
        if let Some(since) = self.since.take() {
            self.setup.meters.enforced.observe(since.elapsed().as_secs_f64());
        }
        self.release();
        self.closed();
    }

    fn failed(&mut self, error: EnforceError) {
        let count = self.failure.as_ref().map_or(0, |failure| failure.count) + 1;
        let retry = error.is_transient().then(|| Instant::now() + backoff(count));
        tracing::error!(%error, count, "a change of policy is not in the kernel");
        self.setup.meters.failures.inc();
        self.failure = Some(Failure { error, count, retry });
    }

    fn tell_scout(&self) {
        if let Some(scout) = &self.setup.scout {
            // A scout that is gone means that the agent is stopping.
            let _ = scout.send(Nudge::Local(self.held.endpoints.keys().copied().collect()));
        }
    }
}
