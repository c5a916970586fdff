//! Carries the events of the watches to the planning thread.

use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use futures::StreamExt as _;
use ringfence_k8s::watch::Progress;

use crate::core::{Gone, Handle, Message};
use crate::primary::Nudge;

/// Hands on every event as it comes, until the planning thread is gone. Events of nodes go to `roads` too, if there are
/// any to keep.
pub(crate) async fn pump<P: Progress + Clone + 'static>(
    client: kube::Client,
    progress: &P,
    core: Handle,
    roads: Option<Sender<Nudge>>,
) -> Result<(), Gone> {
    let mut events = std::pin::pin!(ringfence_k8s::watch::objects(&client, progress));
    while let Some(event) = events.next().await {
        if let Some(roads) = &roads
            && let Some(nudge) = Nudge::of(&event)
        {
            roads.send(nudge).map_err(|mpsc::SendError(_)| Gone)?;
        }
        core.tell(Message::Event { event, received: Instant::now() })?;
    }
    Ok(())
}
