//! How changes reach the kernel.

use std::time::Instant;

use ringfence_engine::Delta;

use super::backoff;
use super::state::Core;
use crate::enforcer::EnforceError;
use crate::interfaces::Nudge;

/// Why the kernel is behind.
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
        self.failure.as_ref().and_then(|failure| failure.retry)
    }

    /// Brings the kernel up to date with what is known, once what is known is whole.
    pub(super) fn commit(&mut self) {
        let retry = self.retry_at().is_some_and(|at| at <= Instant::now());
        if self.in_sync && (self.dirty || retry) {
            self.carry_out();
        }
        self.tell_known();
        self.tell_listener();
        self.tell_clerk();
    }

    fn carry_out(&mut self) {
        self.settle_domains();
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
        self.index.refuse([], "");
        if let Some(since) = self.since.take() {
            self.setup.meters.enforced.observe(since.elapsed().as_secs_f64());
        }
        self.guard();
        self.release();
        self.closed();
    }

    fn failed(&mut self, error: EnforceError) {
        let count = self.failure.as_ref().map_or(0, |failure| failure.count) + 1;
        let retry = error.is_transient().then(|| Instant::now() + backoff(count));
        tracing::error!(%error, count, "a change of policy is not in the kernel");
        self.setup.meters.failures.inc();
        if let EnforceError::Capacity(why) = &error {
            let why = format!("node {}: {why}; the policy before this change stays in force there", self.setup.node);
            self.index.refuse(self.pending.iter().cloned(), &why);
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
