//! A planning thread that is stepped by hand, and a kernel that is a plan in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use parking_lot::Mutex;
use ringfence_engine::{CauseId, Delta, Plan};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{
    Labels, Name, Namespace, NamespaceSelection, Node, Object, Pod, PodKey, PodPhase, PodSelection, Policy, PolicyId,
    PolicyKind, Selector, Tier,
};
use tokio::sync::oneshot;

use super::event;
use crate::api::{MapUse, Status};
use crate::core::{Core, Handle, Message, Question, Setup};
use crate::enforcer::{Count, EnforceError, Enforcer, Facts};
use crate::metrics::Meters;

/// What the kernel was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Sync,
    Apply,
    Interfaces(usize),
}

#[derive(Debug, Default)]
struct Memory {
    plan: Plan,
    calls: Vec<Call>,
    failure: Option<EnforceError>,
}

/// The kernel, in memory.
#[derive(Clone, Debug, Default)]
struct FakeKernel(Arc<Mutex<Memory>>);

impl FakeKernel {
    fn called(&self, call: Call, change: impl FnOnce(&mut Plan)) -> Result<(), EnforceError> {
        let mut memory = self.0.lock();
        memory.calls.push(call);
        if let Some(error) = memory.failure.take() {
            return Err(error);
        }
        change(&mut memory.plan);
        Ok(())
    }
}

impl Enforcer for FakeKernel {
    fn sync(&mut self, plan: &Plan) -> Result<(), EnforceError> {
        self.called(Call::Sync, |held| held.clone_from(plan))
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), EnforceError> {
        self.called(Call::Apply, |held| held.apply(delta))
    }

    fn set_interfaces(&mut self, interfaces: &BTreeMap<IpAddr, u32>) -> Result<(), EnforceError> {
        self.called(Call::Interfaces(interfaces.len()), |_| {})
    }

    fn facts(&mut self) -> Facts {
        let used = self.0.lock().plan.endpoints.len() as u64;
        let maps = vec![MapUse { name: "endpoints".into(), used, capacity: 100 }];
        Facts { maps, drops: BTreeMap::from([("policy".into(), 5)]), ..Facts::default() }
    }

    fn counters(&mut self) -> Result<BTreeMap<CauseId, Count>, EnforceError> {
        let memory = self.0.lock();
        Ok(memory.plan.causes.keys().map(|cause| (*cause, Count { accepted: 1, dropped: 2 })).collect())
    }
}

/// A planning thread that is stepped by hand.
pub(super) struct Fixture {
    pub(super) core: Core,
    pub(super) meters: Arc<Meters>,
    kernel: FakeKernel,
    handle: Handle,
    messages: Receiver<Message>,
}

impl Fixture {
    /// Nothing known yet.
    pub(super) fn new() -> Self {
        let kernel = FakeKernel::default();
        let meters = Arc::new(Meters::new());
        let core = Core::new(Setup {
            node: "here".into(),
            connections: "cut".into(),
            pin_dir: "/nowhere".into(),
            enforcer: Box::new(kernel.clone()),
            meters: Arc::clone(&meters),
            scout: None,
        });
        let (handle, messages) = Handle::channel();
        Self { core, meters, kernel, handle, messages }
    }

    /// Two nodes, two namespaces and the pod `a/web` here are known and in the kernel.
    pub(super) fn in_sync() -> Self {
        let mut fixture = Self::new();
        let listing = Self::listing();
        fixture.step(listing.into_iter().chain([event(Event::InSync)]));
        assert_eq!(fixture.calls(), [Call::Sync]);
        fixture
    }

    /// A listing of every kind.
    pub(super) fn listing() -> Vec<Message> {
        let reset = |kind, objects| event(Event::Reset { kind, objects, diagnostics: Vec::new() });
        vec![
            reset(Kind::Namespace, vec![namespace("a"), namespace("b")]),
            reset(Kind::Node, vec![node("here", "10.90.0.11", "10.244.0.0/24")]),
            reset(Kind::Pod, vec![pod("a", "web", "10.244.0.2")]),
            reset(Kind::NetworkPolicy, vec![]),
        ]
    }

    /// Has the thread take in messages that are all ready at once.
    pub(super) fn step(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.handle.tell(message).unwrap();
        }
        let first = self.messages.try_recv().unwrap();
        self.core.step(first, &self.messages);
        assert!(self.messages.try_recv().is_err(), "one step takes in everything that is ready");
    }

    pub(super) fn ask<T>(&mut self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> T {
        let (reply, mut answer) = oneshot::channel();
        self.step([Message::Ask(question(reply))]);
        answer.try_recv().unwrap()
    }

    pub(super) fn status(&mut self) -> Status {
        self.ask(Question::Status)
    }

    /// What the kernel was asked for since the last time.
    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.kernel.0.lock().calls)
    }

    /// What the kernel holds.
    pub(super) fn kernel(&self) -> Plan {
        self.kernel.0.lock().plan.clone()
    }

    /// The next call fails.
    pub(super) fn fail(&self, error: EnforceError) {
        self.kernel.0.lock().failure = Some(error);
    }
}

pub(super) fn namespace(name: &str) -> Object {
    let labels = Labels::from_iter([("kubernetes.io/metadata.name", name)]);
    Object::Namespace(Namespace { name: name.into(), labels })
}

pub(super) fn node(name: &str, address: &str, pods: &str) -> Object {
    let (addresses, pod_cidrs) = (vec![address.parse().unwrap()], vec![pods.parse().unwrap()]);
    Object::Node(Node { name: name.into(), labels: Labels::default(), addresses, pod_cidrs })
}

/// A pod; on this node if its address is, and without one if that is empty.
pub(super) fn pod(namespace: &str, name: &str, address: &str) -> Object {
    let here = address.is_empty() || address.starts_with("10.244.0.");
    Object::Pod(Pod {
        key: PodKey { namespace: namespace.into(), name: name.into() },
        uid: Name::from(format!("uid-{name}")),
        labels: Labels::default(),
        node: Some(if here { "here" } else { "other" }.into()),
        addresses: address.parse().into_iter().collect(),
        host_network: false,
        phase: PodPhase::Running,
        created: 0,
        ports: Vec::new(),
    })
}

pub(super) fn deny_all(namespace: &str, generation: i64) -> Object {
    Object::Policy(Policy {
        id: PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some(namespace.into()), name: "deny-all".into() },
        uid: "uid-policy".into(),
        generation,
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelection { namespaces: NamespaceSelection::Named(namespace.into()), pods: Selector::everything() },
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
    })
}
