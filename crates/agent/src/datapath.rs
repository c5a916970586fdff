//! The kernel side: the datapath as an [`Enforcer`] and as a [`Source`] of events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use ringfence_api::{Feature, MapUse};
use ringfence_datapath::{
    ApplyError, Datapath, DropCounters, Event, Events, Features, GuardReport, GuardStatus, Interface, LinkHook,
    PodLink, Repairs, Sizes,
};
use ringfence_engine::{Delta, Limits, Plan, RuleId};
use ringfence_netns::Tunnel;

use crate::client_ports;
use crate::core::Handle;
use crate::enforcer::{Count, EnforceError, Enforcer, Facts};
use crate::flows::Source;
use crate::guards::{Work, Workshop};
use crate::run::Config;

/// The datapath, and what does not change about it.
struct Kernel {
    datapath: Datapath,
    guards: Workshop,
    adopted: bool,
    features: Vec<Feature>,
    link_hook: Option<LinkHook>,
    limits: Limits,
    /// Addresses of nodes and Services it can hold.
    known: usize,
}

impl std::ops::Drop for Kernel {
    fn drop(&mut self) {
        match self.datapath.close_before_exit() {
            // The thread carries it out before it ends.
            Ok(Some(errand)) => self.guards.send(Work::Errand(errand)),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "links of pods may be open until another agent runs"),
        }
    }
}

/// Loads the program, or adopts what an earlier agent left; the planning thread is told what becomes of guards.
pub(crate) fn open(config: &Config, core: &Handle) -> anyhow::Result<(Box<dyn Enforcer>, Box<dyn Source>)> {
    let adopted = holds_anything(&config.pin_dir);
    let settings = settings(config)?;
    let limits = limits(&settings.sizes);
    let known = settings.sizes.infra_addresses as usize;
    let datapath = Datapath::open(settings).context("cannot enforce policy on this node")?;
    let events = datapath.events().context("cannot read what the kernel reports")?;
    let found = datapath.features();
    let (features, link_hook) = (features(&found), found.link_hook);
    let guards = Workshop::start(core, datapath.link_guard()?).context("cannot start a thread")?;
    Ok((Box::new(Kernel { datapath, guards, adopted, features, link_hook, limits, known }), Box::new(Reports(events))))
}

/// Ends the enforcement that is pinned in a directory, and what of it needs no pins: somebody may have removed these.
pub(crate) fn remove(pin_dir: &Path) -> anyhow::Result<()> {
    Ok(ringfence_datapath::remove(pin_dir)?)
}

fn holds_anything(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn settings(config: &Config) -> anyhow::Result<ringfence_datapath::Config> {
    let mut settings = ringfence_datapath::Config::new(&config.pin_dir);
    settings.report_allowed = config.report_allowed;
    settings.ephemeral_ports = client_ports::read();
    settings.connections = config.connections;
    for (map, entries) in &config.map_sizes {
        *size(&mut settings.sizes, map)? = *entries;
    }
    Ok(settings)
}

fn size<'a>(sizes: &'a mut Sizes, map: &str) -> anyhow::Result<&'a mut u32> {
    Ok(match map {
        "endpoints" => &mut sizes.endpoints,
        "ipcache" => &mut sizes.ipcache,
        "ipcache_cidrs" => &mut sizes.ipcache_cidrs,
        "policy" => &mut sizes.policy,
        "port_ranges" => &mut sizes.port_ranges,
        "rule_counters" => &mut sizes.rule_counters,
        "closed_cidrs" => &mut sizes.closed_cidrs,
        "infra_addresses" => &mut sizes.infra_addresses,
        "pod_cidrs" => &mut sizes.pod_cidrs,
        "flows" => &mut sizes.flows,
        "drop_dedup" => &mut sizes.drop_dedup,
        "events" => &mut sizes.events,
        _ => bail!(
            "no map is called {map}; hint: endpoints, ipcache, ipcache_cidrs, policy, port_ranges, rule_counters, \
             closed_cidrs, infra_addresses, pod_cidrs, flows, drop_dedup, events"
        ),
    })
}

fn features(found: &Features) -> Vec<Feature> {
    let kernel = Feature { name: "kernel".into(), available: found.is_supported(), detail: found.kernel.clone() };
    let missing = found.missing.iter().map(|missing| Feature {
        name: missing.feature.into(),
        available: false,
        detail: missing.reason.clone(),
    });
    let detail = match found.link_hook {
        Some(LinkHook::Tcx) => "tcx",
        Some(LinkHook::Either) => "clsact where a pod starts, tcx elsewhere",
        Some(LinkHook::Clsact) => {
            "filters of clsact; hint: Linux 6.6 or later has tcx, which nobody removes by accident"
        }
        None => "neither tcx nor clsact; hint: Linux 6.6 or later has tcx",
    };
    let links = Feature { name: "guards at links".into(), available: found.link_hook.is_some(), detail: detail.into() };
    [kernel, links].into_iter().chain(missing).collect()
}

/// Damage that another program did, by what is missing.
fn found(undone: Repairs) -> String {
    let Repairs { detached, unpinned, directory } = undone;
    let mut found = Vec::new();
    if detached > 0 {
        found.push(format!("{detached} links of the program were detached, and packets passed there unjudged"));
    }
    if directory {
        found.push("the pin directory was removed, or its file system unmounted".to_owned());
    }
    if unpinned > 0 {
        found.push(format!("{unpinned} pins of links and maps were removed"));
    }
    format!("{}; all is attached and pinned again", found.join("; "))
}

impl From<ApplyError> for EnforceError {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::NoCapacity { .. } => Self::Capacity(message),
            ApplyError::OutOfSync | ApplyError::Kernel { .. } | ApplyError::Attach(_) => Self::Kernel(message),
        }
    }
}

/// Bytes of memory that rules may take up as they are laid out for evaluation: a bound on what the agent needs for
/// them.
const LAYOUT: usize = 64 << 20;

/// Share of the maps that a plan may take up: an eighth is left, for what is new is there beside what is old for a
/// while.
fn limits(sizes: &Sizes) -> Limits {
    let size = |size: u32| size as usize;
    let all = Limits {
        endpoints: size(sizes.endpoints),
        ipcache: size(sizes.ipcache),
        ipcache_cidrs: size(sizes.ipcache_cidrs),
        policy: size(sizes.policy),
        port_ranges: size(sizes.port_ranges),
        rule_counters: size(sizes.rule_counters),
        closed_cidrs: size(sizes.closed_cidrs),
        layout: LAYOUT,
    };
    all.eighths(7)
}

impl Kernel {
    /// The counters of drops, if they can be read.
    fn drops(&self) -> Option<DropCounters> {
        let error = |error: &ApplyError| tracing::warn!(%error, "cannot read the counters of drops");
        self.datapath.drop_counters().inspect_err(error).ok()
    }
}

impl Enforcer for Kernel {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn room_for_known_addresses(&self) -> usize {
        self.known
    }

    fn sync(&mut self, plan: &Plan) -> Result<(), EnforceError> {
        Ok(self.datapath.sync(plan)?)
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), EnforceError> {
        Ok(self.datapath.apply(delta)?)
    }

    fn set_interfaces(&mut self, interfaces: &BTreeMap<IpAddr, Interface>) -> Result<(), EnforceError> {
        Ok(self.datapath.set_interfaces(interfaces.iter().map(|(address, interface)| (*address, *interface)))?)
    }

    fn link_hook(&self) -> Option<LinkHook> {
        self.link_hook
    }

    fn guard(&mut self, links: &BTreeMap<u32, PodLink>) -> Result<(), EnforceError> {
        if let Some(errand) = self.datapath.guard_links(links)? {
            self.guards.send(Work::Errand(errand));
        }
        Ok(())
    }

    fn look_at_guards(&mut self) {
        self.guards.send(Work::Look);
    }

    fn settle(&mut self, done: GuardReport) -> Result<GuardStatus, EnforceError> {
        Ok(self.datapath.complete_guard_work(done)?)
    }

    fn set_tunnels(&mut self, tunnels: &BTreeSet<Tunnel>) -> Result<(), EnforceError> {
        let pairs = tunnels.iter().map(|tunnel| (tunnel.protocol, tunnel.port)).collect();
        Ok(self.datapath.set_tunnels(&pairs)?)
    }

    fn set_infra_addresses(
        &mut self,
        nodes: &BTreeSet<IpAddr>,
        services: &BTreeSet<IpAddr>,
    ) -> Result<(), EnforceError> {
        Ok(self.datapath.set_infra_addresses(nodes.iter().copied(), services.iter().copied())?)
    }

    fn set_pod_cidrs(&mut self, ranges: &BTreeSet<IpNet>) -> Result<(), EnforceError> {
        Ok(self.datapath.set_pod_cidrs(ranges.iter().copied())?)
    }

    fn mend(&mut self) -> Result<Option<String>, EnforceError> {
        self.datapath.set_ephemeral_ports(client_ports::read())?;
        let undone = self.datapath.repair().map_err(|error| EnforceError::Kernel(error.to_string()))?;
        Ok((undone != Repairs::default()).then(|| found(undone)))
    }

    fn facts(&mut self) -> Facts {
        let drops = self.drops();
        let by_reason = drops.iter().flat_map(DropCounters::by_reason).collect();
        let use_of = |map: ringfence_datapath::MapUsage| MapUse {
            name: map.map.into(),
            used: map.used as u64,
            capacity: map.size as u64,
        };
        let maps = self.datapath.map_usage().into_iter().map(use_of).collect();
        let events_lost = drops.map_or(0, |drops| drops.events_lost);
        Facts { adopted: self.adopted, maps, features: self.features.clone(), drops: by_reason, events_lost }
    }

    fn events_lost(&mut self) -> u64 {
        self.drops().map_or(0, |drops| drops.events_lost)
    }

    fn counters(&mut self) -> Result<BTreeMap<RuleId, Count>, EnforceError> {
        let count =
            |counter: ringfence_datapath::RuleCounter| Count { accepted: counter.accepted, dropped: counter.dropped };
        Ok(self.datapath.rule_counters()?.into_iter().map(|(cause, counter)| (cause, count(counter))).collect())
    }
}

/// The ring buffer of the kernel program.
struct Reports(Events);

impl Source for Reports {
    fn read(&mut self, timeout: Duration, events: &mut Vec<Event>) -> anyhow::Result<()> {
        events.extend(self.0.poll(timeout)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ringfence_netns::VethEnd;

    use super::*;
    use crate::scratch::{Scratch, can_run};

    #[test]
    fn guards_go_with_the_agent_though_somebody_removed_the_pins() {
        if !can_run() {
            return;
        }
        let (host, pod) = (Scratch::new("lost-host"), Scratch::new("lost-pod"));
        let mut netlink = host.0.netlink().unwrap();
        let ends = [("pod0", &host), ("eth0", &pod)].map(|(name, at)| VethEnd { name, namespace: &at.0 });
        netlink.add_veth(ends[0], ends[1], None).unwrap();
        let index = netlink.link_index("pod0").unwrap();
        let pins = std::env::temp_dir().join(format!("rf-lost-pins-{}", std::process::id()));
        let open = || Datapath::open(ringfence_datapath::Config::new(&pins)).unwrap();
        let mut datapath = host.0.run(open).unwrap();
        let mut keeper = datapath.link_guard().unwrap();
        datapath.sync(&Plan::default()).unwrap();
        let port = PodLink { bridge: None, mac: None, pod: true, idle: true };
        keeper.enqueue(datapath.guard_links(&BTreeMap::from([(index, port)])).unwrap().unwrap());
        assert_eq!(datapath.complete_guard_work(keeper.run_next().unwrap()).unwrap().guarded, BTreeSet::from([index]));
        let mut taken_away = || {
            keeper.check_all_links();
            !datapath.complete_guard_work(keeper.run_next().unwrap()).unwrap().restored.is_empty()
        };
        assert!(!taken_away());
        // First from where a pod that starts has it, then from where it is put back.
        for _ in 0..2 {
            host.0.run(|| remove(&pins.with_extension("lost"))).unwrap().unwrap();
            assert!(taken_away());
        }
        host.0.run(|| datapath.detach()).unwrap().unwrap();
    }
}
