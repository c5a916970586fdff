//! Load of a thousand agents on their API server: in normal operation, at a common start, and while it refuses. A
//! measurement: `cargo test --release -p ringfence-k8s crowd -- --ignored --nocapture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::Forgetful;
use super::{HURRY, Server, busy, is_watch, list, run, silence_and};

/// So many agents, each with a watch for each of so many kinds.
const LOOPS: usize = 1000 * 9;
/// The state of the server.
const WELL: u8 = 0;
const REFUSES_WATCHES: u8 = 1;
const REFUSES_ALL: u8 = 2;
/// Minutes of measurement in each state.
const MINUTES: u64 = 15;

/// Follows with all of them for so long, as they would have it in earnest.
async fn follow(server: &Server, length: Duration) {
    let each = (0..LOOPS).map(|_| {
        let mut follower = server.follow(Forgetful);
        tokio::spawn(async move { run(&mut follower, length / HURRY).await })
    });
    futures::future::join_all(each).await;
}

/// The requests in each minute since a moment, as they would be in earnest.
fn told(server: &Server, begun: Instant, what: &str) {
    let [lists, watches] = std::mem::take(&mut *server.asked.lock().unwrap());
    let minutes = |asked: &[(String, Instant)]| {
        let mut minutes = vec![0; usize::try_from(MINUTES).unwrap()];
        for (_, at) in asked {
            let minute = at.duration_since(begun).as_millis() * u128::from(HURRY) / 60_000;
            if let Some(count) = minutes.get_mut(usize::try_from(minute).unwrap()) {
                *count += 1;
            }
        }
        format!("{minutes:?}")
    };
    let storage = lists.iter().filter(|(query, _)| !query.contains("NotOlderThan")).count();
    println!("{what}: requests in each minute, for {LOOPS} watches");
    println!("  watches {}", minutes(&watches));
    println!("  lists   {}, {storage} of them of the storage", minutes(&lists));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures, for minutes"]
async fn a_crowd() {
    let state = Arc::new(AtomicU8::new(WELL));
    let now = Arc::clone(&state);
    let server = Server::new(move |query, _| match now.load(Ordering::Relaxed) {
        REFUSES_ALL => busy(None),
        REFUSES_WATCHES if is_watch(query) => busy(None),
        _ if is_watch(query) => {
            let seconds = query.split('&').find_map(|part| part.strip_prefix("timeoutSeconds=")).unwrap();
            let length = Duration::from_secs(seconds.parse().unwrap()) / HURRY;
            // As servers do before the end, they say how far they have come.
            let mark = json!({"type": "BOOKMARK", "object":
                {"kind": "Namespace", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}}});
            silence_and(length, format!("{mark}\n"))
        }
        _ => list("7", &["a"]),
    });
    for (mode, what) in
        [(WELL, "all is well"), (REFUSES_WATCHES, "watches are refused"), (REFUSES_ALL, "all is refused")]
    {
        state.store(mode, Ordering::Relaxed);
        let begun = Instant::now();
        follow(&server, Duration::from_mins(MINUTES)).await;
        told(&server, begun, what);
    }
}
