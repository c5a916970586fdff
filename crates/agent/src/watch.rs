//! Carries the events of the watches to the planning thread.

use std::time::Instant;

use futures::StreamExt as _;

use crate::core::{Gone, Handle, Message};

/// Hands on every event as it comes, until the planning thread is gone.
pub(crate) async fn pump(client: kube::Client, core: Handle) -> Result<(), Gone> {
    let mut events = std::pin::pin!(ringfence_k8s::watch::objects(&client));
    while let Some(event) = events.next().await {
        core.tell(Message::Event { event, received: Instant::now() })?;
    }
    Ok(())
}
