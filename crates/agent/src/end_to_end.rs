//! From an API that speaks HTTP, through watches, planner and a kernel in memory, to the socket and its client.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Uri;
use axum::response::Response;
use futures::StreamExt as _;
use parking_lot::Mutex;
use ringfence_api::client::Client;
use ringfence_api::{ClientError, FlowLine, ReasonCode, Status, Verdict, WaitRequest};
use ringfence_datapath::Event;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::core::{Core, Handle, Message};
use crate::fake::{Call, FakeKernel, dropped};
use crate::flows::{Flows, Source};
use crate::metrics::Meters;
use crate::server::Server;

/// Longest a step of these tests may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// An API that lists what it was given and then streams what it is told, per kind.
#[derive(Clone, Default)]
struct Api {
    watches: Arc<Mutex<Vec<Watch>>>,
    /// Objects that a list of a kind has instead of those at the beginning.
    listed: Arc<Mutex<HashMap<String, Vec<Value>>>>,
    /// Nothing is answered.
    away: Arc<AtomicBool>,
    /// The kinds that were listed since it came back, if it was away: it has forgotten what was before.
    remembered: Arc<Mutex<Option<HashSet<String>>>>,
}

/// Plural name of the watched kind, and where its events go.
type Watch = (String, mpsc::UnboundedSender<Value>);

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        kube::Client::new(Router::new().fallback(move |uri: Uri| async move { api.answer(&uri) }), "default")
    }

    fn answer(&self, uri: &Uri) -> Response<Body> {
        if self.away.load(Ordering::Relaxed) {
            return Response::builder().status(503).body(Body::from("{}")).unwrap();
        }
        let plural = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        if !uri.query().is_some_and(|query| query.contains("watch=")) {
            if let Some(remembered) = &mut *self.remembered.lock() {
                remembered.insert(plural.clone());
            }
            let items = self.listed.lock().get(&plural).cloned().unwrap_or_else(|| listed(&plural));
            let list = json!({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
            return Response::new(Body::from(list.to_string()));
        }
        if self.remembered.lock().as_ref().is_some_and(|remembered| !remembered.contains(&plural)) {
            return Response::builder().status(410).body(Body::from("too old")).unwrap();
        }
        let (told, lines) = mpsc::unbounded_channel::<Value>();
        self.watches.lock().push((plural, told));
        let lines = futures::stream::unfold(lines, |mut lines| async {
            let line = format!("{}\n", lines.recv().await?);
            Some((Ok::<_, std::io::Error>(line), lines))
        });
        Response::new(Body::from_stream(lines))
    }

    /// Lists something else of a kind from now on; whoever watches it is not told.
    fn list(&self, plural: &str, items: Vec<Value>) {
        self.listed.lock().insert(plural.into(), items);
    }

    /// Goes away: watches end, and nothing is answered until it comes back.
    fn go(&self) {
        self.away.store(true, Ordering::Relaxed);
        self.watches.lock().clear();
    }

    /// Comes back, and remembers nothing of what happened before.
    fn come_back(&self) {
        *self.remembered.lock() = Some(HashSet::new());
        self.away.store(false, Ordering::Relaxed);
    }

    /// Streams an event to whoever watches the kind, once somebody does.
    async fn tell(&self, plural: &str, kind: &str, object: Value) {
        let event = json!({"type": kind, "object": object});
        let told = async {
            loop {
                let watch =
                    self.watches.lock().iter().rev().find(|(name, _)| name == plural).map(|(_, told)| told.clone());
                if watch.is_some_and(|watch| watch.send(event.clone()).is_ok()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(STEP_TIMEOUT, told).await.expect("nobody watches");
    }
}

fn listed(plural: &str) -> Vec<Value> {
    match plural {
        "namespaces" => vec![json!({"metadata": {"name": "shop", "resourceVersion": "1"}})],
        "nodes" => vec![json!({
            "metadata": {"name": "here", "resourceVersion": "1"}, "spec": {"podCIDRs": ["10.244.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.90.0.11"}]}
        })],
        "pods" => vec![pod("web", "10.244.0.2")],
        _ => vec![],
    }
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "2"},
        "spec": {"nodeName": "here", "containers": []},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    })
}

fn deny_all() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "deny", "uid": "u", "generation": 1, "resourceVersion": "3"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}
    })
}

/// An agent on a kernel in memory, with a socket of its own.
struct Agent {
    kernel: FakeKernel,
    client: Client,
    socket: PathBuf,
    core: Handle,
}

impl Agent {
    /// Starts one; `name` keeps its socket apart from those of other tests.
    fn start(name: &str, api: &Api) -> Self {
        let kernel = FakeKernel::default();
        let meters = Arc::new(Meters::new());
        let (core, messages) = Handle::channel();
        let setup = kernel.setup("here", &meters);
        thread::spawn(move || Core::new(setup).run(&messages));
        let flows = Flows::new();
        let (reading, told) = (flows.clone(), core.clone());
        thread::spawn(move || reading.run(Box::new(Denials), &told, &Meters::new()));
        let memory = crate::policy_memory::PolicyMemory::with_room(usize::MAX);
        tokio::spawn(crate::watch::pump(api.client(), &ringfence_k8s::watch::Forgetful, memory, core.clone(), None));
        let socket = std::env::temp_dir().join(format!("ringfence-{name}-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&socket).unwrap();
        let server = Server { core: core.clone(), flows, meters };
        tokio::spawn(async move { axum::serve(listener, server.socket()).await });
        Self { kernel, client: Client::new(&socket), socket, core }
    }
}

impl Agent {
    /// The status, once it is as a test wants it.
    async fn status(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let waiting = async {
            loop {
                let status = self.client.status().await.unwrap();
                if is_so(&status) {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(STEP_TIMEOUT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.core.tell(Message::Stop);
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A kernel that denies one packet again and again.
struct Denials;

impl Source for Denials {
    fn read(&mut self, _timeout: Duration, events: &mut Vec<Event>) -> anyhow::Result<()> {
        thread::yield_now();
        events.push(Event {
            source: "10.244.0.2".parse()?,
            source_port: 1,
            destination: "10.244.0.77".parse()?,
            destination_port: 80,
            ..dropped(ringfence_datapath::DropReason::EndpointNotReady)
        });
        Ok(())
    }
}

fn wait_for(name: &str, timeout_ms: u64) -> WaitRequest {
    WaitRequest {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        addresses: Vec::new(),
        container: None,
        network: None,
        links: Vec::new(),
        hardware_address: None,
        timeout_ms,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_says_is_in_the_kernel_and_the_socket_tells() {
    let api = Api::default();
    let agent = Agent::start("whole", &api);
    let reply = timeout(STEP_TIMEOUT, agent.client.wait(&wait_for("web", 20_000))).await.unwrap().unwrap();
    assert_eq!(reply.addresses, ["10.244.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(agent.kernel.calls(), [Call::Sync]);

    api.tell("networkpolicies", "ADDED", deny_all()).await;
    api.tell("pods", "ADDED", pod("late", "10.244.0.3")).await;
    timeout(STEP_TIMEOUT, agent.client.wait(&wait_for("late", 20_000))).await.unwrap().unwrap();
    let enforced = async {
        while agent.client.status().await.unwrap().policies.first().is_none_or(|policy| policy.selected_pods < 2) {}
        agent.client.status().await.unwrap()
    };
    let status = timeout(STEP_TIMEOUT, enforced).await.unwrap();
    assert!(status.ready);
    assert_eq!(status.policies[0].enforced_generation, Some(1));
    assert!(agent.kernel.plan().endpoints.values().all(|endpoint| endpoint.ingress.0 != 0 && endpoint.egress.0 == 0));
    assert!(
        agent.kernel.calls().iter().all(|call| *call == Call::Apply),
        "after the first time only changes are applied"
    );

    api.tell("pods", "DELETED", pod("late", "10.244.0.3")).await;
    let gone = async { while agent.client.status().await.unwrap().endpoints.len() != 1 {} };
    timeout(STEP_TIMEOUT, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_not_fulfilled_says_why() {
    let api = Api::default();
    let agent = Agent::start("wait", &api);
    timeout(STEP_TIMEOUT, agent.client.wait(&wait_for("web", 20_000))).await.unwrap().unwrap();
    let error = agent.client.wait(&wait_for("nobody", 10)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { status, .. } if *status == 504), "{error}");
    assert_eq!(error.to_string(), "no pod shop/nobody with uid uid-nobody is bound to this node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_come_a_line_at_a_time_with_names() {
    let api = Api::default();
    let agent = Agent::start("flows", &api);
    timeout(STEP_TIMEOUT, agent.client.wait(&wait_for("web", 20_000))).await.unwrap().unwrap();
    let mut flows = std::pin::pin!(agent.client.flows().await.unwrap());
    let flow = loop {
        match timeout(STEP_TIMEOUT, flows.next()).await.unwrap().unwrap().unwrap() {
            FlowLine::Flow(flow) => break flow,
            FlowLine::Lost(_) => {}
        }
    };
    assert_eq!((flow.verdict, flow.explanation.reason), (Verdict::Denied, ReasonCode::EndpointNotReady));
    assert_eq!(flow.source.to_string(), "shop/web 10.244.0.2:1");
    assert!(flow.explanation.hint.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_goes_away_leaves_everything_in_force_and_what_it_missed_counts_when_it_is_back() {
    let api = Api::default();
    let agent = Agent::start("away", &api);
    agent.status("in sync", |status| status.ready).await;
    let before = agent.kernel.plan();
    api.go();
    api.list("networkpolicies", vec![deny_all()]);
    api.list("pods", vec![pod("web", "10.244.0.2"), pod("born", "10.244.0.9")]);
    let status = agent.status("it is told", |status| status.watches.iter().all(|watch| !watch.connected)).await;
    assert!(status.ready && !status.warnings.is_empty(), "{:?}", status.warnings);
    assert_eq!(agent.kernel.plan(), before);
    api.come_back();
    let status = agent.status("it is back", |status| status.warnings.is_empty() && status.endpoints.len() == 2).await;
    assert_eq!(status.policies[0].enforced_generation, Some(1));
    assert!(agent.kernel.plan().endpoints.values().all(|endpoint| endpoint.ingress.0 != 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_has_expired_is_begun_anew_with_a_listing() {
    let api = Api::default();
    let agent = Agent::start("expired", &api);
    api.tell("pods", "ADDED", pod("gone", "10.244.0.3")).await;
    agent.status("in sync", |status| status.endpoints.len() == 2).await;
    api.list("pods", vec![pod("web", "10.244.0.2"), pod("new", "10.244.0.4")]);
    let expired =
        json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
    api.tell("pods", "ERROR", expired).await;
    let names = |status: &Status| status.endpoints.iter().map(|endpoint| endpoint.pod.clone()).collect::<Vec<_>>();
    let status = agent.status("it is listed again", |status| names(status) == ["web", "new"]).await;
    assert_eq!(status.warnings, Vec::<String>::new(), "nothing that anybody has to see to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_with_one_address_have_what_both_may_and_both_are_told() {
    let api = Api::default();
    let agent = Agent::start("twins", &api);
    let mut twin = pod("twin", "10.244.0.2");
    twin["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    api.tell("pods", "ADDED", twin.clone()).await;
    let said = |status: &Status, words: &str| {
        status.diagnostics.len() == 2 && status.diagnostics.iter().all(|remark| remark.message.contains(words))
    };
    agent.status("both are told", |status| said(status, "which policy does not tell apart")).await;
    twin["metadata"]["labels"] = json!({"app": "other"});
    api.tell("pods", "MODIFIED", twin.clone()).await;
    agent.status("it is in dispute", |status| said(status, "10.244.0.2 is in dispute between pods")).await;
    let endpoint = agent.kernel.plan().endpoints.values().next().cloned().unwrap();
    assert_eq!([endpoint.ingress, endpoint.egress], [ringfence_engine::RulesetId::COLLISION; 2], "denied");
    twin["status"]["phase"] = "Succeeded".into();
    api.tell("pods", "MODIFIED", twin).await;
    let status = agent.status("the one that ended has none", |status| status.diagnostics.is_empty()).await;
    assert_eq!(status.endpoints[0].pod, "web", "what is told is one state");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_closes_and_is_told_with_its_field() {
    let api = Api::default();
    let agent = Agent::start("strange", &api);
    agent.status("in sync", |status| status.ready).await;
    let mut strange = deny_all();
    strange["spec"]["ingress"] = json!([{"from": [{"planetSelector": {}}]}]);
    api.tell("networkpolicies", "ADDED", strange).await;
    let status = agent.status("it is told", |status| !status.diagnostics.is_empty()).await;
    let remark = &status.diagnostics[0];
    assert_eq!(remark.object, "NetworkPolicy shop/deny");
    assert!(
        remark.message.starts_with("error: spec.ingress[0].from[0].planetSelector: unknown field"),
        "{}",
        remark.message
    );
    assert!(remark.message.contains("the rule matches nothing"), "{}", remark.message);
    agent.status("it is in the kernel", |_| agent.kernel.plan().endpoints.values().all(|pod| pod.ingress.0 != 0)).await;
    api.tell("networkpolicies", "MODIFIED", deny_all()).await;
    agent.status("it was put right", |status| status.diagnostics.is_empty()).await;
    // An object that is no object at all breaks neither the watch nor anything else.
    api.tell("pods", "ADDED", json!({"metadata": {"name": "odd", "namespace": "shop"}, "spec": 7, "status": []})).await;
    api.tell("pods", "ADDED", pod("late", "10.244.0.3")).await;
    agent.status("the next is taken in", |status| status.endpoints.len() == 2).await;
}

#[tokio::test]
async fn nobody_listening_is_told_as_such() {
    let error = Client::new("/nonexistent/agent.sock").status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(error.to_string().contains("hint:"), "{error}");
}
