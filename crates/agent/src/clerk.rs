//! The clerk: writes what is the matter with policies into the API, for all nodes.
//!
//! Every agent knows the same of every policy, so one of them writes: the one that holds a Lease. It writes conditions
//! into the status of cluster-wide policies, and Events about policies that have problems. Nothing here is in the way
//! of enforcement: it is a task of its own that asks the planning thread, and what it cannot write waits.

mod condition;
mod event;
mod lease;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::core::{Handle, Question};
use crate::metrics::Meters;
pub(crate) use lease::{Election, Terms};
pub(crate) use writer::Writer;

/// Field manager and reporting controller in the API, and the name of the Lease.
const NAME: &str = "ringfence";

/// For each node of the cluster looks at a Lease that another holds are so much rarer: all agents look, and in sum that
/// are eight looks a second at most, however many they are.
const LOOK_SHARE: Duration = Duration::from_millis(125);
/// Longest wait before the Lease is asked for again after an error, in clusters where looks are not rarer anyway.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// Stands for election, and writes while elected.
pub(crate) struct Clerk {
    pub(crate) election: Election,
    /// Knows how many nodes there are.
    pub(crate) core: Handle,
    pub(crate) writer: Writer,
    pub(crate) meters: Arc<Meters>,
}

impl Clerk {
    /// Works until told to stop; then it gives the Lease back, so that another agent goes on at once.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let pause = match self.election.campaign().await {
                Ok(Some(until)) => {
                    failures = 0;
                    self.lead(until, &stop).await;
                    if stop.is_cancelled() {
                        self.election.resign().await;
                        return;
                    }
                    self.pause().await
                }
                Ok(None) => {
                    failures = 0;
                    self.pause().await
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "cannot stand for election as the agent that writes about policies");
                    }
                    failures += 1;
                    let pause = self.pause().await;
                    (pause * failures).min(MAX_BACKOFF.max(pause))
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(lease::spread(pause)) => {}
            }
        }
    }

    /// Time until the next look at a Lease that another agent holds.
    async fn pause(&self) -> Duration {
        // An agent that is stopping asks no more.
        let nodes = self.core.ask(Question::Nodes).await.unwrap_or_default();
        pause(self.election.terms().look, nodes)
    }

    /// Writes for as long as the Lease is held. What is being written when it is lost is given up at once.
    async fn lead(&mut self, until: tokio::time::Instant, stop: &CancellationToken) {
        tracing::info!("elected: this agent writes about policies into the API");
        self.meters.leader.set(1);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.election.keep(until) => {
                tracing::warn!("the Lease is lost: this agent writes about policies no more");
            }
            _the_agent_is_stopping = self.writer.write() => {}
        }
        self.meters.leader.set(0);
    }
}

/// Time between two looks of one agent at a Lease that another holds, by the number of nodes.
fn pause(least: Duration, nodes: usize) -> Duration {
    least.max(LOOK_SHARE * u32::try_from(nodes).unwrap_or(u32::MAX))
}
