//! Behaviour of the loop towards an API server that is busy, behind, or reset.

mod crowd;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use http::{Request, Response};
use kube::Client;
use serde_json::{Value, json};

use super::r#loop::{Loop, Signals};
use super::{Floor, Forgetful, Progress, Update};
use crate::convert::Kind;

/// The factor by which waits are shorter in tests.
const HURRY: u32 = 20;
/// A minute at that pace.
const MINUTE: Duration = Duration::from_secs(3);

/// Requests and their times.
type Asked = Vec<(String, Instant)>;
/// Answers a query. The number counts earlier queries of the same kind.
type Answer = dyn Fn(&str, usize) -> Response<Body> + Send + Sync;

/// A server that answers by what it is asked, and remembers that.
#[derive(Clone)]
struct Server {
    /// Queries and when they came: others, and watches.
    asked: Arc<Mutex<[Asked; 2]>>,
    answer: Arc<Answer>,
}

impl Server {
    /// `answer` receives the query, and the number of earlier requests of its sort (watches, others).
    fn new(answer: impl Fn(&str, usize) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self { asked: Arc::default(), answer: Arc::new(answer) }
    }

    fn follow(&self, progress: impl Progress + 'static) -> Loop<String> {
        self.follow_with(progress, Signals::default())
    }

    fn follow_with(&self, progress: impl Progress + 'static, signals: Signals) -> Loop<String> {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let before = {
                let asked = &mut server.asked.lock().unwrap()[usize::from(is_watch(&query))];
                asked.push((query.clone(), Instant::now()));
                asked.len() - 1
            };
            std::future::ready(Ok::<_, std::convert::Infallible>((server.answer)(&query, before)))
        });
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let client = Client::new(service, "default");
        let subject = Kind::Namespace.resource().into();
        Loop::new(client, &subject, Box::new(progress), Arc::new(name), signals).hurried(HURRY)
    }

    fn count(&self, watches: bool) -> usize {
        self.asked.lock().unwrap()[usize::from(watches)].len()
    }

    /// All queries, in the order in which they came.
    fn asked(&self) -> Vec<String> {
        let mut all = self.asked.lock().unwrap().concat();
        all.sort_by_key(|(_, at)| *at);
        all.into_iter().map(|(query, _)| query).collect()
    }
}

fn is_watch(query: &str) -> bool {
    query.contains("watch=true")
}

/// Returns the first update that is wanted.
async fn until(follower: &mut Loop<String>, wanted: impl Fn(&Update<String>) -> bool) -> Update<String> {
    let find = async {
        loop {
            let update = follower.next().await;
            if wanted(&update) {
                return update;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), find).await.expect("it never came")
}

/// Follows for so long.
async fn run(follower: &mut Loop<String>, limit: Duration) {
    let follow = async {
        loop {
            follower.next().await;
        }
    };
    let _ = tokio::time::timeout(limit, follow).await;
}

fn list(version: &str, names: &[&str]) -> Response<Body> {
    let items: Vec<Value> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
    json_of(200, &json!({"metadata": {"resourceVersion": version}, "items": items}))
}

fn json_of(code: u16, value: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(value.to_string().into_bytes())).unwrap()
}

fn status(code: u16, message: &str) -> Response<Body> {
    json_of(code, &status_value(code, message))
}

fn status_value(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "message": message, "reason": "Test", "code": code})
}

fn too_large() -> Response<Body> {
    status(504, "Timeout: Too large resource version: 900, current: 3")
}

/// A watch that says these lines and ends.
fn lines(lines: &[Value]) -> Response<Body> {
    let text: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    Response::new(Body::from(text.concat()))
}

fn put(name: &str, version: &str) -> Value {
    json!({"type": "ADDED", "object": {"metadata": {"name": name, "resourceVersion": version}}})
}

#[derive(Clone)]
struct Known(Floor, Arc<Mutex<Vec<String>>>);

impl Known {
    fn new(floor: Floor) -> Self {
        Self(floor, Arc::default())
    }
}

impl Progress for Known {
    fn floor(&self, plural: &str) -> Floor {
        assert_eq!(plural, "namespaces");
        self.0.clone()
    }

    fn reached(&self, _: &str, version: &str) {
        self.1.lock().unwrap().push(version.to_owned());
    }
}

/// The response of an overloaded server: no status, and a header.
fn busy(seconds: Option<u32>) -> Response<Body> {
    let answer = Response::builder().status(429);
    let answer = seconds.into_iter().fold(answer, |answer, seconds| answer.header("Retry-After", seconds));
    answer.body(Body::from("Too many requests, please try again later.")).unwrap()
}

#[tokio::test]
async fn a_refused_watch_keeps_its_version_and_waits_as_asked() {
    let server = Server::new(|query, _| if is_watch(query) { busy(Some(2)) } else { list("7", &["a"]) });
    let mut follower = server.follow(Forgetful);
    let begun = Instant::now();
    run(&mut follower, Duration::from_secs(5)).await;
    assert_eq!(server.count(false), 1, "{:?}", server.asked());
    let most = 1 + usize::try_from(begun.elapsed().as_secs() / 2).unwrap();
    assert!((2..=most).contains(&server.count(true)), "{:?}", server.asked());
    assert!(server.asked()[1..].iter().all(|query| query.contains("resourceVersion=7")), "{:?}", server.asked());
}

#[tokio::test]
async fn a_watch_that_is_always_refused_is_asked_for_less_and_less() {
    for code in [429, 500, 503, 403] {
        let server = Server::new(move |query, _| if is_watch(query) { status(code, "no") } else { list("7", &[]) });
        run(&mut server.follow(Forgetful), MINUTE).await;
        assert_eq!(server.count(false), 1, "{code}");
        // Eight on average, at random times.
        assert!(server.count(true) < 30, "{code}: {}", server.count(true));
    }
}

#[tokio::test]
async fn a_list_that_is_always_refused_is_asked_for_less_and_less() {
    let server = Server::new(|_, _| busy(None));
    run(&mut server.follow(Forgetful), MINUTE).await;
    assert!(server.count(false) < 30, "{}", server.count(false));
}

#[tokio::test]
async fn lists_are_what_the_server_has_at_hand_and_never_older_than_what_was_seen() {
    let server = Server::new(|query, before| match (is_watch(query), before) {
        (false, 0) => list("7", &["a"]),
        (true, 0) => lines(&[put("b", "9"), json!({"type": "ERROR", "object": status_value(410, "too old")})]),
        (false, _) => list("12", &["c"]),
        (true, _) => lines(&[]),
    });
    let known = Known::new(Floor::Any);
    let mut follower = server.follow(known.clone());
    until(&mut follower, |update| *update == Update::Reset(vec!["c".into()])).await;
    let asked = server.asked();
    assert_eq!(asked[0], "resourceVersion=0&resourceVersionMatch=NotOlderThan");
    let list = asked.iter().rfind(|query| !is_watch(query)).unwrap();
    assert_eq!(list, "resourceVersion=9&resourceVersionMatch=NotOlderThan");
    assert_eq!(*known.1.lock().unwrap(), ["7", "9", "12"]);
}

#[tokio::test]
async fn after_a_restart_nothing_older_is_taken_than_what_may_have_been_carried_out() {
    for (floor, query) in [
        (Floor::NotOlderThan("41".into()), "resourceVersion=41&resourceVersionMatch=NotOlderThan"),
        (Floor::Newest, "limit=500"),
    ] {
        let server = Server::new(|query, _| if is_watch(query) { lines(&[]) } else { list("50", &[]) });
        until(&mut server.follow(Known::new(floor)), |update| matches!(update, Update::Reset(_))).await;
        assert_eq!(server.asked()[0], query);
    }
}

#[tokio::test]
async fn what_was_reached_is_remembered_before_it_is_told() {
    let server = Server::new(|query, _| if is_watch(query) { lines(&[put("b", "9")]) } else { list("7", &["a"]) });
    let known = Known::new(Floor::Any);
    let mut follower = server.follow(known.clone());
    let last = || known.1.lock().unwrap().last().cloned();
    until(&mut follower, |update| matches!(update, Update::Reset(_))).await;
    assert_eq!(last().as_deref(), Some("7"));
    until(&mut follower, |update| matches!(update, Update::Apply(_))).await;
    assert_eq!(last().as_deref(), Some("9"));
}

#[tokio::test]
async fn a_server_that_lags_behind_is_waited_for() {
    let server = Server::new(|query, before| match (is_watch(query), before) {
        (false, 0 | 1) => too_large(),
        (false, _) => list("900", &["new"]),
        (true, _) => lines(&[]),
    });
    let mut follower = server.follow(Known::new(Floor::NotOlderThan("900".into())));
    until(&mut follower, |update| *update == Update::Reset(vec!["new".into()])).await;
    let not_older = |query: &String| query.contains("resourceVersion=900");
    assert!(server.asked().iter().filter(|query| !is_watch(query)).all(not_older), "{:?}", server.asked());
}

#[tokio::test]
async fn a_storage_that_was_set_back_is_taken_at_its_word_after_a_while() {
    for refuse in [too_large as fn() -> _, || status(410, "another life"), || status(400, "no such version")] {
        let server = Server::new(move |query, _| match query {
            query if is_watch(query) => lines(&[]),
            query if query.contains("NotOlderThan") => refuse(),
            _ => list("3", &["old"]),
        });
        let mut follower = server.follow(Known::new(Floor::NotOlderThan("900".into())));
        until(&mut follower, |update| *update == Update::Reset(vec!["old".into()])).await;
        assert!(server.asked().contains(&"limit=500".to_owned()), "as its storage has it: {:?}", server.asked());
    }
}

/// A server whose storage was set back takes a watch from a version that is yet to come, and says nothing.
#[tokio::test]
async fn a_watch_without_a_word_is_doubted() {
    let back = Arc::new(Mutex::new(false));
    let set_back = Arc::clone(&back);
    let server = Server::new(move |query, before| {
        let back = *set_back.lock().unwrap();
        match (is_watch(query), before) {
            (true, _) => silence(Duration::from_millis(1700)),
            (false, 0) => list("900", &["a"]),
            (false, _) if query.contains("NotOlderThan") && back => too_large(),
            (false, _) => list(if back { "3" } else { "900" }, &["old"]),
        }
    });
    let mut follower = server.follow(Forgetful);
    until(&mut follower, |update| *update == Update::Connected).await;
    run(&mut follower, Duration::from_secs(3)).await;
    let asked = server.asked();
    assert_eq!(asked[2], "resourceVersion=900&resourceVersionMatch=NotOlderThan&limit=1", "{asked:?}");
    assert!(is_watch(&asked[3]) && asked[3].contains("resourceVersion=900"), "{asked:?}");
    *back.lock().unwrap() = true;
    until(&mut follower, |update| *update == Update::Reset(vec!["old".into()])).await;
}

/// A watch that says nothing for so long, and ends.
fn silence(length: Duration) -> Response<Body> {
    silence_and(length, String::new())
}

/// The same, with something to say at the end.
fn silence_and(length: Duration, last: String) -> Response<Body> {
    Response::new(Body::from_stream(futures::stream::once(async move {
        tokio::time::sleep(length).await;
        Ok::<_, std::io::Error>(Bytes::from(last))
    })))
}

#[tokio::test]
async fn an_event_that_the_server_can_never_tell_does_not_hold_up_the_rest() {
    let error = json!({"type": "ERROR", "object": status_value(500, "unable to decode")});
    let server = Server::new(move |query, before| match (is_watch(query), before) {
        (true, _) => lines(std::slice::from_ref(&error)),
        (false, 0) => list("7", &["a"]),
        (false, _) => list("9", &["b"]),
    });
    until(&mut server.follow(Forgetful), |update| *update == Update::Reset(vec!["b".into()])).await;
    assert_eq!(server.count(true), 3, "{:?}", server.asked());
}

#[tokio::test]
async fn all_objects_are_listed_anew_when_that_is_wanted() {
    let server = Server::new(|query, before| match (is_watch(query), before) {
        (false, 0) => list("7", &["a"]),
        (false, _) => list("7", &["a", "b"]),
        (true, _) => silence(Duration::from_mins(1)),
    });
    let signals = Signals::default();
    let mut follower = server.follow_with(Forgetful, signals.clone());
    until(&mut follower, |update| *update == Update::Connected).await;
    signals.relist.notify_one();
    assert_eq!(follower.next().await, Update::Reset(vec!["a".into(), "b".into()]));
    assert_eq!(server.asked()[2], "resourceVersion=7&resourceVersionMatch=NotOlderThan");
}

#[tokio::test]
async fn a_server_that_answers_about_another_kind_is_asked_again_soon_unless_it_asked_to_be_left_alone() {
    for (pause, asked) in [(None, 2), (Some(3600), 1)] {
        let server = Server::new(move |_, _| busy(pause));
        let signals = Signals::default();
        let mut follower = server.follow_with(Forgetful, signals.clone()).patient();
        until(&mut follower, |update| matches!(update, Update::Disconnected(_))).await;
        let recovered = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(server.count(false), 1, "before anything is heard");
            signals.recovered.notify_waiters();
            tokio::time::sleep(Duration::from_secs(2)).await;
        };
        tokio::join!(recovered, run(&mut follower, Duration::from_secs(2)));
        assert_eq!(server.count(false), asked);
    }
}

#[tokio::test]
async fn kinds_tell_each_other_that_the_server_answers_again() {
    let server = Server::new(|query, before| match (is_watch(query), before) {
        (_, 0) => busy(None),
        (false, _) => list("7", &[]),
        (true, _) => silence(Duration::from_mins(1)),
    });
    let signals = Signals::default();
    let mut follower = server.follow_with(Forgetful, signals.clone());
    let heard = signals.recovered.notified();
    until(&mut follower, |update| *update == Update::Connected).await;
    tokio::time::timeout(Duration::from_secs(1), heard).await.expect("the others are told");
}

#[tokio::test]
async fn watches_of_many_end_spread_out() {
    let mut ends: HashMap<String, u32> = HashMap::new();
    for _ in 0..20 {
        let server = Server::new(|query, _| if is_watch(query) { lines(&[]) } else { list("7", &[]) });
        until(&mut server.follow(Forgetful), |update| *update == Update::Connected).await;
        let watch = server.asked().pop().unwrap();
        let seconds = watch.split('&').find_map(|part| part.strip_prefix("timeoutSeconds=")).unwrap().to_owned();
        assert!((300..=600).contains(&seconds.parse::<u32>().unwrap()), "{watch}");
        *ends.entry(seconds).or_default() += 1;
    }
    assert!(ends.len() > 10, "{ends:?}");
}

#[tokio::test]
async fn a_kind_that_the_server_lacks_has_no_objects() {
    let server = Server::new(|_, _| status(404, "no such kind"));
    let mut optional = server.follow(Forgetful).of_an_optional_kind();
    assert_eq!(optional.next().await, Update::Reset(Vec::new()));
    assert_eq!(optional.next().await, Update::Connected);
    let error = "the API server answers 404: no such kind".to_owned();
    assert_eq!(server.follow(Forgetful).next().await, Update::Disconnected(error));
}
