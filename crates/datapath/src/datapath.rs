//! The datapath of one node: opens, syncs, changes and removes what the kernel enforces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use libbpf_rs::{MapCore as _, Object};
use ringfence_engine::{CauseId, Delta, Plan};

use crate::abi::{ConfigValue, CounterValue, FlowKey, FlowValue, flags};
use crate::apply::Maps;
use crate::doors::{Doors, sweep};
use crate::kept::Kept;
use crate::kernel::grace_period;
use crate::known::Known;
use crate::namespace::Namespace;
use crate::object::{MAPS, PROGRAM, Version, load, log_quietly};
use crate::pins::{Pins, stage};
use crate::state::{State, is_address};
use crate::table::{PerCpu, Table};
use crate::transition::transition;
use crate::{
    ApplyError, Capacity, Config, Connections, Counter, Done, Doorkeeper, DropCounters, Errand, Error, Events,
    Features, Flow, Guarded, Interface, LinkHook, Port, Trial, conntrack, features, links,
};

/// What the kernel enforces in one network namespace.
///
/// Dropping it changes nothing: maps and links stay pinned, and the next [`Datapath::open`] adopts them.
#[derive(Debug)]
pub struct Datapath {
    config: Config,
    namespace: Namespace,
    pins: Pins,
    maps: Maps,
    flows: Table<FlowKey, FlowValue>,
    drops: PerCpu<u32, u64>,
    doors: Doors,
    link_hook: Option<LinkHook>,
    known: Known,
    state: State,
    /// The whole plan has been synced, and every change since was carried out.
    in_step: bool,
    /// The program on our maps.
    program: Object,
    /// It is to be attached once these are filled: an old one enforces with others.
    pending: bool,
    kept: Kept,
}

/// What others undid of the enforcement, and [`Datapath::mend`] put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Links that were detached: packets of their hook and family passed unjudged.
    pub detached: usize,
    /// Pins that were removed, of links and of maps.
    pub unpinned: usize,
    /// The pin directory, or the file system it is on, was gone.
    pub directory: bool,
}

impl Datapath {
    /// Loads the program for the network namespace of the calling thread, or adopts what is pinned. From then on the
    /// calling thread's namespace does not matter.
    ///
    /// What was enforced before is enforced until [`Self::sync`]. Where nothing was, everything passes until then.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the kernel cannot, [`Error::Busy`] if another process has it open.
    pub fn open(config: Config) -> Result<Self, Error> {
        log_quietly();
        let found = features::probe();
        if !found.is_supported() {
            return Err(Error::Unsupported(found.missing));
        }
        let pins = Pins::open(&config.pin_dir, Version::new(&config.sizes))?;
        let namespace = Namespace::current()?;
        check_namespace(&pins, namespace.inode)?;
        pins.set_remains_aside()?;
        conntrack::keep_active()?;
        let program = if pins.maps().exists() {
            load(&[PROGRAM], &config.sizes, Some(&pins.maps()))?
        } else {
            let object = load(&[PROGRAM], &config.sizes, None)?;
            pin_maps(&pins, &object)?;
            object
        };
        let mut datapath = Self {
            kept: Kept::open(&pins)?,
            maps: Maps::open(&pins.maps())?,
            flows: Table::open(&pins.maps(), "flows")?,
            drops: PerCpu::open(&pins.maps(), "drops")?,
            doors: Doors::open(&pins.maps())?,
            link_hook: config.link_hook.or(found.link_hook),
            known: Known::open(&pins.maps())?,
            config,
            namespace,
            pins,
            state: State::default(),
            in_step: false,
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
            set(&mut config.flags, flags::REPORT_ALLOWED, self.config.report_allowed);
            config.ephemeral = [*self.config.ephemeral_ports.start(), *self.config.ephemeral_ports.end()];
        });
        changed.map_err(|error| Error::Bpf {
            what: "configure the BPF program".into(),
            error: libbpf_rs::Error::from(std::io::Error::other(error.to_string())),
        })
    }

    /// Attaches the program, if it is not; at once unless an old one enforces with other maps.
    fn attach(&mut self) -> Result<(), Error> {
        if links::are_attached(&self.pins) {
            links::remove_others(&self.pins)?;
        } else if self.pins.other_links()?.1 {
            links::replace(&self.pins, &self.program)?;
        } else {
            self.pending = true;
            return Ok(());
        }
        self.kept = Kept::open(&self.pins)?;
        self.mend().map(drop)
    }

    /// Looks whether what enforces is still attached and pinned, and sees to it that it is. Links and maps are held
    /// open, so nothing passes for want of a pin while this process lives; without pins it would when the process ends.
    ///
    /// # Errors
    /// What cannot be put right from here: the next call tries again.
    pub fn mend(&mut self) -> Result<Undone, Error> {
        let mut undone = Undone::default();
        if !self.pending {
            undone.detached = self.namespace.enter(|| self.kept.attach(&self.program))?;
        }
        undone.directory = self.pins.restore()?;
        // Links that were attached anew have not been pinned yet.
        undone.unpinned = self.kept.pin()?.saturating_sub(undone.detached);
        Ok(undone)
    }

    /// To be called before a process ends that does not end enforcement. Where pins are gone and cannot be put back,
    /// what judges packets ends with the process, but not the programs at links: they let nothing through any more
    /// until another process guards these links. Gives what is to be done for it, if it came to that.
    ///
    /// # Errors
    /// If the maps cannot be written.
    pub fn leave(&mut self) -> Result<Option<Errand>, ApplyError> {
        let Err(error) = self.mend() else { return Ok(None) };
        tracing::error!(%error, "what judges packets ends with this process: links of pods are closed until the next \
            one");
        // Where packets are routed to pods, who has his own address passes without a look at the door.
        self.set_interfaces([])?;
        self.guard(&self.doors.closed())
    }

    /// Makes the kernel enforce exactly this plan, whatever it enforces now. Only the difference is written, in an
    /// order that keeps every pod on one whole policy at every instant.
    ///
    /// # Errors
    /// [`ApplyError::NoCapacity`]: the policy of before stays, and the datapath is out of step.
    pub fn sync(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        self.in_step = false;
        self.state = self.maps.read()?;
        // What a process before us freed a moment ago may still be read.
        grace_period();
        self.carry_out(plan)?;
        if self.pending {
            self.namespace.enter(|| links::replace(&self.pins, &self.program))?;
            self.kept = Kept::open(&self.pins)?;
            self.pending = false;
        }
        self.in_step = true;
        Ok(())
    }

    /// Also where nothing differs the epoch rises: whoever wrote it may have died before telling the flow table.
    fn carry_out(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        let smoothly = transition(&self.state, plan);
        match self.carry_out_steps(&smoothly.smooth) {
            Err(error @ ApplyError::NoCapacity { .. }) if smoothly.denying.is_some() => {
                tracing::warn!(%error, "no room for a smooth transition: for a moment new packets may be denied");
                // Some portions may be in place already.
                let rest = transition(&self.state, plan);
                self.carry_out_steps(&rest.denying.unwrap_or(rest.smooth))
            }
            done => done,
        }
    }

    fn carry_out_steps(&mut self, steps: &[Delta]) -> Result<(), ApplyError> {
        steps.iter().try_for_each(|step| self.maps.apply(&mut self.state, step))
    }

    /// Carries out a change of the plan that was synced. It is enforced when this returns.
    ///
    /// # Errors
    /// After any, [`Self::is_in_step`] is false and the whole plan has to be synced before the next change:
    /// [`ApplyError::NoCapacity`] if it does not fit, and the policy of before stays.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), ApplyError> {
        if !self.in_step {
            return Err(ApplyError::OutOfStep);
        }
        if delta.is_empty() {
            return Ok(());
        }
        self.in_step = false;
        self.maps.apply(&mut self.state, delta)?;
        self.in_step = true;
        Ok(())
    }

    /// Whether the kernel enforces the plan of the last [`Self::sync`] with all changes since.
    pub fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// Tells on which interface the packets of each local pod arrive. Replaces what was told before; addresses that are
    /// not in it are not checked for spoofing. To be told again when a pod comes: an endpoint that goes takes its
    /// interface along.
    pub fn set_interfaces(
        &mut self,
        addresses: impl IntoIterator<Item = (IpAddr, Interface)>,
    ) -> Result<(), ApplyError> {
        let interfaces = addresses.into_iter().map(|(address, interface)| (address.to_canonical(), interface));
        self.maps.set_interfaces(&mut self.state, interfaces.collect())
    }

    /// Who carries out what [`Self::guard`] says. There has to be one only, which may be on another thread.
    pub fn doorkeeper(&self) -> Result<Doorkeeper, Error> {
        Ok(Doorkeeper::new(self.namespace.again()?, self.link_hook, (self.pins.maps(), self.config.sizes)))
    }

    /// Tells the node's end of every pod's link, by index. What was told before is replaced, and links that are not in
    /// it any more are let go. Gives what is to be done there, if anything: programs that settle who sends are put
    /// there, in place of those of an earlier agent, without a gap. What was told holds when that is done, and
    /// [`Self::settle`] knows of it.
    ///
    /// To be called after [`Self::set_interfaces`]: a pod that is known here but not there cannot send.
    ///
    /// # Errors
    /// If the maps cannot be written.
    pub fn guard(&mut self, ports: &BTreeMap<u32, Port>) -> Result<Option<Errand>, ApplyError> {
        let errand = self.doors.set(ports)?;
        if errand.is_empty() {
            let changed = self.doors.take_changed();
            self.decide_again(changed)?;
            return Ok(None);
        }
        Ok(Some(errand))
    }

    /// Takes in what was done at links. Says how all of them stand: a link that cannot be guarded is no error.
    ///
    /// # Errors
    /// If nothing could be done at all, such as loading the programs: then [`Self::guard`] has to be called again; or
    /// if the maps cannot be written.
    pub fn settle(&mut self, done: Done) -> Result<Guarded, ApplyError> {
        let guarded = self.doors.settle(done);
        let changed = self.doors.take_changed();
        self.decide_again(changed)?;
        guarded
    }

    /// Does all that is to be done at links, for who has no other thread for it.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub fn work(&mut self, keeper: &mut Doorkeeper) -> Result<Guarded, ApplyError> {
        let mut restored = BTreeSet::new();
        while let Some(done) = keeper.work() {
            restored.extend(self.settle(done)?.restored);
        }
        Ok(self.doors.guarded(restored))
    }

    /// Where the programs at pods' links stand; none: this kernel has no place for them.
    pub fn link_hook(&self) -> Option<LinkHook> {
        self.link_hook
    }

    /// Tells which ports clients are given from now on; see [`Config::ephemeral_ports`].
    pub fn set_ephemeral_ports(&mut self, ports: RangeInclusive<u16>) -> Result<(), ApplyError> {
        if self.config.ephemeral_ports == ports {
            return Ok(());
        }
        self.maps.configure(|config| config.ephemeral = [*ports.start(), *ports.end()])?;
        self.config.ephemeral_ports = ports;
        Ok(())
    }

    /// Tells where tunnels of nodes end: protocol and destination port, port 0 standing for a protocol without ports
    /// (IP in IP: 4, IPv6 in IPv4: 41, GRE: 47). What pods send there to nodes is dropped, and what comes for this node
    /// there under the address of a pod. Replaces what was told before.
    pub fn set_tunnels(&mut self, ends: &BTreeSet<(u8, u16)>) -> Result<(), ApplyError> {
        let changed = self.known.set_tunnels(ends)?;
        self.decide_again(changed)
    }

    /// Tells the addresses of all nodes of the cluster and of all Services (cluster, external, load balancer). Replaces
    /// what was told before; only the difference is written.
    ///
    /// # Errors
    /// [`ApplyError::NoCapacity`] if they are too many; then those of before stay.
    pub fn set_known_addresses(
        &mut self,
        nodes: impl IntoIterator<Item = IpAddr>,
        services: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), ApplyError> {
        let changed = self.known.set_addresses(nodes, services)?;
        self.decide_again(changed)?;
        self.maps.set_flag(flags::KNOWN_TOLD, true)
    }

    /// Tells the ranges of all nodes' pods (`spec.podCIDRs`). Who has an address in them, and is not known as a node,
    /// is a pod and no router: errors it sends about others' connections count as ICMP of a pod. Replaces what was told
    /// before.
    ///
    /// # Errors
    /// [`ApplyError::NoCapacity`] if they are too many; then those of before stay.
    pub fn set_pod_ranges(&mut self, ranges: impl IntoIterator<Item = IpNet>) -> Result<(), ApplyError> {
        let changed = self.known.set_pod_ranges(ranges)?;
        self.decide_again(changed)
    }

    /// Has every open connection judged anew, if something that verdicts go by has changed.
    fn decide_again(&self, changed: bool) -> Result<(), ApplyError> {
        if changed { self.maps.configure(|_| ()) } else { Ok(()) }
    }

    /// A reader of the kernel's reports.
    pub fn events(&self) -> Result<Events, Error> {
        Events::open(&self.pins.maps())
    }

    /// How often each cause decided.
    pub fn rule_counters(&self) -> Result<HashMap<CauseId, Counter>, ApplyError> {
        let counter = |key: u64| Ok((CauseId(key), self.maps.counters.get(&key)?.into_iter().collect()));
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

    /// How full the maps of the policy are.
    pub fn capacity(&self) -> Vec<Capacity> {
        let state = &self.state;
        let prefixes = state.peers.keys().filter(|net| !is_address(**net)).count();
        let breakpoints = self.maps.breakpoints.capacity();
        [
            ("endpoints", state.endpoints.len(), self.maps.endpoints.capacity()),
            ("peers", state.peers.len() - prefixes, self.maps.peers.capacity()),
            ("prefixes", prefixes, self.maps.prefixes.capacity()),
            ("entries", state.entries.len(), self.maps.entries.capacity()),
            ("breakpoints", breakpoints - state.slices.available().min(breakpoints), breakpoints),
            ("causes", state.causes.len(), self.maps.counters.capacity()),
        ]
        .map(|(map, used, size)| Capacity { map, used, size })
        .into()
    }

    /// What this kernel can do.
    pub fn features(&self) -> Features {
        features::probe()
    }

    /// Names of the hooks and the priorities the program is attached at.
    pub fn attachments(&self) -> Vec<(&'static str, i32)> {
        links::priorities(&self.pins)
    }

    /// Loads the program beside the attached one, to ask it about packets.
    pub fn trial(&self) -> Result<Trial, Error> {
        Trial::load(&self.config.sizes, &self.pins.maps())
    }

    /// Ends enforcement and removes every trace of it.
    pub fn detach(self) -> Result<(), Error> {
        let Self { namespace, pins, maps, flows, drops, doors, known, kept, .. } = self;
        drop((maps, flows, drops, doors, known));
        pins.remove_all()?;
        kept.detach();
        namespace.enter(|| {
            sweep(|_| false)?;
            conntrack::release()
        })
    }
}

/// Ends what is pinned in a directory and removes every trace of it, whichever version and network namespace it is
/// of. If the calling thread is in that namespace, what keeps connection tracking active there goes too, and so do the
/// programs at pods' links, which need no pins. No error if nothing is there.
pub fn remove(pin_dir: &Path) -> Result<(), Error> {
    let own = Namespace::current()?.inode;
    let mut enforced = own;
    if pin_dir.exists() {
        let pins = Pins::open(pin_dir, Version { layout: 0, program: 0 })?;
        enforced = pinned_namespace(&pins)?.map_or(own, |(_, inode)| inode);
        pins.remove_all()?;
    }
    // In another namespace the table and the links are another's.
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

/// The maps that are pinned, if any, and the network namespace they are for, if that is known.
fn pinned_namespace(pins: &Pins) -> Result<Option<(PathBuf, u64)>, Error> {
    let Some(maps) = pins.any_maps()? else { return Ok(None) };
    // Somebody may have removed this pin: then nothing is known.
    let Ok(config) = Table::<u32, ConfigValue>::open(&maps, "config") else { return Ok(None) };
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

const _: () = assert!(size_of::<CounterValue>() == 16, "one counter a processor");
