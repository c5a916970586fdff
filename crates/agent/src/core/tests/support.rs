//! A planning thread that is stepped by hand, and a kernel that is a plan in memory.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use ringfence_api::OverCapacity;
use ringfence_api::{Status, WaitRequest};
use ringfence_engine::{Limits, Plan};
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{
    Labels, Name, Namespace, NamespaceSelection, Node, Object, Pod, PodKey, PodPhase, PodSelection, Policy, PolicyId,
    PolicyKind, Selector, Tier,
};
use tokio::sync::oneshot;

use super::event;
use crate::core::{Core, Handle, Message, Question, Setup};
use crate::enforcer::EnforceError;
pub(super) use crate::fake::Call;
use crate::fake::FakeKernel;
use crate::interfaces::Nudge;
use crate::metrics::{self, Meters};
use crate::policy_memory::PolicyMemory;

/// A planning thread that is stepped by hand.
pub(super) struct Fixture {
    pub(super) core: Core,
    pub(super) meters: Arc<Meters>,
    kernel: FakeKernel,
    pub(super) handle: Handle,
    messages: Receiver<Message>,
    /// Nobody works at links for now.
    pub(super) idle: bool,
}

impl Fixture {
    /// Nothing known yet.
    pub(super) fn new() -> Self {
        Self::after(Vec::new())
    }

    /// The same, after an agent that was told of these sandboxes.
    pub(super) fn after(sandboxes: Vec<(WaitRequest, bool)>) -> Self {
        Self::with(FakeKernel::default(), |setup| setup.sandboxes = sandboxes)
    }

    fn with(kernel: FakeKernel, choose: impl FnOnce(&mut Setup)) -> Self {
        let meters = Arc::new(Meters::new());
        let mut setup = kernel.setup("here", &meters);
        choose(&mut setup);
        let core = Core::new(setup);
        let (handle, messages) = Handle::channel();
        Self { core, meters, kernel, handle, messages, idle: false }
    }

    /// Two nodes, two namespaces and the pod `a/web` here are known and in the kernel.
    pub(super) fn in_sync() -> Self {
        Self::new().listed()
    }

    /// The same, with a kernel that has so much room.
    pub(super) fn in_sync_within(limits: Limits) -> Self {
        Self::with(FakeKernel::with_limits(limits), |_| {}).listed()
    }

    /// The same, where pods keep what they had while there is no room for their policies.
    pub(super) fn keeping_within(limits: Limits) -> Self {
        Self::with(FakeKernel::with_limits(limits), |setup| setup.over_capacity = OverCapacity::Keep).listed()
    }

    /// The same, with so much memory for policies.
    pub(super) fn in_sync_with_memory(memory: &PolicyMemory) -> Self {
        Self::in_sync_within_memory(Limits::NONE, memory)
    }

    /// The same, with a kernel that has so much room.
    pub(super) fn in_sync_within_memory(limits: Limits, memory: &PolicyMemory) -> Self {
        Self::with(FakeKernel::with_limits(limits), |setup| setup.policy_memory = memory.clone()).listed()
    }

    fn listed(self) -> Self {
        let mut fixture = self;
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

    /// Has the thread take in messages that are all ready at once; then what was done at links, if somebody works
    /// there.
    pub(super) fn step(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.handle.tell(message).unwrap();
        }
        let first = self.messages.try_recv().unwrap();
        self.core.step(first, &self.messages);
        assert!(self.messages.try_recv().is_err(), "one step takes in everything that is ready");
        if let Some(done) = (!self.idle).then(|| self.kernel.done()).flatten() {
            self.core.step(Message::Guarded(done), &self.messages);
        }
    }

    /// Lets it work until it ends.
    pub(super) fn run(self) -> Option<&'static str> {
        let Self { core, handle, messages, .. } = self;
        let ended = core.run(&messages);
        drop(handle);
        ended
    }

    pub(super) fn ask<T>(&mut self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> T {
        let (reply, mut answer) = oneshot::channel();
        self.step([Message::Ask(question(reply))]);
        answer.try_recv().unwrap()
    }

    pub(super) fn status(&mut self) -> Status {
        self.ask(Question::Status)
    }

    /// A scrape, as Prometheus gets it.
    pub(super) fn metrics(&mut self) -> String {
        let gauges = self.ask(Question::Gauges);
        metrics::text(&self.meters, gauges, metrics::Format::OpenMetrics).unwrap()
    }

    /// The calls of the kernel since the last time.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.kernel.calls()
    }

    /// Has the kernel lose events.
    pub(super) fn lose_events(&self, events: u64) {
        self.kernel.lose_events(events);
    }

    /// Contents of the kernel.
    pub(super) fn kernel(&self) -> Plan {
        self.kernel.plan()
    }

    /// The scout's end, once there is to be one.
    pub(super) fn with_scout(&mut self) -> Receiver<Nudge> {
        let (nudges, told) = mpsc::channel();
        self.core.setup.scout = Some(nudges);
        told
    }

    /// These links cannot be guarded.
    pub(super) fn refuse(&self, links: &[(u32, &str)]) {
        self.kernel.refuse(links);
    }

    /// No link can be guarded.
    pub(super) fn age(&self) {
        self.kernel.age();
    }

    /// Somebody takes the guards of these links away.
    pub(super) fn take_away(&self, links: &[u32]) {
        self.kernel.take_away(links);
    }

    /// The kernel has room for so many addresses of nodes and Services.
    pub(super) fn shrink(&self, room: usize) {
        self.kernel.shrink(room);
    }

    /// The next call fails.
    pub(super) fn fail(&self, error: EnforceError) {
        self.kernel.fail(error);
    }

    /// The next look finds something undone.
    pub(super) fn undo(&self, what: &str) {
        self.kernel.undo(what);
    }
}

pub(super) fn namespace(name: &str) -> Object {
    let labels = Labels::from_iter([("kubernetes.io/metadata.name", name)]);
    Object::Namespace(Namespace { name: name.into(), labels, terminating: false })
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
        terminating: false,
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
        rules_withheld: false,
    })
}
