//! User space's copy of the kernel maps, and its difference to a plan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_engine::{Delta, IpcacheEntry, Plan, PolicyKey, PortTable, RuleId, RulesetId};

use crate::Interface;
use crate::abi::InterfaceValue;
use crate::allocator::PortTableAllocator;

/// Ids of the rulesets of an endpoint.
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

/// Content of the maps.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) endpoints: BTreeMap<IpAddr, Rulesets>,
    pub(crate) interfaces: HashMap<IpAddr, Interface>,
    /// Content of the map `interfaces`.
    pub(crate) owners: HashMap<u32, InterfaceValue>,
    pub(crate) ipcache: HashMap<IpNet, IpcacheEntry>,
    pub(crate) policy: HashMap<PolicyKey, Arc<PortTable>>,
    pub(crate) rules: HashSet<RuleId>,
    pub(crate) closed_cidrs: Vec<IpNet>,
    pub(crate) allocator: PortTableAllocator,
}

/// True if a prefix is a single address, which belongs to the map `ipcache` and not to `ipcache_cidrs`.
pub(crate) fn is_address(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The number of elements that a change adds while it is carried out: new ones are written before old ones are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    pub(crate) endpoints: usize,
    pub(crate) ipcache: usize,
    pub(crate) ipcache_cidrs: usize,
    pub(crate) policy: usize,
    pub(crate) rules: usize,
    pub(crate) closed_cidrs: usize,
}

impl State {
    pub(crate) fn growth(&self, delta: &Delta) -> Growth {
        let new_peers = || delta.put_ipcache.iter().filter(|(net, _)| !self.ipcache.contains_key(net));
        let addresses = new_peers().filter(|(net, _)| is_address(*net)).count();
        let new_closed_cidrs =
            |closed_cidrs: &Vec<IpNet>| closed_cidrs.iter().filter(|cidr| !self.closed_cidrs.contains(cidr)).count();
        Growth {
            endpoints: delta.put_endpoints.iter().filter(|(ip, _)| !self.endpoints.contains_key(ip)).count(),
            ipcache: addresses,
            ipcache_cidrs: new_peers().count() - addresses,
            policy: delta.put_policy.iter().filter(|(key, _)| !self.policy.contains_key(key)).count(),
            rules: delta.put_rules.iter().filter(|(rule_id, _)| !self.rules.contains(rule_id)).count(),
            closed_cidrs: delta.closed_cidrs.as_ref().map_or(0, new_closed_cidrs),
        }
    }

    /// The change after which the maps hold exactly a plan.
    pub(crate) fn difference(&self, plan: &Plan) -> Delta {
        let rulesets = |address: &IpAddr| self.endpoints.get(address);
        let closed_cidrs: HashSet<_> = plan.closed_cidrs.iter().map(IpNet::trunc).collect();
        Delta {
            put_rules: only_new(&plan.rules, |rule_id, _| !self.rules.contains(rule_id)),
            put_policy: only_new(&plan.policy, |key, table| self.policy.get(key) != Some(table)),
            put_ipcache: only_new(&plan.ipcache, |net, peer_set| self.ipcache.get(net) != Some(peer_set)),
            closed_cidrs: (closed_cidrs != self.closed_cidrs.iter().copied().collect())
                .then(|| plan.closed_cidrs.clone()),
            put_endpoints: only_new(&plan.endpoints, |address, endpoint| {
                rulesets(address) != Some(&Rulesets::from(endpoint))
            }),
            delete_endpoints: without(self.endpoints.keys(), |address| plan.endpoints.contains_key(address)),
            delete_ipcache: without(self.ipcache.keys(), |net| plan.ipcache.contains_key(net)),
            delete_policy: without(self.policy.keys(), |key| plan.policy.contains_key(key)),
            delete_rules: without(self.rules.iter(), |rule_id| plan.rules.contains_key(rule_id)),
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
