//! A kernel for tests: a plan in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use ringfence_api::{Connections, MapUse, OverCapacity, ReasonCode};
use ringfence_datapath::{DropReason, Event, EventVerdict, GuardReport, GuardStatus, Interface, LinkHook, PodLink};
use ringfence_engine::{Delta, Limits, Plan, RuleId};
use ringfence_model::{DomainName, Protocol};
use ringfence_netns::Tunnel;
use tokio::sync::watch;

use crate::core::Setup;
use crate::enforcer::{Count, EnforceError, Enforcer, Facts};
use crate::metrics::Meters;
use crate::policy_memory::PolicyMemory;

/// A call of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Sync,
    Apply,
    Interfaces(usize),
    Guard(BTreeMap<u32, PodLink>),
    LookAtGuards,
    Tunnels(BTreeSet<Tunnel>),
    Known(BTreeSet<IpAddr>, BTreeSet<IpAddr>),
    PodRanges(BTreeSet<IpNet>),
    Mend,
}

#[derive(Debug, Default)]
struct Memory {
    plan: Plan,
    calls: Vec<Call>,
    failure: Option<EnforceError>,
    /// Links that cannot be guarded, and guards that were taken away.
    refused: BTreeMap<u32, String>,
    taken: BTreeSet<u32>,
    links: BTreeSet<u32>,
    /// Somebody is to be told what was done at links.
    untold: bool,
    too_old: bool,
    limits: Limits,
    room_for_known: usize,
    undone: Option<String>,
    events_lost: u64,
}

/// An event about a packet from nowhere that was dropped: to be given ends.
pub(crate) fn dropped(reason: DropReason) -> Event {
    let nowhere = IpAddr::from([0, 0, 0, 0]);
    Event {
        time: Duration::ZERO,
        verdict: EventVerdict::Denied(reason),
        source: nowhere,
        destination: nowhere,
        protocol: Protocol::TCP,
        source_port: 0,
        destination_port: 0,
        direction: None,
        interface: 0,
        reply: false,
        from_node: false,
        translated: false,
        length: 60,
        repeated: 0,
    }
}

/// The kernel, in memory.
#[derive(Clone, Debug)]
pub(crate) struct FakeKernel(Arc<Mutex<Memory>>);

impl Default for FakeKernel {
    fn default() -> Self {
        Self::with_limits(Limits::NONE)
    }
}

impl FakeKernel {
    /// The parts of a planning thread that has nothing but this kernel.
    pub(crate) fn setup(&self, node: &str, meters: &Arc<Meters>) -> Setup {
        Setup {
            node: node.into(),
            policy_memory: PolicyMemory::with_room(usize::MAX),
            connections: Connections::Cut,
            over_capacity: OverCapacity::Deny,
            pin_dir: "/nowhere".into(),
            enforcer: Box::new(self.clone()),
            meters: Arc::clone(meters),
            scout: None,
            sandboxes: Vec::new(),
            forget: None,
            listener: None,
            cluster_domain: DomainName::new("cluster.local"),
            clerk: watch::channel(0).0,
        }
    }

    /// The calls since the last time.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().calls)
    }

    /// The plan that it holds.
    pub(crate) fn plan(&self) -> Plan {
        self.0.lock().plan.clone()
    }

    /// One with so much room.
    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Memory { limits, room_for_known: usize::MAX, ..Memory::default() })))
    }

    /// Has room for so many addresses of nodes and Services.
    pub(crate) fn shrink(&self, room_for_known: usize) {
        self.0.lock().room_for_known = room_for_known;
    }

    /// Has the next call fail.
    pub(crate) fn fail(&self, error: EnforceError) {
        self.0.lock().failure = Some(error);
    }

    /// Has it refuse to guard these links.
    pub(crate) fn refuse(&self, links: &[(u32, &str)]) {
        self.0.lock().refused = links.iter().map(|(index, why)| (*index, (*why).to_owned())).collect();
    }

    /// Is one that cannot guard links.
    pub(crate) fn age(&self) {
        self.0.lock().too_old = true;
    }

    /// Takes away the guards of these links.
    pub(crate) fn take_away(&self, links: &[u32]) {
        self.0.lock().taken = links.iter().copied().collect();
    }

    /// The report of the thread that works at links, if it has done something.
    pub(crate) fn done(&self) -> Option<GuardReport> {
        std::mem::take(&mut self.0.lock().untold).then(GuardReport::default)
    }

    /// Has it lose events.
    pub(crate) fn lose_events(&self, events: u64) {
        self.0.lock().events_lost += events;
    }

    /// Has the next look find something undone.
    pub(crate) fn undo(&self, what: &str) {
        self.0.lock().undone = Some(what.to_owned());
    }

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
    fn limits(&self) -> Limits {
        self.0.lock().limits
    }

    fn room_for_known_addresses(&self) -> usize {
        self.0.lock().room_for_known
    }

    fn sync(&mut self, plan: &Plan) -> Result<(), EnforceError> {
        self.called(Call::Sync, |held| held.clone_from(plan))
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), EnforceError> {
        self.called(Call::Apply, |held| held.apply(delta))
    }

    fn set_interfaces(&mut self, interfaces: &BTreeMap<IpAddr, Interface>) -> Result<(), EnforceError> {
        self.called(Call::Interfaces(interfaces.len()), |_| {})
    }

    fn link_hook(&self) -> Option<LinkHook> {
        (!self.0.lock().too_old).then_some(LinkHook::Tcx)
    }

    fn guard(&mut self, links: &BTreeMap<u32, PodLink>) -> Result<(), EnforceError> {
        self.called(Call::Guard(links.clone()), |_| {})?;
        let mut memory = self.0.lock();
        memory.links = links.keys().copied().collect();
        memory.untold = true;
        Ok(())
    }

    fn look_at_guards(&mut self) {
        let mut memory = self.0.lock();
        memory.calls.push(Call::LookAtGuards);
        memory.untold = true;
    }

    fn settle(&mut self, _: GuardReport) -> Result<GuardStatus, EnforceError> {
        let mut memory = self.0.lock();
        let failed = memory.refused.clone();
        let guarded = memory.links.iter().filter(|index| !failed.contains_key(index)).copied().collect();
        Ok(GuardStatus { guarded, failed, restored: std::mem::take(&mut memory.taken) })
    }

    fn set_tunnels(&mut self, tunnels: &BTreeSet<Tunnel>) -> Result<(), EnforceError> {
        self.called(Call::Tunnels(tunnels.clone()), |_| {})
    }

    fn set_infra_addresses(
        &mut self,
        nodes: &BTreeSet<IpAddr>,
        services: &BTreeSet<IpAddr>,
    ) -> Result<(), EnforceError> {
        self.called(Call::Known(nodes.clone(), services.clone()), |_| {})
    }

    fn set_pod_cidrs(&mut self, ranges: &BTreeSet<IpNet>) -> Result<(), EnforceError> {
        self.called(Call::PodRanges(ranges.clone()), |_| {})
    }

    fn mend(&mut self) -> Result<Option<String>, EnforceError> {
        self.called(Call::Mend, |_| {})?;
        Ok(self.0.lock().undone.take())
    }

    fn facts(&mut self) -> Facts {
        let used = self.0.lock().plan.endpoints.len() as u64;
        let maps = vec![MapUse { name: "endpoints".into(), used, capacity: 100 }];
        Facts {
            maps,
            drops: BTreeMap::from([(ReasonCode::Policy, 5)]),
            events_lost: self.events_lost(),
            ..Facts::default()
        }
    }

    fn events_lost(&mut self) -> u64 {
        self.0.lock().events_lost
    }

    fn counters(&mut self) -> Result<BTreeMap<RuleId, Count>, EnforceError> {
        let memory = self.0.lock();
        Ok(memory.plan.rules.keys().map(|cause| (*cause, Count { accepted: 1, dropped: 2 })).collect())
    }
}
