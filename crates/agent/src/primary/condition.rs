//! The condition by which cloud controllers keep pods off a node until somebody has set its routes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Notify;

/// The condition.
const UNAVAILABLE: &str = "NetworkUnavailable";
/// HTTP status of what one is not allowed to do.
const FORBIDDEN: u16 = 403;
/// Shortest and longest pause before trying again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Says that the network of a node is there, each time when told so, where somebody waits for it. For ever.
pub(crate) async fn clear(client: kube::Client, node: String, told: Arc<Notify>) {
    let nodes = Api::<Node>::all(client);
    loop {
        told.notified().await;
        let mut pause = AGAIN.0;
        while let Err(error) = try_clear(&nodes, &node).await {
            tracing::warn!(%error, node, "cannot say that the network of this node is there, if anybody waits for it");
            // Nobody waits, as a rule, and permissions do not come by themselves.
            if matches!(&error, kube::Error::Api(status) if status.code == FORBIDDEN) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }
}

async fn try_clear(nodes: &Api<Node>, name: &str) -> kube::Result<()> {
    let node = nodes.get(name).await?;
    if !is_waited_for(&node) {
        return Ok(());
    }
    let now = jiff::Timestamp::now().to_string();
    let condition = json!({
        "type": UNAVAILABLE, "status": "False", "reason": "RingfenceRoutes",
        "message": "routes to the pods of other nodes are set", "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
    nodes.patch_status(name, &PatchParams::default(), &patch).await?;
    tracing::info!(node = name, "said that the network of this node is there");
    Ok(())
}

/// Whether somebody has said that the network is missing: nobody is told otherwise.
fn is_waited_for(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == UNAVAILABLE && condition.status != "False")
}
