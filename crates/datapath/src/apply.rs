//! Carries changes of a plan into the kernel's maps.
//!
//! The order is that of [`Delta`]. New entries are complete before anything refers to them. One write replaces the
//! whole policy of an endpoint. Old entries are deleted when nothing refers to them any more. The epoch rises after the
//! last write that can change a verdict, so that every flow whose verdict was cached in between is checked again.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_engine::{Delta, IpcacheEntry, PeerSetId, PolicyKey, PortTable, RuleId, RulesetId};

use crate::abi::{
    Address, CidrKey, ConfigValue, EndpointValue, InterfaceValue, IpcacheValue, PeerInfo, PolicyKeyValue, PolicyValue,
    PortRangeValue, RuleCounterValue, flags,
};
use crate::allocator::{Extent, PortTableAllocator};
use crate::chunks::chunks;
use crate::kernel::grace_period;
use crate::state::{Rulesets, State, is_address};
use crate::typed_map::{PerCpuMap, TypedMap};
use crate::{ApplyError, Error, Interface};

/// Id that stands for entries of the kernel that are not valid. It is one of the reserved ids, so no plan contains it.
const CORRUPT: u64 = 15;

/// The maps that hold policy.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) endpoints: TypedMap<Address, EndpointValue>,
    pub(crate) ipcache: TypedMap<Address, IpcacheValue>,
    pub(crate) ipcache_cidrs: TypedMap<CidrKey, PeerInfo>,
    pub(crate) policy: TypedMap<PolicyKeyValue, PolicyValue>,
    pub(crate) port_ranges: TypedMap<u32, PortRangeValue>,
    pub(crate) interfaces: TypedMap<u32, InterfaceValue>,
    pub(crate) closed_cidrs: TypedMap<CidrKey, u64>,
    pub(crate) config: TypedMap<u32, ConfigValue>,
    pub(crate) counters: PerCpuMap<u64, RuleCounterValue>,
}

impl Maps {
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self {
            endpoints: TypedMap::open(directory, "endpoints")?,
            ipcache: TypedMap::open(directory, "ipcache")?,
            ipcache_cidrs: TypedMap::open(directory, "ipcache_cidrs")?,
            policy: TypedMap::open(directory, "policy")?,
            port_ranges: TypedMap::open(directory, "port_ranges")?,
            interfaces: TypedMap::open(directory, "interfaces")?,
            closed_cidrs: TypedMap::open(directory, "closed_cidrs")?,
            config: TypedMap::open(directory, "config")?,
            counters: PerCpuMap::open(directory, "rule_counters")?,
        })
    }

    pub(crate) fn config(&self) -> Result<ConfigValue, ApplyError> {
        Ok(self.config.get(&0)?.unwrap_or(ConfigValue { epoch: 0, netns: 0, flags: 0, ephemeral: [0; 2] }))
    }

    /// Changes the configuration and raises the epoch, so that verdicts cached under the old configuration are checked
    /// again.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut ConfigValue)) -> Result<(), ApplyError> {
        let mut config = self.config()?;
        change(&mut config);
        config.epoch += 1;
        self.config.put(&0, &config)
    }

    /// Sets or clears a flag. The flag is written first and the epoch rises afterwards, so that verdicts cached under
    /// the old flag are checked again.
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

    /// Reads the maps. An entry that is not valid is read as an entry that no plan contains. So it is counted, and the
    /// next transition deletes or rewrites it.
    pub(crate) fn read(&self) -> Result<State, ApplyError> {
        let size = u32::try_from(self.port_ranges.capacity()).unwrap_or(u32::MAX);
        let mut state = State { allocator: PortTableAllocator::new(size), ..State::default() };
        for (address, value) in self.endpoints.dump()? {
            if value != EndpointValue::new(address, value.ingress, value.egress, value.interface, value.bridge) {
                let corrupt = RulesetId(CORRUPT);
                state.endpoints.insert(address.ip(), Rulesets { ingress: corrupt, egress: corrupt });
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
        for (address, value) in self.ipcache.dump()? {
            let known =
                IpcacheEntry { established: PeerSetId(value.established), ..peer_set(value.peer_set, value.fallback) };
            let sound = value == IpcacheValue::new(address, known);
            state.ipcache.insert(address.ip().into(), if sound { known } else { peer_set(CORRUPT, CORRUPT) });
        }
        for (key, value) in self.ipcache_cidrs.dump()? {
            match key.net() {
                Some(net) => _ = state.ipcache.insert(net, peer_set(value.peer_set, value.fallback)),
                // No packet can match this entry.
                None => self.ipcache_cidrs.delete(&key)?,
            }
        }
        for (key, _) in self.closed_cidrs.dump()? {
            match key.net() {
                Some(net) => state.closed_cidrs.push(net),
                None => self.closed_cidrs.delete(&key)?,
            }
        }
        state.rules = self.counters.keys().into_iter().map(RuleId).collect();
        state.owners = self.interfaces.dump()?.into_iter().collect();
        self.read_entries(&mut state)?;
        Ok(state)
    }

    fn read_entries(&self, state: &mut State) -> Result<(), ApplyError> {
        let entries = self.policy.dump()?;
        let is_sound =
            |(raw, value): &(PolicyKeyValue, PolicyValue)| *value == PolicyValue::new(*raw, value.start, value.count);
        let sound = entries.iter().filter(|entry| is_sound(entry));
        let ends = sound.map(|(_, value)| value.start as usize + value.count as usize);
        let ranges = self.port_ranges.dump_first(ends.max().unwrap_or(0))?;
        let corrupt = Arc::new(PortTable::constant(false, RuleId(CORRUPT)));
        for (raw, value) in &entries {
            let extent = Extent { start: value.start, count: value.count };
            let table = is_sound(&(*raw, *value)).then(|| read_port_table(&ranges, extent)).flatten();
            let table = table.and_then(|table| state.allocator.adopt(table, extent));
            let key = PolicyKey { ruleset: RulesetId(raw.ruleset), peer_set: PeerSetId(raw.peer_set) };
            state.policy.insert(key, table.unwrap_or_else(|| Arc::clone(&corrupt)));
        }
        Ok(())
    }

    /// Carries out a change. After an error every pod has one whole policy, the old or the new, and open connections
    /// are checked against it again. After [`ApplyError::NoCapacity`] often no map has been changed.
    ///
    /// If new and old entries do not fit side by side, endpoints change their rulesets in chunks. This is valid for
    /// deltas of a planner and for steps of a transition. Both move peers only to peer sets that the old rulesets have
    /// entries for too.
    pub(crate) fn apply(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        match self.apply_at_once(state, delta) {
            Err(ApplyError::NoCapacity { map: "policy" | "port_ranges", .. }) => {}
            other => return other,
        }
        let chunk = state.allocator.available() / 2;
        let Some(chunks) = chunks(state, delta, chunk) else { return self.apply_at_once(state, delta) };
        chunks.iter().try_for_each(|chunk| self.apply_at_once(state, chunk))
    }

    /// Same as [`Self::apply`], but never in chunks. After [`ApplyError::NoCapacity`] no map has been changed.
    fn apply_at_once(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        self.check_capacity(state, delta)?;
        let fresh = acquire(state, delta)?;
        let written = self.write(state, delta, &fresh);
        if written.is_err() {
            // An error here does no harm: the next sync raises the epoch in any case.
            let _refused = self.configure(|_| ());
        }
        written
    }

    fn write(&self, state: &mut State, delta: &Delta, fresh: &[(Extent, Arc<PortTable>)]) -> Result<(), ApplyError> {
        self.put_rules(state, delta)?;
        self.put_port_tables(fresh)?;
        self.put_policy(state, delta)?;
        self.put_ipcache(state, &delta.put_ipcache)?;
        self.put_closed_cidrs(state, delta.closed_cidrs.as_ref())?;
        self.put_endpoints(state, delta)?;
        self.delete_endpoints(state, &delta.delete_endpoints)?;
        self.delete_ipcache(state, &delta.delete_ipcache)?;
        self.configure(|_| ())?;
        self.delete_closed_cidrs(state, delta.closed_cidrs.as_ref())?;
        self.delete_policy(state, &delta.delete_policy)?;
        for rule_id in &delta.delete_rules {
            self.counters.delete(&rule_id.0)?;
            state.rules.remove(rule_id);
        }
        Ok(())
    }

    /// Checks that a change fits into every map except `port_ranges`.
    fn check_capacity(&self, state: &State, delta: &Delta) -> Result<(), ApplyError> {
        let growth = state.growth(delta);
        let prefixes = state.ipcache.keys().filter(|net| !is_address(**net)).count();
        let checks = [
            (self.endpoints.name(), growth.endpoints, state.endpoints.len(), self.endpoints.capacity()),
            (self.ipcache.name(), growth.ipcache, state.ipcache.len() - prefixes, self.ipcache.capacity()),
            (self.ipcache_cidrs.name(), growth.ipcache_cidrs, prefixes, self.ipcache_cidrs.capacity()),
            (self.policy.name(), growth.policy, state.policy.len(), self.policy.capacity()),
            (self.counters.name(), growth.rules, state.rules.len(), self.counters.capacity()),
            (self.closed_cidrs.name(), growth.closed_cidrs, state.closed_cidrs.len(), self.closed_cidrs.capacity()),
        ];
        for (map, needed, used, capacity) in checks {
            let available = capacity.saturating_sub(used);
            if needed > available {
                return Err(ApplyError::NoCapacity { map, needed, available });
            }
        }
        Ok(())
    }

    fn put_rules(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        for (rule_id, _) in &delta.put_rules {
            // The default decision has no counter, because it is made where no policy selects the pod.
            if *rule_id != RuleId::DEFAULT {
                self.counters.ensure(&rule_id.0)?;
                state.rules.insert(*rule_id);
            }
        }
        Ok(())
    }

    fn put_port_tables(&self, fresh: &[(Extent, Arc<PortTable>)]) -> Result<(), ApplyError> {
        let ranges = fresh.iter().flat_map(|(extent, table)| {
            (extent.start..).zip(table.ranges()).map(|(index, range)| (index, PortRangeValue::from(*range)))
        });
        self.port_ranges.put_all(&ranges.collect::<Vec<_>>())
    }

    fn put_policy(&self, state: &mut State, delta: &Delta) -> Result<(), ApplyError> {
        let mut pairs = Vec::with_capacity(delta.put_policy.len());
        for (key, table) in &delta.put_policy {
            if let Some(extent) = state.allocator.extent(table) {
                let raw = PolicyKeyValue::from(*key);
                pairs.push((raw, PolicyValue::new(raw, extent.start, extent.count)));
            }
        }
        self.policy.put_all(&pairs)?;
        for (key, table) in &delta.put_policy {
            if let Some(old) = state.policy.insert(*key, Arc::clone(table)) {
                state.allocator.release(&old);
            }
        }
        Ok(())
    }

    fn put_ipcache(&self, state: &mut State, peers: &[(IpNet, IpcacheEntry)]) -> Result<(), ApplyError> {
        let (addresses, prefixes): (Vec<_>, Vec<_>) = peers.iter().copied().partition(|(net, _)| is_address(*net));
        let value = |(net, peer_set): &(IpNet, IpcacheEntry)| {
            let address = Address::from(net.addr());
            (address, IpcacheValue::new(address, *peer_set))
        };
        self.ipcache.put_all(&addresses.iter().map(value).collect::<Vec<_>>())?;
        if !prefixes.is_empty() {
            self.set_flag(flags::HAS_IPCACHE_CIDRS, true)?;
            if !addresses.is_empty() {
                // A packet that missed an address must not match a CIDR around it that has changed since.
                self.configure(|_| ())?;
            }
        }
        let values = prefixes.iter().map(|(net, peer_set)| (CidrKey::from(*net), PeerInfo::from(*peer_set)));
        self.ipcache_cidrs.put_all(&values.collect::<Vec<_>>())?;
        state.ipcache.extend(peers.iter().copied());
        Ok(())
    }

    fn delete_ipcache(&self, state: &mut State, peers: &[IpNet]) -> Result<(), ApplyError> {
        let (addresses, prefixes): (Vec<_>, Vec<_>) = peers.iter().copied().partition(|net| is_address(*net));
        let addresses: Vec<_> = addresses.iter().map(|net| Address::from(net.addr())).collect();
        self.ipcache.delete_all(&addresses)?;
        self.ipcache_cidrs.delete_all(&prefixes.iter().copied().map(CidrKey::from).collect::<Vec<_>>())?;
        for net in peers {
            state.ipcache.remove(net);
        }
        if !prefixes.is_empty() && state.ipcache.keys().all(|net| is_address(*net)) {
            self.set_flag(flags::HAS_IPCACHE_CIDRS, false)?;
        }
        Ok(())
    }

    fn put_closed_cidrs(&self, state: &mut State, closed_cidrs: Option<&Vec<IpNet>>) -> Result<(), ApplyError> {
        let Some(closed_cidrs) = closed_cidrs.filter(|closed_cidrs| !closed_cidrs.is_empty()) else { return Ok(()) };
        let closed_cidrs: HashSet<IpNet> = closed_cidrs.iter().map(IpNet::trunc).collect();
        self.closed_cidrs.put_all(&closed_cidrs.iter().map(|cidr| (CidrKey::from(*cidr), 1)).collect::<Vec<_>>())?;
        state.closed_cidrs = closed_cidrs.union(&state.closed_cidrs.iter().copied().collect()).copied().collect();
        self.set_flag(flags::HAS_CLOSED_CIDRS, true)
    }

    /// Removes closed CIDRs that no longer belong to this node. The new endpoints inside them have been written before.
    fn delete_closed_cidrs(&self, state: &mut State, closed_cidrs: Option<&Vec<IpNet>>) -> Result<(), ApplyError> {
        let Some(closed_cidrs) = closed_cidrs else { return Ok(()) };
        let closed_cidrs: HashSet<IpNet> = closed_cidrs.iter().map(IpNet::trunc).collect();
        for gone in state.closed_cidrs.iter().filter(|cidr| !closed_cidrs.contains(cidr)) {
            self.closed_cidrs.delete(&CidrKey::from(*gone))?;
        }
        state.closed_cidrs = closed_cidrs.into_iter().collect();
        if state.closed_cidrs.is_empty() { self.set_flag(flags::HAS_CLOSED_CIDRS, false) } else { Ok(()) }
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
            // The next pod with this address has another interface.
            state.interfaces.remove(address);
        }
        if addresses.is_empty() { Ok(()) } else { self.put_interfaces(state) }
    }

    fn delete_policy(&self, state: &mut State, keys: &[PolicyKey]) -> Result<(), ApplyError> {
        self.policy.delete_all(&keys.iter().copied().map(PolicyKeyValue::from).collect::<Vec<_>>())?;
        for key in keys {
            if let Some(old) = state.policy.remove(key) {
                state.allocator.release(&old);
            }
        }
        Ok(())
    }

    /// Writes the interfaces of the state into the maps.
    pub(crate) fn set_interfaces(
        &self,
        state: &mut State,
        interfaces: HashMap<IpAddr, Interface>,
    ) -> Result<(), ApplyError> {
        let before = std::mem::replace(&mut state.interfaces, interfaces);
        let changed =
            state.endpoints.iter().filter(|(address, _)| before.get(address) != state.interfaces.get(address));
        let pairs: Vec<_> = changed.map(|(address, rulesets)| state.endpoint(*address, *rulesets)).collect();
        // A packet that arrives on the interface of another address counts as spoofed. So the map `interfaces` is
        // written only after every endpoint has its interface.
        let written = self.endpoints.put_all(&pairs).and_then(|()| self.put_interfaces(state));
        if written.is_err() {
            // The content of the maps is unknown now, so the next call writes all of it again.
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

/// Reads the port table of an extent; none if the content is not a valid table.
fn read_port_table(ranges: &[(u32, PortRangeValue)], extent: Extent) -> Option<PortTable> {
    let start = extent.start as usize;
    let ranges = ranges.get(start..start.checked_add(extent.count as usize)?)?;
    let sound = ranges.first()?.1.key == 0 && ranges.is_sorted_by_key(|(_, range)| range.key);
    let table = sound.then(|| PortTable::from_sorted(ranges.iter().map(|(_, range)| (*range).into())))?;
    (table.ranges().len() == ranges.len()).then_some(table)
}

fn peer_set(peer_set: u64, fallback: u64) -> IpcacheEntry {
    IpcacheEntry::plain(PeerSetId(peer_set), PeerSetId(fallback))
}

/// Allocates extents for all port tables of a change, or for none.
fn acquire(state: &mut State, delta: &Delta) -> Result<Vec<(Extent, Arc<PortTable>)>, ApplyError> {
    let mut fresh = Vec::new();
    for (taken, (_, table)) in delta.put_policy.iter().enumerate() {
        let extent = state.allocator.acquire(table).or_else(|| {
            // Waiting for a grace period takes milliseconds, so freed extents are reclaimed only if nothing else fits.
            if !state.allocator.has_pending() {
                return None;
            }
            grace_period();
            state.allocator.reclaim();
            state.allocator.acquire(table)
        });
        match extent {
            Some((extent, true)) => fresh.push((extent, Arc::clone(table))),
            Some((_, false)) => {}
            None => {
                delta.put_policy[..taken].iter().for_each(|(_, table)| state.allocator.release(table));
                let needed = new_port_ranges(state, delta);
                return Err(ApplyError::NoCapacity {
                    map: "port_ranges",
                    needed,
                    available: state.allocator.available(),
                });
            }
        }
    }
    Ok(fresh)
}

/// Counts the port ranges of a change that the kernel does not hold yet.
fn new_port_ranges(state: &State, delta: &Delta) -> usize {
    let tables: HashSet<_> = delta.put_policy.iter().map(|(_, table)| table).collect();
    tables.iter().filter(|table| state.allocator.extent(table).is_none()).map(|table| table.ranges().len()).sum()
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
