//! Carries the events of the watches to the planning thread.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use futures::StreamExt as _;
use ringfence_k8s::watch::{Event, Progress};
use ringfence_model::Object;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::{Gone, Handle, Message};
use crate::policy_memory::PolicyMemory;
use crate::primary::Nudge;

/// Kilobytes of large policies that may wait for the planning thread: whoever changes one again and again while it
/// plans has the watch wait, not the memory grow.
const WAITING: u32 = 64 << 10;
/// Kilobytes of a policy up to which it does not count.
const SMALL: u32 = 64;

/// Hands on every event as it comes, until the planning thread is gone. Events of nodes go to `roads` too, if there are
/// any to keep.
pub(crate) async fn pump<P: Progress + Clone + 'static>(
    client: kube::Client,
    progress: &P,
    memory: PolicyMemory,
    core: Handle,
    roads: Option<Sender<Nudge>>,
) -> Result<(), Gone> {
    let intake = memory.intake();
    let queue = Arc::new(Semaphore::new(WAITING as usize));
    let mut events = std::pin::pin!(ringfence_k8s::watch::objects(&client, progress, &intake));
    let hand_on = async {
        while let Some(event) = events.next().await {
            memory.note(&event);
            if let Some(roads) = &roads
                && let Some(nudge) = Nudge::of(&event)
            {
                roads.send(nudge).map_err(|mpsc::SendError(_)| Gone)?;
            }
            let waits = waits(&queue, &event).await;
            core.tell(Message::Event { event, received: Instant::now(), waits })?;
        }
        Ok(())
    };
    tokio::select! {
        ended = hand_on => ended,
        never = memory.relist(&intake.relist) => match never {},
    }
}

/// A place among what waits for the planning thread, for an event that takes one: a large policy as much as it takes
/// up, a whole listing all there is.
async fn waits(queue: &Arc<Semaphore>, event: &Event) -> Option<OwnedSemaphorePermit> {
    let size = match event {
        Event::Apply { object: Object::Policy(policy), .. } => u32::try_from(policy.memory() >> 10).unwrap_or(u32::MAX),
        Event::Reset { .. } => WAITING,
        Event::Apply { .. }
        | Event::Delete(_)
        | Event::InSync
        | Event::Connected { .. }
        | Event::Disconnected { .. } => 0,
    };
    if size <= SMALL {
        return None;
    }
    // The semaphore is never closed.
    Arc::clone(queue).acquire_many_owned(size.min(WAITING)).await.ok()
}
