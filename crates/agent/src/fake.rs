//! A kernel for tests: a plan in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use ringfence_datapath::Interface;
use ringfence_engine::{CauseId, Delta, Plan};
use ringfence_model::DomainName;
use tokio::sync::watch;

use crate::api::MapUse;
use crate::core::Setup;
use crate::enforcer::{Count, EnforceError, Enforcer, Facts};
use crate::metrics::Meters;

/// What the kernel was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
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
pub(crate) struct FakeKernel(Arc<Mutex<Memory>>);

impl FakeKernel {
    /// What a planning thread is made with that has nothing but this kernel.
    pub(crate) fn setup(&self, node: &str, meters: &Arc<Meters>) -> Setup {
        Setup {
            node: node.into(),
            connections: "cut".into(),
            pin_dir: "/nowhere".into(),
            enforcer: Box::new(self.clone()),
            meters: Arc::clone(meters),
            scout: None,
            sandboxes: Vec::new(),
            listener: None,
            cluster_domain: DomainName::new("cluster.local"),
            clerk: watch::channel(0).0,
        }
    }

    /// What it was asked for since the last time.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().calls)
    }

    /// What it holds.
    pub(crate) fn plan(&self) -> Plan {
        self.0.lock().plan.clone()
    }

    /// Has the next call fail.
    pub(crate) fn fail(&self, error: EnforceError) {
        self.0.lock().failure = Some(error);
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
    fn sync(&mut self, plan: &Plan) -> Result<(), EnforceError> {
        self.called(Call::Sync, |held| held.clone_from(plan))
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), EnforceError> {
        self.called(Call::Apply, |held| held.apply(delta))
    }

    fn set_interfaces(&mut self, interfaces: &BTreeMap<IpAddr, Interface>) -> Result<(), EnforceError> {
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
