//! What the kernel's maps hold, as user space knows it, and how it differs from a plan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_engine::{Block, CauseId, Delta, EntryKey, PeerClass, Plan, RulesetId};

use crate::Interface;
use crate::abi::InterfaceValue;
use crate::slices::Slices;

/// The rulesets of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rulesets {
    pub(crate) ingress: RulesetId,
    pub(crate) egress: RulesetId,
}

impl From<&ringfence_engine::Endpoint> for Rulesets {
    fn from(endpoint: &ringfence_engine::Endpoint) -> Self {
        Self { ingress: endpoint.ingress, egress: endpoint.egress }
    }
}

/// The content of the maps.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) endpoints: BTreeMap<IpAddr, Rulesets>,
    pub(crate) interfaces: HashMap<IpAddr, Interface>,
    /// The content of the map `interfaces`.
    pub(crate) owners: HashMap<u32, InterfaceValue>,
    pub(crate) peers: HashMap<IpNet, PeerClass>,
    pub(crate) entries: HashMap<EntryKey, Arc<Block>>,
    pub(crate) causes: HashSet<CauseId>,
    pub(crate) gates: Vec<IpNet>,
    pub(crate) slices: Slices,
}

/// Whether a prefix is one address, which is kept in the map `peers` and not in `prefixes`.
pub(crate) fn is_address(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// How many elements a change adds while it is carried out: what is new comes before what is old goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    pub(crate) endpoints: usize,
    pub(crate) peers: usize,
    pub(crate) prefixes: usize,
    pub(crate) entries: usize,
    pub(crate) causes: usize,
    pub(crate) gates: usize,
}

impl State {
    pub(crate) fn growth(&self, delta: &Delta) -> Growth {
        let new_peers = || delta.put_peers.iter().filter(|(net, _)| !self.peers.contains_key(net));
        let addresses = new_peers().filter(|(net, _)| is_address(*net)).count();
        let new_gates = |gates: &Vec<IpNet>| gates.iter().filter(|gate| !self.gates.contains(gate)).count();
        Growth {
            endpoints: delta.put_endpoints.iter().filter(|(ip, _)| !self.endpoints.contains_key(ip)).count(),
            peers: addresses,
            prefixes: new_peers().count() - addresses,
            entries: delta.put_entries.iter().filter(|(key, _)| !self.entries.contains_key(key)).count(),
            causes: delta.put_causes.iter().filter(|(cause, _)| !self.causes.contains(cause)).count(),
            gates: delta.gates.as_ref().map_or(0, new_gates),
        }
    }

    /// What has to change for the maps to hold exactly a plan.
    pub(crate) fn difference(&self, plan: &Plan) -> Delta {
        let rulesets = |address: &IpAddr| self.endpoints.get(address);
        let gates: HashSet<_> = plan.gates.iter().map(IpNet::trunc).collect();
        Delta {
            put_causes: only_new(&plan.causes, |cause, _| !self.causes.contains(cause)),
            put_entries: only_new(&plan.entries, |key, block| self.entries.get(key) != Some(block)),
            put_peers: only_new(&plan.peers, |net, class| self.peers.get(net) != Some(class)),
            gates: (gates != self.gates.iter().copied().collect()).then(|| plan.gates.clone()),
            put_endpoints: only_new(&plan.endpoints, |address, endpoint| {
                rulesets(address) != Some(&Rulesets::from(endpoint))
            }),
            delete_endpoints: without(self.endpoints.keys(), |address| plan.endpoints.contains_key(address)),
            delete_peers: without(self.peers.keys(), |net| plan.peers.contains_key(net)),
            delete_entries: without(self.entries.keys(), |key| plan.entries.contains_key(key)),
            delete_causes: without(self.causes.iter(), |cause| plan.causes.contains_key(cause)),
        }
        .sorted()
    }
}

fn only_new<'a, K: Clone + 'a, V: Clone + 'a>(
    all: impl IntoIterator<Item = (&'a K, &'a V)>,
    is_new: impl Fn(&K, &V) -> bool,
) -> Vec<(K, V)> {
    all.into_iter().filter(|(key, value)| is_new(key, value)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn without<'a, K: Copy + 'a>(all: impl Iterator<Item = &'a K>, keep: impl Fn(&K) -> bool) -> Vec<K> {
    all.filter(|key| !keep(key)).copied().collect()
}
