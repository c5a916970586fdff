//! Clerks of several agents against an API in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use parking_lot::Mutex;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Clerk, Election, Terms, Writer};
use crate::core::{Core, Handle, Message};
use crate::fake::FakeKernel;
use crate::metrics::Meters;

/// Longest a step of these tests may take.
const TIMEOUT: Duration = Duration::from_mins(1);
const TERMS: Terms =
    Terms { lease: Duration::from_secs(4), renew: Duration::from_millis(400), look: Duration::from_millis(100) };
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/ringfence";
const POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// Objects by path, and who asked for what.
#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    version: u64,
    asked: Vec<(&'static str, Method, String)>,
    /// Whoever the Lease was given to, in turn.
    holders: Vec<String>,
    broken: bool,
}

impl Store {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object.clone());
        if path == LEASE {
            let holder = object["spec"]["holderIdentity"].as_str().unwrap().to_owned();
            if self.holders.last() != Some(&holder) {
                self.holders.push(holder);
            }
        }
        object
    }

    fn answer(&mut self, method: &Method, path: &str, body: Value) -> Result<Value, StatusCode> {
        if self.broken {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let known = self.objects.get(path).cloned();
        match (method.as_str(), known) {
            ("GET", Some(object)) => Ok(object),
            ("GET", None) if path.ends_with("policies") => {
                let inside = self.objects.range(format!("{path}/")..format!("{path}0"));
                let items: Vec<_> = inside.map(|(_, object)| object.clone()).collect();
                Ok(json!({"metadata": {"resourceVersion": "1"}, "items": items}))
            }
            ("POST", None) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) { Err(StatusCode::CONFLICT) } else { Ok(self.put(&path, body)) }
            }
            ("PUT", Some(before)) => {
                let newest = before["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"];
                if newest { Ok(self.put(path, body)) } else { Err(StatusCode::CONFLICT) }
            }
            ("PATCH", None) => {
                let path = path.strip_suffix("/status").ok_or(StatusCode::METHOD_NOT_ALLOWED)?;
                let mut object = self.objects.get(path).cloned().ok_or(StatusCode::NOT_FOUND)?;
                if object["metadata"]["uid"] != body["metadata"]["uid"] {
                    return Err(StatusCode::CONFLICT);
                }
                object["status"] = body["status"].clone();
                Ok(self.put(path, object))
            }
            _ => Err(StatusCode::NOT_FOUND),
        }
    }
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Store>>);

impl Server {
    /// A client whose requests are told apart by this name.
    fn client(&self, who: &'static str) -> kube::Client {
        let server = self.clone();
        let answer = move |method: Method, uri: Uri, body: Bytes| async move {
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let mut store = server.0.lock();
            let answer = store.answer(&method, uri.path(), body);
            store.asked.push((who, method, uri.path().to_owned()));
            drop(store);
            let (code, answer) = match answer {
                Ok(answer) => (StatusCode::OK, answer),
                Err(code) => {
                    let (reason, message) = (code.canonical_reason(), "no");
                    (
                        code,
                        json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason,
                            "message": message}),
                    )
                }
            };
            Response::builder().status(code).body(Body::from(answer.to_string())).unwrap()
        };
        kube::Client::new(Router::new().fallback(answer), "default")
    }

    /// Puts a policy there, and tells agents as their watches would.
    fn publish(&self, name: &str, generation: i64, action: &str, agents: &[&Agent]) {
        let path = format!("{POLICIES}/{name}");
        let object = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": generation},
            "spec": {"tier": "Admin", "priority": name.as_bytes()[0], "subject": {"namespaces": {}},
                     "ingress": [{"action": action, "from": [{"namespaces": {}}]}]},
        });
        let status = self.get(&path)["status"].clone();
        let mut stored = object.clone();
        stored["status"] = status;
        self.0.lock().put(&path, stored);
        let (object, diagnostics) = Kind::ClusterNetworkPolicy.convert(&object);
        for agent in agents {
            agent.event(Event::Apply { object: object.clone(), diagnostics: diagnostics.clone() });
        }
    }

    fn get(&self, path: &str) -> Value {
        self.0.lock().objects.get(path).cloned().unwrap_or_default()
    }

    /// Status, reason and observed generation of a policy's first condition.
    fn accepted(&self, name: &str) -> (String, String, i64) {
        let condition = &self.get(&format!("{POLICIES}/{name}"))["status"]["conditions"][0];
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), condition["observedGeneration"].as_i64().unwrap_or_default())
    }

    /// Requests to change something below a path, and who made them.
    fn writes(&self, below: &str) -> Vec<&'static str> {
        let store = self.0.lock();
        let writes = store.asked.iter().filter(|(_, method, path)| method != Method::GET && path.starts_with(below));
        writes.map(|(who, ..)| *who).collect()
    }

    /// Number of looks of a candidate at the Lease.
    fn looks(&self, who: &str) -> usize {
        self.0.lock().asked.iter().filter(|(by, _, path)| *by == who && path == LEASE).count()
    }

    fn events(&self) -> usize {
        self.0.lock().objects.keys().filter(|path| path.starts_with(EVENTS)).count()
    }
}

/// An agent, as far as its clerk needs one.
struct Agent {
    core: Handle,
    meters: Arc<Meters>,
    stop: CancellationToken,
    clerk: JoinHandle<()>,
}

impl Agent {
    fn start(server: &Server, who: &'static str) -> Self {
        let meters = Arc::new(Meters::new());
        let (core, messages) = Handle::channel();
        let (changed, changes) = watch::channel(0);
        let mut setup = FakeKernel::default().setup(who, &meters);
        setup.clerk = changed;
        thread::spawn(move || Core::new(setup).run(&messages));
        let client = server.client(who);
        let clerk = Clerk {
            election: Election::new(client.clone(), "kube-system", who.into(), TERMS),
            core: core.clone(),
            writer: Writer::new(client, core.clone(), changes, Arc::clone(&meters), who.into()),
            meters: Arc::clone(&meters),
        };
        let stop = CancellationToken::new();
        let clerk = tokio::spawn(clerk.run(stop.clone()));
        let agent = Self { core, meters, stop, clerk };
        agent.event(Event::InSync);
        agent
    }

    fn event(&self, event: Event) {
        self.core.tell(Message::Event { event, received: std::time::Instant::now(), waits: None }).unwrap();
    }

    fn leads(&self) -> bool {
        self.meters.leader.get() == 1
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.clerk.abort();
        let _ = self.core.tell(Message::Stop);
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[test]
fn all_agents_together_look_less_than_ten_times_a_second() {
    let look = Terms::default().look;
    for nodes in [1, 10, 80, 100, 1000, 5000] {
        #[expect(clippy::cast_precision_loss, reason = "they are few")]
        let looks = nodes as f64 / super::pause(look, nodes).as_secs_f64();
        assert!(looks <= 8.0, "{nodes} nodes: {looks} a second");
    }
    assert_eq!(super::pause(look, 80), look, "in a small cluster a new holder is found soon");
}

fn told(status: &str, reason: &str, generation: i64) -> (String, String, i64) {
    (status.into(), reason.into(), generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_matter_is_written_once_and_again_only_when_it_changes() {
    let server = Server::default();
    let agent = Agent::start(&server, "a");
    server.publish("p", 1, "Log", &[&agent]);
    eventually("conditions", || server.accepted("p") == told("False", "UnknownAction", 1)).await;
    eventually("an event", || server.events() == 1).await;
    server.publish("p", 1, "Log", &[&agent]);
    server.publish("q", 1, "Accept", &[&agent]);
    eventually("conditions of another", || server.accepted("q") == told("True", "Accepted", 1)).await;
    let path = format!("{POLICIES}/p");
    assert_eq!((server.writes(&path).len(), server.events()), (1, 1), "nothing new, nothing written");
    server.publish("p", 2, "Deny", &[&agent]);
    eventually("the new conditions", || server.accepted("p") == told("True", "Accepted", 2)).await;
    assert_eq!(server.writes(&path).len(), 2);
    assert_eq!((agent.meters.conditions.get(), agent.meters.told.get(), agent.meters.unwritten.get()), (3, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_agent_writes_and_another_goes_on_when_it_is_killed() {
    let server = Server::default();
    let first = Agent::start(&server, "a");
    eventually("a is elected", || first.leads()).await;
    let second = Agent::start(&server, "b");
    server.publish("p", 1, "Log", &[&first, &second]);
    server.publish("still", 1, "Log", &[&first, &second]);
    eventually("conditions", || server.accepted("still") == told("False", "UnknownAction", 1)).await;
    eventually("events", || server.events() == 2).await;
    assert!(server.writes(POLICIES).iter().all(|who| *who == "a"));

    first.clerk.abort();
    let killed = Instant::now();
    server.publish("p", 2, "Deny", &[&second]);
    eventually("the other goes on", || server.accepted("p") == told("True", "Accepted", 2)).await;
    assert!(killed.elapsed() + TERMS.renew >= TERMS.lease / 2, "nobody takes a Lease that was just renewed");
    assert_eq!(server.0.lock().holders, ["a", "b"]);
    assert_eq!(server.get(LEASE)["spec"]["leaseTransitions"], 1);
    assert_eq!(server.writes(&format!("{POLICIES}/still")), ["a"], "what is stored is not written again");
    assert_eq!(server.events(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_gives_the_lease_back() {
    let server = Server::default();
    let first = Agent::start(&server, "a");
    eventually("a is elected", || first.leads()).await;
    let second = Agent::start(&server, "b");
    first.stop.cancel();
    eventually("b is elected", || second.leads()).await;
    assert_eq!(server.0.lock().holders, ["a", "", "b"]);
    assert!(!first.leads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_the_lease_writes_no_more() {
    let server = Server::default();
    let agent = Agent::start(&server, "a");
    eventually("a is elected", || agent.leads()).await;
    let mut stolen = server.get(LEASE);
    stolen["spec"]["holderIdentity"] = "thief".into();
    stolen["spec"]["leaseDurationSeconds"] = 1000.into();
    server.0.lock().put(LEASE, stolen);
    eventually("a has noticed", || !agent.leads()).await;
    server.publish("p", 1, "Log", &[&agent]);
    let looks = server.looks("a");
    eventually("a looks on", || server.looks("a") > looks + 3).await;
    assert_eq!(server.writes(POLICIES), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_written_is_written_when_the_api_is_back() {
    let server = Server::default();
    let agent = Agent::start(&server, "a");
    server.publish("p", 1, "Accept", &[&agent]);
    eventually("conditions", || server.accepted("p") == told("True", "Accepted", 1)).await;
    server.0.lock().broken = true;
    server.publish("p", 2, "Log", &[&agent]);
    eventually("the failure is counted", || agent.meters.unwritten.get() > 0).await;
    eventually("the Lease cannot be kept", || !agent.leads()).await;
    server.0.lock().broken = false;
    eventually("it is written", || server.accepted("p") == told("False", "UnknownAction", 2)).await;
}
