//! The watch against an API server that follows a script, in this process.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, Uri};
use futures::channel::mpsc;
use futures::stream::{Stream, StreamExt as _};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::{self, Event, Forgetful, Intake};
use serde_json::{Value, json};

type Lines = mpsc::UnboundedSender<std::io::Result<Bytes>>;

/// Stands for a broken connection.
const BROKEN: u16 = 599;

/// The server's response to the next request.
enum Answer {
    /// A list of these objects as of a version.
    List(&'static str, Vec<Value>),
    /// One page of a list, and the token of the next.
    Page(&'static str, Vec<Value>),
    /// A stream of lines, fed by the test.
    Watch(mpsc::UnboundedReceiver<std::io::Result<Bytes>>),
    /// A status.
    Error(u16, &'static str),
    /// A broken connection.
    Broken,
}

/// The server, which sends its answers in order and records the requests.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let server = Self::default();
        server.answers.lock().unwrap().extend(answers);
        server
    }

    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let response = server.answer(request.uri());
            // A broken connection, as the client sees it.
            let broken = response.status() == BROKEN;
            std::future::ready(if broken { Err(std::io::Error::other("connection refused")) } else { Ok(response) })
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, uri: &Uri) -> Response<Body> {
        self.asked.lock().unwrap().push(uri.to_string());
        let answer = self.answers.lock().unwrap().pop_front();
        let json =
            |code: u16, value: Value| Response::builder().status(code).body(Body::from(value.to_string())).unwrap();
        let list = |metadata: Value, items: Vec<Value>| {
            json(200, json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
        };
        match answer {
            Some(Answer::List(version, items)) => list(json!({"resourceVersion": version}), items),
            Some(Answer::Page(token, items)) => list(json!({"resourceVersion": "1", "continue": token}), items),
            Some(Answer::Watch(lines)) => Response::new(Body::from_stream(lines)),
            Some(Answer::Error(code, message)) => json(code, status(code, message)),
            Some(Answer::Broken) | None => json(BROKEN, Value::Null),
        }
    }

    /// Returns the query of request number `i` once it has arrived.
    fn asked(&self, i: usize) -> String {
        self.asked.lock().unwrap()[i].clone()
    }
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "Test",
        "code": code})
}

fn watched() -> (Lines, Answer) {
    let (sender, receiver) = mpsc::unbounded();
    (sender, Answer::Watch(receiver))
}

fn say(lines: &Lines, kind: &str, object: &Value) {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    lines.unbounded_send(Ok(Bytes::from(line))).unwrap();
}

fn namespace(name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "resourceVersion": version}})
}

/// Returns the next event in short; panics after some time without one.
async fn next(events: &mut (impl Stream<Item = Event> + Unpin)) -> String {
    let event = tokio::time::timeout(Duration::from_secs(40), events.next()).await.expect("no event").unwrap();
    short(&event)
}

fn short(event: &Event) -> String {
    let name = |key: &ringfence_model::ObjectKey| match key {
        ringfence_model::ObjectKey::Namespace(name) | ringfence_model::ObjectKey::Node(name) => name.to_string(),
        ringfence_model::ObjectKey::Pod(key) => key.to_string(),
        ringfence_model::ObjectKey::Policy(id) => id.to_string(),
        ringfence_model::ObjectKey::Domain(name) => name.to_string(),
    };
    match event {
        Event::Apply { object, .. } => format!("apply {}", name(&object.key())),
        Event::Delete(key) => format!("delete {}", name(key)),
        Event::Reset { objects, .. } => {
            format!("reset {}", objects.iter().map(|object| name(&object.key())).collect::<Vec<_>>().join(","))
        }
        Event::InSync => "in sync".to_owned(),
        Event::Disconnected { error, .. } => format!("disconnected {error}"),
        Event::Connected { .. } => "connected".to_owned(),
    }
}

fn namespaces(server: &Server) -> impl Stream<Item = Event> + Unpin + use<> {
    Box::pin(watch::kinds(&server.client(), &[Kind::Namespace], &Forgetful, &Intake::default()))
}

#[tokio::test]
async fn a_list_then_changes() {
    let (lines, watch) = watched();
    let server = Server::new([
        Answer::Page("t", vec![namespace("a", "1")]),
        Answer::List("2", vec![namespace("b", "2")]),
        watch,
    ]);
    let mut events = namespaces(&server);
    assert_eq!(next(&mut events).await, "reset a,b");
    assert_eq!(next(&mut events).await, "in sync");
    assert_eq!(next(&mut events).await, "connected");
    say(&lines, "ADDED", &namespace("c", "3"));
    assert_eq!(next(&mut events).await, "apply c");
    say(&lines, "BOOKMARK", &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}));
    say(&lines, "MODIFIED", &namespace("a", "10"));
    say(&lines, "DELETED", &namespace("b", "11"));
    assert_eq!(next(&mut events).await, "apply a");
    assert_eq!(next(&mut events).await, "delete b");
    assert!(server.asked(1).contains("continue=t"), "{}", server.asked(1));
    assert!(
        server.asked(2).contains("watch=true") && server.asked(2).contains("resourceVersion=2"),
        "{}",
        server.asked(2)
    );
}

#[tokio::test]
async fn an_ended_watch_goes_on_where_it_was() {
    let ((first, one), (second, two)) = (watched(), watched());
    let server = Server::new([Answer::List("1", vec![]), one, two]);
    let mut events = namespaces(&server);
    for expect in ["reset ", "in sync", "connected"] {
        assert_eq!(next(&mut events).await, expect);
    }
    say(&first, "ADDED", &namespace("a", "5"));
    drop(first);
    assert_eq!(next(&mut events).await, "apply a");
    say(&second, "ADDED", &namespace("b", "6"));
    assert_eq!(next(&mut events).await, "apply b");
    assert!(server.asked(2).contains("resourceVersion=5"), "{}", server.asked(2));
}

#[tokio::test]
async fn an_expired_watch_lists_again() {
    let ((first, one), (_second, two)) = (watched(), watched());
    let server = Server::new([
        Answer::List("1", vec![namespace("a", "1")]),
        one,
        Answer::List("7", vec![namespace("b", "7")]),
        Answer::Error(410, "too old"),
        Answer::List("8", vec![namespace("c", "8")]),
        two,
    ]);
    let mut events = namespaces(&server);
    for expect in ["reset a", "in sync", "connected"] {
        assert_eq!(next(&mut events).await, expect);
    }
    say(&first, "ERROR", &status(410, "too old"));
    assert_eq!(next(&mut events).await, "reset b");
    assert_eq!(next(&mut events).await, "reset c");
}

#[tokio::test]
async fn a_server_that_goes_away_is_reported_once_and_found_again() {
    let ((first, one), (second, two)) = (watched(), watched());
    let server = Server::new([
        Answer::Broken,
        Answer::Error(403, "not for you"),
        Answer::List("1", vec![namespace("a", "1")]),
        one,
        Answer::Broken,
        Answer::Broken,
        two,
    ]);
    let mut events = namespaces(&server);
    assert!(next(&mut events).await.contains("connection refused"));
    assert_eq!(next(&mut events).await, "disconnected the API server answers 403: not for you");
    for expect in ["reset a", "in sync", "connected"] {
        assert_eq!(next(&mut events).await, expect);
    }
    first.unbounded_send(Err(std::io::Error::other("reset by peer"))).unwrap();
    assert!(next(&mut events).await.contains("reset by peer"));
    assert!(next(&mut events).await.contains("connection refused"));
    assert_eq!(next(&mut events).await, "connected");
    say(&second, "ADDED", &namespace("b", "2"));
    assert_eq!(next(&mut events).await, "apply b");
}

#[tokio::test]
async fn a_line_that_is_no_event_leads_to_a_list() {
    let ((first, one), (_second, two)) = (watched(), watched());
    let server = Server::new([Answer::List("1", vec![]), one, Answer::List("3", vec![namespace("b", "3")]), two]);
    let mut events = namespaces(&server);
    for expect in ["reset ", "in sync", "connected"] {
        assert_eq!(next(&mut events).await, expect);
    }
    first.unbounded_send(Ok(Bytes::from_static(b"{\"type\":\"SURPRISE\",\"object\":{}}\n"))).unwrap();
    assert!(next(&mut events).await.starts_with("disconnected"));
    assert_eq!(next(&mut events).await, "reset b");
}

#[tokio::test]
async fn what_is_not_understood_comes_with_a_diagnostic() {
    let policy = json!({
        "metadata": {"name": "p", "namespace": "shop", "resourceVersion": "1"},
        "spec": {"ingress": [{"from": [{"serviceSelector": {}}]}]},
    });
    let (_lines, watch) = watched();
    let server = Server::new([Answer::List("1", vec![policy, json!("what"), json!({"metadata": 7})]), watch]);
    let mut events = Box::pin(watch::kinds(&server.client(), &[Kind::NetworkPolicy], &Forgetful, &Intake::default()));
    let Some(Event::Reset { kind: Kind::NetworkPolicy, objects, diagnostics }) = events.next().await else { panic!() };
    assert_eq!(objects.len(), 3);
    assert_eq!(diagnostics[0].path.to_string(), "spec.ingress[0].from[0].serviceSelector");
    assert!(server.asked(0).starts_with("/apis/networking.k8s.io/v1/networkpolicies?"), "{}", server.asked(0));
}

/// `InSync` is sent after every kind has been listed, in whatever order.
#[tokio::test]
async fn in_sync_comes_once_after_all_kinds() {
    let app = Router::new().fallback(|uri: Uri| async move {
        if uri.query().is_some_and(|query| query.contains("watch=true")) {
            return Response::new(Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>()));
        }
        Response::new(Body::from(json!({"metadata": {"resourceVersion": "1"}, "items": []}).to_string()))
    });
    let mut events = Box::pin(watch::objects(&kube::Client::new(app, "default"), &Forgetful, &Intake::default()));
    let mut seen = Vec::new();
    for _ in 0..=2 * Kind::ALL.len() {
        seen.push(next(&mut events).await);
    }
    let at = seen.iter().position(|event| event == "in sync").unwrap();
    assert_eq!(seen[..at].iter().filter(|event| *event == "reset ").count(), Kind::ALL.len(), "{seen:?}");
    assert_eq!(seen.iter().filter(|event| *event == "connected").count(), Kind::ALL.len(), "{seen:?}");
}

/// A kind whose definition is created, deleted and created again while the watch runs.
#[tokio::test]
async fn a_kind_may_come_and_go() {
    let definition = |established: &str| {
        json!({
            "metadata": {"name": "clusternetworkpolicies.policy.networking.k8s.io", "resourceVersion": "5"},
            "spec": {"versions": [{"name": "v1alpha2", "served": true}]},
            "status": {"conditions": [{"type": "Established", "status": established}]},
        })
    };
    let policy = json!({"metadata": {"name": "p", "resourceVersion": "7"}, "spec": {}});
    let ((defined, one), (lines, two), (again, three), (_lines, four)) = (watched(), watched(), watched(), watched());
    let server = Server::new([
        Answer::Error(404, "no such kind"),
        one,
        Answer::List("7", vec![policy.clone()]),
        two,
        Answer::Error(404, "no such kind"),
        Answer::Error(404, "no such kind"),
        three,
        Answer::List("9", vec![policy]),
        four,
    ]);
    let mut events =
        Box::pin(watch::kinds(&server.client(), &[Kind::ClusterNetworkPolicy], &Forgetful, &Intake::default()));
    for expect in ["reset ", "in sync", "connected"] {
        assert_eq!(next(&mut events).await, expect);
    }
    say(&defined, "ADDED", &definition("False"));
    say(&defined, "MODIFIED", &definition("True"));
    assert_eq!(next(&mut events).await, "reset ClusterNetworkPolicy p");
    say(&lines, "DELETED", &json!({"metadata": {"name": "p", "resourceVersion": "8"}}));
    assert_eq!(next(&mut events).await, "delete ClusterNetworkPolicy p");
    drop(lines);
    assert_eq!(next(&mut events).await, "reset ");
    say(&again, "ADDED", &definition("True"));
    assert_eq!(next(&mut events).await, "reset ClusterNetworkPolicy p");
    let asked = server.asked(1);
    assert!(asked.starts_with("/apis/apiextensions.k8s.io/v1/customresourcedefinitions?"), "{asked}");
    assert!(asked.contains("fieldSelector=metadata.name%3Dclusternetworkpolicies.policy.networking.k8s.io"), "{asked}");
    assert!(!asked.contains("allowWatchBookmarks=true"), "not every server has them from the beginning: {asked}");
    assert!(server.asked(2).starts_with("/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies?"));
}

/// An event is delivered as soon as the server has sent its line.
#[tokio::test]
async fn an_event_is_there_as_soon_as_its_line() {
    let (lines, watch) = watched();
    let server = Server::new([Answer::List("1", vec![]), watch]);
    let mut events = namespaces(&server);
    for expect in ["reset ", "in sync", "connected"] {
        assert_eq!(next(&mut events).await, expect);
    }
    let mut times = Vec::new();
    for version in 2..202 {
        let start = Instant::now();
        say(&lines, "MODIFIED", &namespace("a", &version.to_string()));
        assert_eq!(next(&mut events).await, "apply a");
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("from line to event: median {:?}, 95th percentile {:?}", times[100], times[190]);
    assert!(times[100] < Duration::from_millis(5), "{:?}", times[100]);
}
