//! Carries changes of a plan into the kernel's maps.
//!
//! The order is that of [`Delta`]: what is new is complete before anything refers to it, one write swaps the whole
//! policy of an endpoint, what is old goes when nothing refers to it any more. The epoch rises when verdicts can
//! no longer change, so that a flow decided in between is decided again.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_engine::{Block, CauseId, ClassId, Delta, EntryKey, PeerClass, RulesetId};

use crate::abi::{
    Address, BreakpointValue, ConfigValue, CounterValue, EndpointValue, EntryKeyRaw, EntryValue, InterfaceValue,
    PeerValue, PrefixKey, PrefixValue, flags,
};
use crate::kernel::grace_period;
use crate::portions::portions;
use crate::slices::{Slice, Slices};
use crate::state::{Rulesets, State, is_address};
use crate::table::{PerCpu, Table};
use crate::{ApplyError, Error, Interface};

/// Stands for what the kernel holds and makes no sense: no plan has this id, which is one of the reserved ones.
const UNSOUND: u64 = 15;

/// The maps that hold policy.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) endpoints: Table<Address, EndpointValue>,
    pub(crate) peers: Table<Address, PeerValue>,
    pub(crate) prefixes: Table<PrefixKey, PrefixValue>,
    pub(crate) entries: Table<EntryKeyRaw, EntryValue>,
    pub(crate) breakpoints: Table<u32, BreakpointValue>,
    pub(crate) interfaces: Table<u32, InterfaceValue>,
    pub(crate) gates: Table<PrefixKey, u64>,
    pub(crate) config: Table<u32, ConfigValue>,
    pub(crate) counters: PerCpu<u64, CounterValue>,
}

impl Maps {
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self {
            endpoints: Table::open(directory, "endpoints")?,
            peers: Table::open(directory, "peers")?,
            prefixes: Table::open(directory, "prefixes")?,
            entries: Table::open(directory, "entries")?,
            breakpoints: Table::open(directory, "breakpoints")?,
            interfaces: Table::open(directory, "interfaces")?,
            gates: Table::open(directory, "gates")?,
            config: Table::open(directory, "config")?,
            counters: PerCpu::open(directory, "counters")?,
        })
    }

    pub(crate) fn config(&self) -> Result<ConfigValue, ApplyError> {
        Ok(self.config.get(&0)?.unwrap_or(ConfigValue { epoch: 0, netns: 0, flags: 0, ephemeral: [0; 2] }))
    }

    /// Changes the configuration; what is decided under the old one is decided again.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut ConfigValue)) -> Result<(), ApplyError> {
        let mut config = self.config()?;
        change(&mut config);
        config.epoch += 1;
        self.config.put(&0, &config)
    }

    /// Turns a flag over. First it alone, then the epoch rises: who read it as it was sees that afterwards.
    pub(crate) fn set_flag(&self, flag: u32, on: bool) -> Result<(), ApplyError> {
        let mut config = self.config()?;
        let flags = if on { config.flags | flag } else { config.flags & !flag };
        if flags == config.flags {
            return Ok(());
        }
        config.flags = flags;
        self.config.put(&0, &config)?;
        self.configure(|_| ())
    }

    /// Reads everything. What makes no sense is taken for something that no plan has, so that it is counted, and goes
    /// or is written anew.
    pub(crate) fn read(&self) -> Result<State, ApplyError> {
        let size = u32::try_from(self.breakpoints.capacity()).unwrap_or(u32::MAX);
        let mut state = State { slices: Slices::new(size), ..State::default() };
        for (address, value) in self.endpoints.dump()? {
            if value != EndpointValue::new(address, value.ingress, value.egress, value.interface, value.bridge) {
                let unsound = RulesetId(UNSOUND);
                state.endpoints.insert(address.ip(), Rulesets { ingress: unsound, egress: unsound });
                continue;
            }
            let rulesets = Rulesets { ingress: RulesetId(value.ingress), egress: RulesetId(value.egress) };
            state.endpoints.insert(address.ip(), rulesets);
            if value.interface != 0 {
                let bridge = (value.bridge != 0).then_some(value.bridge);
                let interface = Interface { index: value.interface, bridge };
                state.interfaces.insert(address.ip(), interface);
            }
        }
        for (address, value) in self.peers.dump()? {
            let known = PeerClass { established: ClassId(value.established), ..class(value.class, value.fallback) };
            let sound = value == PeerValue::new(address, known);
            state.peers.insert(address.ip().into(), if sound { known } else { class(UNSOUND, UNSOUND) });
        }
        for (key, value) in self.prefixes.dump()? {
            match key.net() {
                Some(net) => _ = state.peers.insert(net, class(value.class, value.fallback)),
                // No packet finds it.
                None => self.prefixes.delete(&key)?,
            }
        }
        for (key, _) in self.gates.dump()? {
            match key.net() {
                Some(net) => state.gates.push(net),
                None => self.gates.delete(&key)?,
            }
        }
        state.causes = self.counters.keys().into_iter().map(CauseId).collect();
        state.owners = self.interfaces.dump()?.into_iter().collect();
        self.read_entries(&mut state)?;
        Ok(state)
    }

    fn read_entries(&self, state: &mut State) -> Result<(), ApplyError> {
        let entries = self.entries.dump()?;
        let is_sound =
            |(raw, value): &(EntryKeyRaw, EntryValue)| *value == EntryValue::new(*raw, value.start, value.count);
        let slices = entries.iter().filter(|entry| is_sound(entry));
        let slices = slices.map(|(_, value)| value.start as usize + value.count as usize);
        let points = self.breakpoints.dump_first(slices.max().unwrap_or(0))?;
        let unsound = Arc::new(Block::constant(false, CauseId(UNSOUND)));
        for (raw, value) in &entries {
            let slice = Slice { start: value.start, count: value.count };
            let block = is_sound(&(*raw, *value)).then(|| read_block(&points, slice)).flatten();
            let block = block.and_then(|block| state.slices.adopt(block, slice));
            let key = EntryKey { ruleset: RulesetId(raw.ruleset), class: ClassId(raw.class) };
            state.entries.insert(key, block.unwrap_or_else(|| Arc::clone(&unsound)));
        }
        Ok(())
    }

    /// Carries out a change. After an error every pod is on one whole policy, the old or the new, and open connections
    /// are decided anew by it; with [`ApplyError::NoCapacity`] often nothing has been touched.
    ///
    /// If what is new does not fit beside what is old, endpoints get theirs one after the other. That is for deltas of
    /// a planner, and steps of a transition: in them peers move to classes that old rules know too.
    pub(crate) fn apply(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        match self.apply_at_once(state, delta) {
            Err(ApplyError::NoCapacity { map: "entries" | "breakpoints", .. }) => {}
            other => return other,
        }
        let portion = state.slices.available() / 2;
        let Some(portions) = portions(state, delta, portion) else { return self.apply_at_once(state, delta) };
        portions.iter().try_for_each(|portion| self.apply_at_once(state, portion))
    }

    /// As [`Self::apply`], but never in portions. With [`ApplyError::NoCapacity`] nothing has been touched.
    fn apply_at_once(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        self.check_capacity(state, delta)?;
        let fresh = acquire(state, delta)?;
        let written = self.write(state, delta, &fresh);
        if written.is_err() {
            // As well as can be: the next sync raises the epoch in any case.
            let _refused = self.configure(|_| ());
        }
        written
    }

    fn write(&self, state: &mut State, delta: &Delta, fresh: &[(Slice, Arc<Block>)]) -> Result<(), ApplyError> {
        self.put_causes(state, delta)?;
        self.put_blocks(fresh)?;
        self.put_entries(state, delta)?;
        self.put_peers(state, &delta.put_peers)?;
        self.put_gates(state, delta.gates.as_ref())?;
        self.put_endpoints(state, delta)?;
        self.delete_endpoints(state, &delta.delete_endpoints)?;
        self.delete_peers(state, &delta.delete_peers)?;
        self.configure(|_| ())?;
        self.delete_gates(state, delta.gates.as_ref())?;
        self.delete_entries(state, &delta.delete_entries)?;
        for cause in &delta.delete_causes {
            self.counters.delete(&cause.0)?;
            state.causes.remove(cause);
        }
        Ok(())
    }

    /// Whether a change fits, but for breakpoints.
    fn check_capacity(&self, state: &State, delta: &Delta) -> Result<(), ApplyError> {
        let growth = state.growth(delta);
        let prefixes = state.peers.keys().filter(|net| !is_address(**net)).count();
        let checks = [
            (self.endpoints.name(), growth.endpoints, state.endpoints.len(), self.endpoints.capacity()),
            (self.peers.name(), growth.peers, state.peers.len() - prefixes, self.peers.capacity()),
            (self.prefixes.name(), growth.prefixes, prefixes, self.prefixes.capacity()),
            (self.entries.name(), growth.entries, state.entries.len(), self.entries.capacity()),
            (self.counters.name(), growth.causes, state.causes.len(), self.counters.capacity()),
            (self.gates.name(), growth.gates, state.gates.len(), self.gates.capacity()),
        ];
        for (map, needed, used, capacity) in checks {
            let available = capacity.saturating_sub(used);
            if needed > available {
                return Err(ApplyError::NoCapacity { map, needed, available });
            }
        }
        Ok(())
    }

    fn put_causes(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        for (cause, _) in &delta.put_causes {
            // The default decision is not counted: it is what happens without policy.
            if *cause != CauseId::DEFAULT {
                self.counters.ensure(&cause.0)?;
                state.causes.insert(*cause);
            }
        }
        Ok(())
    }

    fn put_blocks(&self, fresh: &[(Slice, Arc<Block>)]) -> Result<(), ApplyError> {
        let points = fresh.iter().flat_map(|(slice, block)| {
            (slice.start..).zip(block.breakpoints()).map(|(index, point)| (index, BreakpointValue::from(*point)))
        });
        self.breakpoints.put_all(&points.collect::<Vec<_>>())
    }

    fn put_entries(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        let mut pairs = Vec::with_capacity(delta.put_entries.len());
        for (key, block) in &delta.put_entries {
            if let Some(slice) = state.slices.slice(block) {
                let raw = EntryKeyRaw::from(*key);
                pairs.push((raw, EntryValue::new(raw, slice.start, slice.count)));
            }
        }
        self.entries.put_all(&pairs)?;
        for (key, block) in &delta.put_entries {
            if let Some(old) = state.entries.insert(*key, Arc::clone(block)) {
                state.slices.release(&old);
            }
        }
        Ok(())
    }

    fn put_peers(&self, state: &mut State, peers: &[(IpNet, PeerClass)]) -> Result<(), ApplyError> {
        let (addresses, prefixes): (Vec<_>, Vec<_>) = peers.iter().copied().partition(|(net, _)| is_address(*net));
        let value = |(net, class): &(IpNet, PeerClass)| {
            let address = Address::from(net.addr());
            (address, PeerValue::new(address, *class))
        };
        self.peers.put_all(&addresses.iter().map(value).collect::<Vec<_>>())?;
        if !prefixes.is_empty() {
            self.set_flag(flags::PREFIXES, true)?;
            if !addresses.is_empty() {
                // Who has not found an address yet must not go by a range around it that has changed since.
                self.configure(|_| ())?;
            }
        }
        let values = prefixes.iter().map(|(net, class)| (PrefixKey::from(*net), PrefixValue::from(*class)));
        self.prefixes.put_all(&values.collect::<Vec<_>>())?;
        state.peers.extend(peers.iter().copied());
        Ok(())
    }

    fn delete_peers(&self, state: &mut State, peers: &[IpNet]) -> Result<(), ApplyError> {
        let (addresses, prefixes): (Vec<_>, Vec<_>) = peers.iter().copied().partition(|net| is_address(*net));
        let addresses: Vec<_> = addresses.iter().map(|net| Address::from(net.addr())).collect();
        self.peers.delete_all(&addresses)?;
        self.prefixes.delete_all(&prefixes.iter().copied().map(PrefixKey::from).collect::<Vec<_>>())?;
        for net in peers {
            state.peers.remove(net);
        }
        if !prefixes.is_empty() && state.peers.keys().all(|net| is_address(*net)) {
            self.set_flag(flags::PREFIXES, false)?;
        }
        Ok(())
    }

    fn put_gates(&self, state: &mut State, gates: Option<&Vec<IpNet>>) -> Result<(), ApplyError> {
        let Some(gates) = gates.filter(|gates| !gates.is_empty()) else { return Ok(()) };
        let gates: HashSet<IpNet> = gates.iter().map(IpNet::trunc).collect();
        self.gates.put_all(&gates.iter().map(|gate| (PrefixKey::from(*gate), 1)).collect::<Vec<_>>())?;
        state.gates = gates.union(&state.gates.iter().copied().collect()).copied().collect();
        self.set_flag(flags::GATES, true)
    }

    /// Opens ranges that are this node's no more, once the endpoints in them that are new are there.
    fn delete_gates(&self, state: &mut State, gates: Option<&Vec<IpNet>>) -> Result<(), ApplyError> {
        let Some(gates) = gates else { return Ok(()) };
        let gates: HashSet<IpNet> = gates.iter().map(IpNet::trunc).collect();
        for gone in state.gates.iter().filter(|gate| !gates.contains(gate)) {
            self.gates.delete(&PrefixKey::from(*gone))?;
        }
        state.gates = gates.into_iter().collect();
        if state.gates.is_empty() { self.set_flag(flags::GATES, false) } else { Ok(()) }
    }

    fn put_endpoints(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        let rulesets = delta.put_endpoints.iter().map(|(address, endpoint)| (*address, Rulesets::from(endpoint)));
        let pairs = rulesets.clone().map(|(address, rulesets)| state.endpoint(address, rulesets));
        self.endpoints.put_all(&pairs.collect::<Vec<_>>())?;
        state.endpoints.extend(rulesets);
        Ok(())
    }

    fn delete_endpoints(&self, state: &mut State, addresses: &[IpAddr]) -> Result<(), ApplyError> {
        self.endpoints.delete_all(&addresses.iter().copied().map(Address::from).collect::<Vec<_>>())?;
        for address in addresses {
            state.endpoints.remove(address);
            // Who gets the address next has another interface.
            state.interfaces.remove(address);
        }
        if addresses.is_empty() { Ok(()) } else { self.put_interfaces(state) }
    }

    fn delete_entries(&self, state: &mut State, keys: &[EntryKey]) -> Result<(), ApplyError> {
        self.entries.delete_all(&keys.iter().copied().map(EntryKeyRaw::from).collect::<Vec<_>>())?;
        for key in keys {
            if let Some(old) = state.entries.remove(key) {
                state.slices.release(&old);
            }
        }
        Ok(())
    }

    /// Makes the kernel's knowledge of interfaces that of the state.
    pub(crate) fn set_interfaces(
        &self,
        state: &mut State,
        interfaces: HashMap<IpAddr, Interface>,
    ) -> Result<(), ApplyError> {
        let before = std::mem::replace(&mut state.interfaces, interfaces);
        let changed =
            state.endpoints.iter().filter(|(address, _)| before.get(address) != state.interfaces.get(address));
        let pairs: Vec<_> = changed.map(|(address, rulesets)| state.endpoint(*address, *rulesets)).collect();
        // Of an address whose interface is not known, a packet by that of another is spoofed. So no interface is one of
        // an address before all addresses know theirs.
        let written = self.endpoints.put_all(&pairs).and_then(|()| self.put_interfaces(state));
        if written.is_err() {
            // What is there is not known; the next time everything is written again.
            state.interfaces = before;
        }
        written?;
        if pairs.is_empty() { Ok(()) } else { self.configure(|_| ()) }
    }

    fn put_interfaces(&self, state: &mut State) -> Result<(), ApplyError> {
        let mut wanted = HashMap::new();
        for address in state.endpoints.keys() {
            if let Some(interface) = state.interfaces.get(address) {
                wanted
                    .entry(interface.index)
                    .or_insert_with(|| InterfaceValue::new(interface.index, (*address).into()));
            }
        }
        let held = &state.owners;
        let new = wanted.iter().filter(|(index, value)| held.get(index) != Some(value));
        self.interfaces.put_all(&new.map(|(index, value)| (*index, *value)).collect::<Vec<_>>())?;
        held.keys().filter(|index| !wanted.contains_key(index)).try_for_each(|index| self.interfaces.delete(index))?;
        state.owners = wanted;
        Ok(())
    }
}

/// The block of a slice; none if what lies there is not one.
fn read_block(points: &[(u32, BreakpointValue)], slice: Slice) -> Option<Block> {
    let start = slice.start as usize;
    let points = points.get(start..start.checked_add(slice.count as usize)?)?;
    let sound = points.first()?.1.key == 0 && points.is_sorted_by_key(|(_, point)| point.key);
    let block = sound.then(|| Block::from_sorted(points.iter().map(|(_, point)| (*point).into())))?;
    (block.breakpoints().len() == points.len()).then_some(block)
}

fn class(class: u64, fallback: u64) -> PeerClass {
    PeerClass::plain(ClassId(class), ClassId(fallback))
}

/// Finds room for all blocks of a change, or for none.
fn acquire(state: &mut State, delta: &Delta) -> Result<Vec<(Slice, Arc<Block>)>, ApplyError> {
    let mut fresh = Vec::new();
    for (taken, (_, block)) in delta.put_entries.iter().enumerate() {
        let slice = state.slices.acquire(block).or_else(|| {
            // Only now: waiting takes milliseconds, and most changes find room.
            if !state.slices.is_unsettled() {
                return None;
            }
            grace_period();
            state.slices.settle();
            state.slices.acquire(block)
        });
        match slice {
            Some((slice, true)) => fresh.push((slice, Arc::clone(block))),
            Some((_, false)) => {}
            None => {
                delta.put_entries[..taken].iter().for_each(|(_, block)| state.slices.release(block));
                let needed = distinct_breakpoints(state, delta);
                return Err(ApplyError::NoCapacity { map: "breakpoints", needed, available: state.slices.available() });
            }
        }
    }
    Ok(fresh)
}

/// Breakpoints of the blocks of a change that are not in the kernel yet.
fn distinct_breakpoints(state: &State, delta: &Delta) -> usize {
    let blocks: HashSet<_> = delta.put_entries.iter().map(|(_, block)| block).collect();
    blocks.iter().filter(|block| state.slices.slice(block).is_none()).map(|block| block.breakpoints().len()).sum()
}

impl State {
    fn endpoint(&self, address: IpAddr, rulesets: Rulesets) -> (Address, EndpointValue) {
        let interface = self.interfaces.get(&address).copied().unwrap_or_default();
        let key = Address::from(address);
        let (index, bridge) = (interface.index, interface.bridge.unwrap_or(0));
        (key, EndpointValue::new(key, rulesets.ingress.0, rulesets.egress.0, index, bridge))
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
