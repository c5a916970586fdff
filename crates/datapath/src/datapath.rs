//! The datapath of one node: opens, syncs, changes and removes what the kernel enforces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use libbpf_rs::{MapCore as _, Object};
use ringfence_engine::{Delta, Plan, RuleId};

use crate::abi::{ConfigValue, FlowKey, FlowValue, RuleCounterValue, flags};
use crate::apply::Maps;
use crate::infra::InfraMaps;
use crate::kernel::grace_period;
use crate::link_guard::{GuardedLinks, sweep};
use crate::namespace::Namespace;
use crate::object::{MAPS, PROGRAM, Version, load, log_at_debug};
use crate::pinned::PinnedObjects;
use crate::pins::{Pins, stage};
use crate::state::{State, is_address};
use crate::transition::transition;
use crate::typed_map::{PerCpuMap, TypedMap};
use crate::{
    ApplyError, Config, Connections, DropCounters, Error, Events, Features, Flow, GuardReport, GuardStatus, GuardWork,
    Interface, LinkGuard, LinkHook, MapUsage, PodLink, RuleCounter, TestRun, conntrack, features, links,
};

/// The enforcement of policy in one network namespace.
///
/// Dropping it changes nothing: maps and links stay pinned, and the next [`Datapath::open`] adopts them.
#[derive(Debug)]
pub struct Datapath {
    config: Config,
    namespace: Namespace,
    pins: Pins,
    maps: Maps,
    flows: TypedMap<FlowKey, FlowValue>,
    drops: PerCpuMap<u32, u64>,
    pod_links: GuardedLinks,
    link_hook: Option<LinkHook>,
    infra: InfraMaps,
    state: State,
    /// True if the last [`Self::sync`] and every change since have been carried out.
    in_sync: bool,
    /// The loaded program, which uses the maps above.
    program: Object,
    /// True if the program is attached only after the maps are filled, because an older program enforces with other
    /// maps until then.
    pending: bool,
    pinned: PinnedObjects,
}

/// Damage to the enforcement that [`Datapath::repair`] found and repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Links that were detached. Packets of their hook and family passed without a check.
    pub detached: usize,
    /// Pins that were removed, of links and of maps.
    pub unpinned: usize,
    /// The pin directory, or the file system it is on, was gone.
    pub directory: bool,
}

impl Datapath {
    /// Loads the program for the network namespace of the calling thread, or adopts what is pinned. Later calls may
    /// come from any network namespace.
    ///
    /// An earlier policy stays in force until [`Self::sync`]. Without an earlier policy all packets pass until then.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the kernel lacks a feature, [`Error::Busy`] if another process has the datapath open.
    pub fn open(config: Config) -> Result<Self, Error> {
        log_at_debug();
        let found = features::probe();
        if !found.is_supported() {
            return Err(Error::Unsupported(found.missing));
        }
        let pins = Pins::open(&config.pin_dir, Version::new(&config.sizes))?;
        let namespace = Namespace::current()?;
        check_namespace(&pins, namespace.inode)?;
        pins.set_incomplete_aside()?;
        conntrack::keep_active()?;
        let program = if pins.maps().exists() {
            load(&[PROGRAM], &config.sizes, Some(&pins.maps()))?
        } else {
            let object = load(&[PROGRAM], &config.sizes, None)?;
            pin_maps(&pins, &object)?;
            object
        };
        let mut datapath = Self {
            pinned: PinnedObjects::open(&pins)?,
            maps: Maps::open(&pins.maps())?,
            flows: TypedMap::open(&pins.maps(), "flows")?,
            drops: PerCpuMap::open(&pins.maps(), "drops")?,
            pod_links: GuardedLinks::open(&pins.maps())?,
            link_hook: config.link_hook.or(found.link_hook),
            infra: InfraMaps::open(&pins.maps())?,
            config,
            namespace,
            pins,
            state: State::default(),
            in_sync: false,
            program,
            pending: false,
        };
        datapath.configure()?;
        datapath.attach()?;
        Ok(datapath)
    }

    fn configure(&self) -> Result<(), Error> {
        let set = |flags: &mut u32, flag: u32, on: bool| *flags = if on { *flags | flag } else { *flags & !flag };
        let changed = self.maps.configure(|config| {
            config.netns = self.namespace.inode;
            set(&mut config.flags, flags::DRAIN, self.config.connections == Connections::Drain);
            set(&mut config.flags, flags::NOTIFY_ALLOWED, self.config.report_allowed);
            config.ephemeral = [*self.config.ephemeral_ports.start(), *self.config.ephemeral_ports.end()];
        });
        changed.map_err(|error| Error::Bpf {
            what: "configure the BPF program".into(),
            error: libbpf_rs::Error::from(std::io::Error::other(error.to_string())),
        })
    }

    /// Attaches the program, if it is not attached. While an older program enforces with other maps, only notes that it
    /// has to be attached later.
    fn attach(&mut self) -> Result<(), Error> {
        if links::are_attached(&self.pins) {
            links::remove_others(&self.pins)?;
        } else if self.pins.other_links()?.1 {
            links::replace(&self.pins, &self.program)?;
        } else {
            self.pending = true;
            return Ok(());
        }
        self.pinned = PinnedObjects::open(&self.pins)?;
        self.repair().map(drop)
    }

    /// Checks that the program is still attached and that links and maps are pinned, and repairs both. This process
    /// holds links and maps open, so a missing pin has no effect while it lives. Without pins, enforcement would end
    /// with the process.
    ///
    /// # Errors
    /// If damage cannot be repaired from here. The next call tries again.
    pub fn repair(&mut self) -> Result<Repairs, Error> {
        let mut repairs = Repairs::default();
        if !self.pending {
            repairs.detached = self.namespace.enter(|| self.pinned.attach(&self.program))?;
        }
        repairs.directory = self.pins.restore()?;
        // A link that was attached anew had no pin before, which is no damage of its own.
        repairs.unpinned = self.pinned.pin()?.saturating_sub(repairs.detached);
        Ok(repairs)
    }

    /// Has to be called before a process ends without ending enforcement. If pins are missing and cannot be restored,
    /// the netfilter programs end with the process, but the programs at pod links stay. These then drop all packets of
    /// pods until another process guards the links. Returns the work at links that this takes.
    ///
    /// # Errors
    /// If the maps cannot be written.
    pub fn close_before_exit(&mut self) -> Result<Option<GuardWork>, ApplyError> {
        let Err(error) = self.repair() else { return Ok(None) };
        tracing::error!(%error, "pins cannot be restored, so enforcement ends with this process: pod links are closed \
            until the next one");
        // On routed links a packet with the pod's own address passes before the state of the link is read.
        self.set_interfaces([])?;
        self.guard_links(&self.pod_links.closed())
    }

    /// Makes the kernel enforce exactly this plan, whatever it enforces now. Only the difference is written, in an
    /// order in which every pod has one whole policy at every instant.
    ///
    /// # Errors
    /// [`ApplyError::NoCapacity`] if the plan does not fit. The earlier policy stays in force, and [`Self::is_in_sync`]
    /// is false.
    pub fn sync(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        self.in_sync = false;
        self.state = self.maps.read()?;
        // Packets may still read entries that an earlier process removed a moment ago.
        grace_period();
        self.transition_to(plan)?;
        if self.pending {
            self.namespace.enter(|| links::replace(&self.pins, &self.program))?;
            self.pinned = PinnedObjects::open(&self.pins)?;
            self.pending = false;
        }
        self.in_sync = true;
        Ok(())
    }

    /// The epoch rises even if nothing differs: the process that wrote the maps may have died before it raised the
    /// epoch.
    fn transition_to(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        let steps = transition(&self.state, plan);
        match self.apply_steps(&steps.smooth) {
            Err(error @ ApplyError::NoCapacity { .. }) if steps.denying.is_some() => {
                tracing::warn!(%error, "no room for transitional entries: for a moment new packets may be denied");
                // Some chunks may have been applied already.
                let rest = transition(&self.state, plan);
                self.apply_steps(&rest.denying.unwrap_or(rest.smooth))
            }
            result => result,
        }
    }

    fn apply_steps(&mut self, steps: &[Delta]) -> Result<(), ApplyError> {
        steps.iter().try_for_each(|step| self.maps.apply(&mut self.state, step))
    }

    /// Carries out a change of the plan that was synced. The change is in force when this returns.
    ///
    /// # Errors
    /// After any error [`Self::is_in_sync`] is false, and the whole plan has to be synced before the next change.
    /// [`ApplyError::NoCapacity`] if the change does not fit; the earlier policy stays in force.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), ApplyError> {
        if !self.in_sync {
            return Err(ApplyError::OutOfSync);
        }
        if delta.is_empty() {
            return Ok(());
        }
        self.in_sync = false;
        self.maps.apply(&mut self.state, delta)?;
        self.in_sync = true;
        Ok(())
    }

    /// True if the kernel enforces the plan of the last [`Self::sync`] and all changes since.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// Sets the interface on which the packets of each local pod arrive. The call replaces all earlier ones. Addresses
    /// without an interface are not checked for spoofing. An endpoint that is removed takes its interface along, so a
    /// new pod needs another call.
    pub fn set_interfaces(
        &mut self,
        addresses: impl IntoIterator<Item = (IpAddr, Interface)>,
    ) -> Result<(), ApplyError> {
        let interfaces = addresses.into_iter().map(|(address, interface)| (address.to_canonical(), interface));
        self.maps.set_interfaces(&mut self.state, interfaces.collect())
    }

    /// Creates the worker that carries out the work of [`Self::guard_links`], possibly on another thread. There has to
    /// be exactly one.
    pub fn link_guard(&self) -> Result<LinkGuard, Error> {
        Ok(LinkGuard::new(self.namespace.again()?, self.link_hook, (self.pins.maps(), self.config.sizes)))
    }

    /// Sets the pod links to guard, by interface index of the node's end. The call replaces all earlier ones; other
    /// links are no longer guarded. Returns the work at links, if any: the programs there are attached or replaced
    /// without a gap. The setting is in force after [`Self::complete_guard_work`] has received the report of that work.
    ///
    /// [`Self::set_interfaces`] has to be called before. A pod that has a guarded link and no interface cannot send.
    ///
    /// # Errors
    /// If the maps cannot be written.
    pub fn guard_links(&mut self, links: &BTreeMap<u32, PodLink>) -> Result<Option<GuardWork>, ApplyError> {
        let work = self.pod_links.set(links)?;
        if work.is_empty() {
            let changed = self.pod_links.take_changed();
            self.reevaluate_connections(changed)?;
            return Ok(None);
        }
        Ok(Some(work))
    }

    /// Records a report of finished work and returns the status of all links. A link that cannot be guarded is no
    /// error.
    ///
    /// # Errors
    /// If the maps cannot be written. If the work could not be done at all, such as loading the programs; then
    /// [`Self::guard_links`] has to be called again.
    pub fn complete_guard_work(&mut self, report: GuardReport) -> Result<GuardStatus, ApplyError> {
        let guarded = self.pod_links.complete(report);
        let changed = self.pod_links.take_changed();
        self.reevaluate_connections(changed)?;
        guarded
    }

    /// Carries out all work at links, for callers that have no other thread for it.
    ///
    /// # Errors
    /// Same as [`Self::complete_guard_work`].
    pub fn run_guard(&mut self, guard: &mut LinkGuard) -> Result<GuardStatus, ApplyError> {
        let mut restored = BTreeSet::new();
        while let Some(report) = guard.run_next() {
            restored.extend(self.complete_guard_work(report)?.restored);
        }
        Ok(self.pod_links.guarded(restored))
    }

    /// Attachment point of the programs at pod links. None: this kernel has none.
    pub fn link_hook(&self) -> Option<LinkHook> {
        self.link_hook
    }

    /// Sets the ports that clients are given; see [`Config::ephemeral_ports`].
    pub fn set_ephemeral_ports(&mut self, ports: RangeInclusive<u16>) -> Result<(), ApplyError> {
        if self.config.ephemeral_ports == ports {
            return Ok(());
        }
        self.maps.configure(|config| config.ephemeral = [*ports.start(), *ports.end()])?;
        self.config.ephemeral_ports = ports;
        Ok(())
    }

    /// Sets the end points of tunnels between nodes: protocol and destination port. Port 0 stands for a protocol
    /// without ports (IP in IP: 4, IPv6 in IPv4: 41, GRE: 47). Packets of pods to such an end point of a node are
    /// dropped, and so are packets to this node under the address of a pod. The call replaces all earlier ones.
    pub fn set_tunnels(&mut self, ends: &BTreeSet<(u8, u16)>) -> Result<(), ApplyError> {
        let changed = self.infra.set_tunnels(ends)?;
        self.reevaluate_connections(changed)
    }

    /// Sets the addresses of all nodes of the cluster and of all Services (cluster, external, load balancer). The call
    /// replaces all earlier ones; only the difference is written.
    ///
    /// # Errors
    /// [`ApplyError::NoCapacity`] if they are too many; the earlier ones then stay.
    pub fn set_infra_addresses(
        &mut self,
        nodes: impl IntoIterator<Item = IpAddr>,
        services: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), ApplyError> {
        let changed = self.infra.set_addresses(nodes, services)?;
        self.reevaluate_connections(changed)?;
        self.maps.set_flag(flags::HAS_INFRA, true)
    }

    /// Sets the pod CIDRs of all nodes (`spec.podCIDRs`). An address inside that is not a node's belongs to a pod, and
    /// pods are no routers: ICMP errors from there about other connections are checked like ICMP from a pod. The call
    /// replaces all earlier ones.
    ///
    /// # Errors
    /// [`ApplyError::NoCapacity`] if they are too many; the earlier ones then stay.
    pub fn set_pod_cidrs(&mut self, ranges: impl IntoIterator<Item = IpNet>) -> Result<(), ApplyError> {
        let changed = self.infra.set_pod_cidrs(ranges)?;
        self.reevaluate_connections(changed)
    }

    /// Raises the epoch if the input of verdicts has changed, so that every open connection is checked anew.
    fn reevaluate_connections(&self, changed: bool) -> Result<(), ApplyError> {
        if changed { self.maps.configure(|_| ()) } else { Ok(()) }
    }

    /// Returns a reader of the events that the kernel reports.
    pub fn events(&self) -> Result<Events, Error> {
        Events::open(&self.pins.maps())
    }

    /// The number of decisions of each rule id.
    pub fn rule_counters(&self) -> Result<HashMap<RuleId, RuleCounter>, ApplyError> {
        let counter = |key: u64| Ok((RuleId(key), self.maps.counters.get(&key)?.into_iter().collect()));
        self.maps.counters.keys().into_iter().map(counter).collect()
    }

    /// Packets dropped, by reason.
    pub fn drop_counters(&self) -> Result<DropCounters, ApplyError> {
        let mut sums = [0; 9];
        for (code, sum) in (0u32..).zip(&mut sums) {
            *sum = self.drops.get(&code)?.iter().sum::<u64>();
        }
        Ok(DropCounters::new(|code| sums.get(usize::from(code)).copied().unwrap_or(0)))
    }

    /// Accepted connections the flow table remembers, in no order.
    pub fn flows(&self) -> Result<Vec<Flow>, ApplyError> {
        Ok(self.flows.dump()?.into_iter().map(Flow::from).collect())
    }

    /// The use of each policy map.
    pub fn map_usage(&self) -> Vec<MapUsage> {
        let state = &self.state;
        let prefixes = state.ipcache.keys().filter(|net| !is_address(**net)).count();
        let port_ranges = self.maps.port_ranges.capacity();
        [
            ("endpoints", state.endpoints.len(), self.maps.endpoints.capacity()),
            ("ipcache", state.ipcache.len() - prefixes, self.maps.ipcache.capacity()),
            ("ipcache_cidrs", prefixes, self.maps.ipcache_cidrs.capacity()),
            ("policy", state.policy.len(), self.maps.policy.capacity()),
            ("port_ranges", port_ranges - state.allocator.available().min(port_ranges), port_ranges),
            ("rule_counters", state.rules.len(), self.maps.counters.capacity()),
        ]
        .map(|(map, used, size)| MapUsage { map, used, size })
        .into()
    }

    /// The features of this kernel.
    pub fn features(&self) -> Features {
        features::probe()
    }

    /// Names of the hooks and the priorities the program is attached at.
    pub fn attachments(&self) -> Vec<(&'static str, i32)> {
        links::priorities(&self.pins)
    }

    /// Loads the program a second time, beside the attached one, for test runs.
    pub fn test_run(&self) -> Result<TestRun, Error> {
        TestRun::load(&self.config.sizes, &self.pins.maps())
    }

    /// Ends enforcement and removes everything that Ringfence made in the kernel.
    pub fn detach(self) -> Result<(), Error> {
        let Self { namespace, pins, maps, flows, drops, pod_links, infra, pinned, .. } = self;
        drop((maps, flows, drops, pod_links, infra));
        pins.remove_all()?;
        pinned.detach();
        namespace.enter(|| {
            sweep(|_| false)?;
            conntrack::release()
        })
    }
}

/// Ends enforcement that is pinned in a directory and removes everything that Ringfence made in the kernel, for any
/// version and network namespace. If the calling thread is in that namespace, the rule that keeps connection tracking
/// active is removed too. So are the programs at pod links, which need no pins. If nothing is there, this is no error.
pub fn remove(pin_dir: &Path) -> Result<(), Error> {
    let own = Namespace::current()?.inode;
    let mut enforced = own;
    if pin_dir.exists() {
        let pins = Pins::open(pin_dir, Version { layout: 0, program: 0 })?;
        enforced = pinned_namespace(&pins)?.map_or(own, |(_, inode)| inode);
        pins.remove_all()?;
    }
    // In another namespace the table and the links belong to another datapath.
    if enforced != own {
        return Ok(());
    }
    sweep(|_| false)?;
    conntrack::release()
}

fn check_namespace(pins: &Pins, own: u64) -> Result<(), Error> {
    match pinned_namespace(pins)? {
        Some((path, pinned)) if pinned != own => Err(Error::OtherNamespace { path, pinned, own }),
        _ => Ok(()),
    }
}

/// Returns the directory of the pinned maps and the network namespace they are for, if both are known.
fn pinned_namespace(pins: &Pins) -> Result<Option<(PathBuf, u64)>, Error> {
    let Some(maps) = pins.any_maps()? else { return Ok(None) };
    // If this pin has been removed, the namespace is unknown.
    let Ok(config) = TypedMap::<u32, ConfigValue>::open(&maps, "config") else { return Ok(None) };
    let pinned = config.get(&0).ok().flatten().map_or(0, |config| config.netns);
    Ok((pinned != 0).then_some((maps, pinned)))
}

fn pin_maps(pins: &Pins, object: &Object) -> Result<(), Error> {
    stage(&pins.maps(), |staging| {
        let mut pinned = 0;
        for map in object.maps().filter(|map| MAPS.iter().any(|name| map.name() == *name)) {
            let path = staging.join(map.name());
            let what = format!("pin a BPF map at {}", path.display());
            let mut handle = libbpf_rs::MapHandle::try_from(&map).map_err(Error::bpf(what.clone()))?;
            handle.pin(&path).map_err(Error::bpf(what))?;
            pinned += 1;
        }
        debug_assert_eq!(pinned, MAPS.len(), "every map is in the object");
        Ok(())
    })
}

const _: () = assert!(size_of::<RuleCounterValue>() == 16, "one counter a processor");
