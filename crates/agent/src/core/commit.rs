//! Commits: changes on their way to the kernel.

use std::time::{Duration, Instant};

use ringfence_engine::{Delta, Limits};

use super::state::Core;
use super::{backoff, room};
use crate::enforcer::EnforceError;
use crate::interfaces::Nudge;

/// Time in which plans are made smaller after a plan that should have fitted did not.
const SHRUNK_TIME: Duration = Duration::from_mins(1);

/// The reason why the kernel is behind.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: EnforceError,
    /// Failures in a row.
    count: u32,
    /// When to try again unasked.
    retry: Option<Instant>,
}

impl Core {
    /// When to try again without being told anything.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let failed = self.failure.as_ref().and_then(|failure| failure.retry);
        failed.into_iter().chain(self.squeezed).chain(self.turns.next()).min()
    }

    /// Brings the kernel up to date with what is known, once what is known is whole.
    pub(super) fn commit(&mut self) {
        let started = Instant::now();
        let retry = self.retry_at().is_some_and(|at| at <= started);
        self.free_memory();
        self.serve_turns();
        if self.in_sync && (self.dirty || retry) {
            self.carry_out();
        }
        self.end_turns(started.elapsed());
        self.tell_known();
        self.tell_listener();
        self.tell_clerk();
    }

    fn carry_out(&mut self) {
        self.release_policies();
        self.heed_ranges();
        self.planner.close_addresses(self.guards());
        self.settle_domains();
        self.dirty = false;
        if self.squeezed.is_some_and(|until| until <= Instant::now()) {
            self.squeezed = None;
            self.planner.set_limits(self.setup.enforcer.limits());
        }
        let started = Instant::now();
        let deltas = self.planner.commit();
        self.note_disputes();
        let planned = Instant::now();
        self.setup.meters.plan.observe((planned - started).as_secs_f64());
        // Before the first commit, and after one that failed, what the kernel holds is not known: compare everything.
        let whole = !self.ready || self.failure.is_some();
        let result = if whole { self.sync() } else { self.apply_deltas(&deltas) };
        let result = match result {
            Err(EnforceError::Capacity(why)) => self.squeeze(why),
            other => other,
        };
        self.setup.meters.apply.observe(planned.elapsed().as_secs_f64());
        match result {
            Ok(()) => self.done(),
            Err(error) => self.failed(error),
        }
    }

    /// Handles a plan that should have fitted and did not: what is new did not fit beside what is old, or not in one
    /// piece. Plans with less and less room until it does, at the expense of whoever asks for most, and then with all
    /// of it again.
    fn squeeze(&mut self, why: String) -> Result<(), EnforceError> {
        let limits = self.setup.enforcer.limits();
        if limits == Limits::NONE {
            return Err(EnforceError::Capacity(why));
        }
        tracing::warn!(why, "planning with less room");
        let mut result = Err(EnforceError::Capacity(why));
        for eighths in (1..8).rev() {
            self.planner.set_limits(limits.eighths(eighths));
            self.planner.commit();
            result = self.sync();
            if !matches!(result, Err(EnforceError::Capacity(_))) {
                break;
            }
        }
        let squeezed = self.planner.limits();
        if result.is_ok() && self.squeezed.is_none() {
            self.planner.set_limits(limits);
            let deltas = self.planner.commit();
            result = self.apply_deltas(&deltas);
            if let Err(EnforceError::Capacity(_)) = result {
                self.squeezed = Some(Instant::now() + SHRUNK_TIME);
                self.planner.set_limits(squeezed);
                self.planner.commit();
                result = self.sync();
            }
        }
        if result.is_err() {
            // What comes next is planned, and tried, with all of it.
            self.planner.set_limits(limits);
        }
        result
    }

    fn sync(&mut self) -> Result<(), EnforceError> {
        let plan = self.planner.plan();
        self.setup.enforcer.sync(&plan)?;
        self.retired = std::mem::replace(&mut self.held, plan).rules;
        self.tell_scout();
        Ok(())
    }

    fn apply_deltas(&mut self, deltas: &[Delta]) -> Result<(), EnforceError> {
        let mut moved = false;
        for delta in deltas {
            self.setup.enforcer.apply(delta)?;
            if !delta.delete_rules.is_empty() {
                let gone = delta.delete_rules.iter().filter_map(|id| Some((*id, self.held.rules.get(id)?.clone())));
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
            for waiting in self.unsynced.drain(..) {
                // Nobody is there any more to hear it if this fails.
                let _ = waiting.send(());
            }
        }
        self.tell_refusals();
        if let Some(since) = self.since.take() {
            self.setup.meters.enforced.observe(since.elapsed().as_secs_f64());
        }
        self.guard();
        self.release();
        self.closed();
    }

    /// Takes note of who goes without, and of what is enforced as written.
    fn tell_refusals(&mut self) {
        self.refusals = self.planner.refusals();
        self.note_crowd();
        let told = room::reasons(&self.refusals, &self.setup.node);
        for (policy, why) in told.iter().filter(|(policy, _)| !self.index.is_refused(policy)) {
            tracing::warn!(%policy, "{why}");
        }
        let admitted = self.index.refuse(told);
        let mut enforced = std::mem::take(&mut self.pending);
        enforced.extend(admitted);
        self.pending = enforced.iter().filter(|policy| self.index.is_refused(policy)).cloned().collect();
        self.index.mark_enforced(enforced.difference(&self.pending).cloned());
    }

    fn failed(&mut self, error: EnforceError) {
        let count = self.failure.as_ref().map_or(0, |failure| failure.count) + 1;
        let retry = error.is_transient().then(|| Instant::now() + backoff(count));
        tracing::error!(%error, count, "a change of policy is not in the kernel");
        self.setup.meters.failures.inc();
        if let EnforceError::Capacity(why) = &error {
            let why = format!("node {}: {why}; the policy before this change stays in force there", self.setup.node);
            let mut told = room::reasons(&self.refusals, &self.setup.node);
            told.extend(self.pending.iter().map(|policy| (policy.clone(), why.clone())));
            self.index.refuse(told);
        }
        self.failure = Some(Failure { error, count, retry });
    }

    /// Endpoints came or went: an endpoint that goes takes along what the kernel knows of its link.
    fn tell_scout(&mut self) {
        self.links.stir();
        if let Some(scout) = &self.setup.scout {
            // A scout that is gone means that the agent is stopping.
            let _ = scout.send(Nudge::Local(self.held.endpoints.keys().copied().collect()));
        }
    }
    fn tell_clerk(&self) {
        if self.ready {
            let revision = self.index.revision();
            self.setup.clerk.send_if_modified(|told| std::mem::replace(told, revision) != revision);
        }
    }
}
