//! What the kernel reports about connections, with names, for logs and for whoever listens.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfence_engine::CauseId;
use ringfence_model::{Direction, Protocol};
use tokio::sync::broadcast;

use crate::api;
use crate::core::{Gone, Handle, Question};

/// What the kernel reported about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What became of it.
    pub verdict: Outcome,
    /// Which end decided; none if neither was asked.
    pub direction: Option<Direction>,
    /// IP protocol.
    pub protocol: Protocol,
    /// Who opened it: address and port (0 if the protocol has none).
    pub source: (IpAddr, u16),
    /// Who was called.
    pub destination: (IpAddr, u16),
    /// The node itself opened it, not a pod on it.
    pub from_node: bool,
    /// Like ones since the last report, which were only counted.
    pub repeated: u64,
    /// Who or what decided.
    pub why: Why,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Let through.
    Allowed,
    /// Dropped.
    Denied,
    /// Was open, is dropped from now on.
    Cut,
}

/// Who or what decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A cause of the plan.
    Cause(CauseId),
    /// The kernel program itself: a word such as `spoofed-source`, and a sentence.
    Program {
        /// The word.
        reason: &'static str,
        /// The sentence.
        message: &'static str,
    },
}

/// Where records come from. Reading blocks for at most `patience`.
pub trait Source: Send {
    /// Appends what there is.
    fn read(&mut self, patience: Duration, records: &mut Vec<Record>) -> anyhow::Result<()>;
}

/// A record with names.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) outcome: Outcome,
    pub(crate) flow: api::Flow,
}

/// Hands flows on to everybody who listens.
#[derive(Clone, Debug)]
pub(crate) struct Flows(broadcast::Sender<Arc<api::Flow>>);

/// Flows kept for a slow listener before it loses the oldest.
const BACKLOG: usize = 4096;
/// How long reading blocks: how late a stop is noticed.
const PATIENCE: Duration = Duration::from_millis(100);

impl Flows {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<api::Flow>> {
        self.0.subscribe()
    }

    /// Reads, names, logs and hands on until the planning thread is gone.
    pub(crate) fn run(&self, mut source: Box<dyn Source>, core: &Handle) {
        let mut records = Vec::new();
        loop {
            if let Err(error) = source.read(PATIENCE, &mut records) {
                tracing::error!(%error, "cannot read what the kernel reports about connections");
                return;
            }
            if self.0.receiver_count() == 0 {
                // Nobody listens: only denials are worth a name.
                records.retain(|record| record.verdict != Outcome::Allowed);
            }
            if !records.is_empty() && self.hand_on(&mut records, core).is_err() {
                return;
            }
        }
    }

    fn hand_on(&self, records: &mut Vec<Record>, core: &Handle) -> Result<(), Gone> {
        let records = std::mem::take(records);
        for Named { outcome, flow } in core.ask_blocking(|reply| Question::Names(records, reply))? {
            log(outcome, &flow);
            // Nobody listening is no error.
            let _ = self.0.send(Arc::new(flow));
        }
        Ok(())
    }
}

/// Denied and cut connections go to the log; the kernel program already limits their rate.
fn log(outcome: Outcome, flow: &api::Flow) {
    let what = match outcome {
        Outcome::Allowed => return,
        Outcome::Denied => "denied",
        Outcome::Cut => "cut",
    };
    tracing::info!(
        source = %flow.source, destination = %flow.destination, protocol = flow.protocol,
        direction = flow.direction.as_deref(), reason = flow.reason, policies = flow.policies.join(", "), rule = flow.rule,
        hint = flow.hint, repeated = (flow.repeated > 0).then_some(flow.repeated), "{what}: {}", flow.message
    );
}
