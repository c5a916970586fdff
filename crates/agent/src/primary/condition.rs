//! The condition by which cloud controllers keep pods off a node until somebody has set its routes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Notify;

use crate::core::Handle;

/// The condition.
const UNAVAILABLE: &str = "NetworkUnavailable";
/// HTTP status of what one is not allowed to do.
const FORBIDDEN: u16 = 403;
/// Shortest and longest pause before trying again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Starts the part of the agent that says that the network of a node is there, where somebody waits for it: each time
/// when it is notified.
pub(crate) fn clear(core: &Handle, client: kube::Client, node: String) -> Arc<Notify> {
    let told = Arc::new(Notify::new());
    core.spawn_task("condition", keep_clear(client, node, Arc::clone(&told)));
    told
}

async fn keep_clear(client: kube::Client, node: String, told: Arc<Notify>) {
    let nodes = Api::<Node>::all(client);
    loop {
        told.notified().await;
        let mut pause = BACKOFF.0;
        while let Err(error) = try_clear(&nodes, &node).await {
            tracing::warn!(%error, node, "cannot say that the network of this node is there, if anybody waits for it");
            // Nobody waits, as a rule, and permissions do not come by themselves.
            if matches!(&error, kube::Error::Api(status) if status.code == FORBIDDEN) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
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

/// True if somebody has said that the network is missing: nobody is told otherwise.
fn is_waited_for(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == UNAVAILABLE && condition.status != "False")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::http::{Method, StatusCode, Uri};
    use axum::response::Response;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::*;
    use crate::core::Message;

    /// An API server with one node.
    #[derive(Default)]
    struct Server {
        conditions: Vec<Value>,
        /// The server's refusal to change the status, and the number of attempts since.
        refusal: Option<(StatusCode, usize)>,
        /// Changes of the status it was asked for.
        patches: Vec<Value>,
        reads: usize,
    }

    impl Server {
        fn answer(&mut self, method: &Method, path: &str, body: &Bytes) -> (StatusCode, Value) {
            match (method.as_str(), path) {
                ("GET", "/api/v1/nodes/n") => {
                    self.reads += 1;
                    let conditions = &self.conditions;
                    (StatusCode::OK, json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}}))
                }
                ("PATCH", "/api/v1/nodes/n/status") => {
                    self.patches.push(serde_json::from_slice(body).unwrap());
                    let refused = self.refusal.as_mut().filter(|(_, times)| *times > 0);
                    match refused {
                        Some((code, times)) => {
                            *times -= 1;
                            (*code, json!({"kind": "Status", "status": "Failure", "code": code.as_u16()}))
                        }
                        None => (StatusCode::OK, json!({"metadata": {"name": "n"}})),
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Has the condition cleared `times` times at a node with these conditions, and gives what the server was asked.
    fn cleared(conditions: Vec<Value>, refusal: Option<(StatusCode, usize)>, times: usize) -> Server {
        let server = Arc::new(Mutex::new(Server { conditions, refusal, ..Server::default() }));
        let (core, messages) = Handle::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = Arc::clone(&server);
        runtime.block_on(async {
            let answer = move |method: Method, uri: Uri, body: Bytes| async move {
                let (code, answer) = asked.lock().answer(&method, uri.path(), &body);
                Response::builder().status(code).body(Body::from(answer.to_string())).unwrap()
            };
            let client = kube::Client::new(Router::new().fallback(answer), "default");
            let told = clear(&core, client, "n".into());
            let done = || {
                let server = server.lock();
                let refusing = server.refusal.is_some_and(|(_, times)| times > 0);
                (server.reads, refusing)
            };
            for time in 1..=times {
                told.notify_one();
                let end = Instant::now() + Duration::from_mins(1);
                // Until it waits for the next notice: what it does, it does without waiting for anything else but a
                // pause.
                while done().0 < time || done().1 && time == times {
                    assert!(Instant::now() < end, "nothing happens");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(messages.try_recv().is_err(), "it goes on");
        });
        drop(runtime);
        assert!(matches!(messages.try_recv(), Ok(Message::Ended("condition"))), "it would be missed");
        Arc::into_inner(server).unwrap().into_inner()
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status})
    }

    #[test]
    fn a_node_of_which_somebody_says_that_its_network_is_missing_is_said_to_have_it() {
        for status in ["True", "Unknown"] {
            let server = cleared(vec![condition("Ready", "True"), condition(UNAVAILABLE, status)], None, 1);
            let [patch] = &server.patches[..] else { panic!("{:?}", server.patches) };
            let said = &patch["status"]["conditions"];
            assert_eq!((&said[0]["type"], &said[0]["status"]), (&json!(UNAVAILABLE), &json!("False")), "{patch}");
            assert!(said[0]["reason"] == "RingfenceRoutes" && said[0]["lastTransitionTime"].is_string(), "{patch}");
            assert_eq!(said.as_array().map(Vec::len), Some(1), "others' conditions are left alone: {patch}");
        }
    }

    #[test]
    fn of_other_nodes_nothing_is_said() {
        for conditions in [vec![], vec![condition("Ready", "False")], vec![condition(UNAVAILABLE, "False")]] {
            let server = cleared(conditions, None, 2);
            assert_eq!((server.reads, server.patches.len()), (2, 0));
        }
    }

    #[test]
    fn what_failed_is_tried_again_and_what_is_forbidden_when_there_is_news() {
        let missing = || vec![condition(UNAVAILABLE, "True")];
        let server = cleared(missing(), Some((StatusCode::SERVICE_UNAVAILABLE, 2)), 1);
        assert!(server.patches.len() >= 2 && server.reads >= 2, "{} attempts", server.patches.len());
        let server = cleared(missing(), Some((StatusCode::FORBIDDEN, 1)), 1);
        assert_eq!((server.reads, server.patches.len()), (1, 1), "permissions do not come by themselves");
        let server = cleared(missing(), Some((StatusCode::FORBIDDEN, 1)), 2);
        assert_eq!((server.reads, server.patches.len()), (2, 2));
    }
}
