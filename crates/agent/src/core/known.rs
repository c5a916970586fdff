//! The addresses of nodes and Services, which the kernel has to know: pods send nothing to where tunnels of nodes end,
//! and what a Service's address becomes is what counts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ringfence_engine::left_out;
use ringfence_model::{Name, Node, Object, ObjectKey};

use super::room::worst_first;
use super::state::Core;
use crate::follow::Key;
use crate::services::News;

/// The known addresses.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Their addresses, and the ranges of their pods.
    nodes: HashMap<Name, (BTreeSet<IpAddr>, Vec<IpNet>)>,
    /// None before they were listed.
    services: Option<BTreeMap<Key, Vec<IpAddr>>>,
    /// Something differs from what the kernel holds.
    dirty: bool,
    /// Number of addresses of each namespace's Services that do not fit.
    left_out: BTreeMap<String, usize>,
}

impl Known {
    /// Takes in what happens to a node.
    pub(super) fn put(&mut self, object: &Object) {
        let Object::Node(node) = object else { return };
        let known = (addresses(node), node.pod_cidrs.clone());
        if self.nodes.get(&node.name) != Some(&known) {
            self.nodes.insert(Name::clone(&node.name), known);
            self.dirty = true;
        }
    }

    pub(super) fn delete(&mut self, key: &ObjectKey) {
        if let ObjectKey::Node(name) = key {
            self.dirty |= self.nodes.remove(name).is_some();
        }
    }

    /// Takes in what happens to Services.
    pub(super) fn services(&mut self, news: &News) {
        match (news, &mut self.services) {
            (News::All(all), services) => {
                let all: BTreeMap<Key, Vec<IpAddr>> =
                    all.iter().map(|(key, addresses)| (key.clone(), addresses.all().collect())).collect();
                self.dirty |= services.as_ref() != Some(&all);
                *services = Some(all);
            }
            (News::One(key, addresses), Some(services)) => {
                let now: Vec<IpAddr> = addresses.all().collect();
                let before =
                    if now.is_empty() { services.remove(key) } else { services.insert(key.clone(), now.clone()) };
                self.dirty |= before.unwrap_or_default() != now;
            }
            (News::One(..), None) | (News::Ranges(_), _) => {}
        }
    }
}

/// Name of these addresses among the repaired components.
const KNOWN: &str = "known-addresses";

impl Core {
    /// Has the kernel know these addresses, once all of them have been listed: what an agent before this one told is
    /// not to be taken away. Nothing is written unless something differs.
    pub(super) fn tell_known(&mut self) {
        let Self { known, setup, in_sync, .. } = self;
        let (true, true, Some(services)) = (*in_sync, known.dirty, &known.services) else { return };
        let nodes: BTreeSet<IpAddr> = known.nodes.values().flat_map(|(addresses, _)| addresses).copied().collect();
        let ranges = known.nodes.values().flat_map(|(_, ranges)| ranges).map(IpNet::trunc).collect();
        let room = setup.enforcer.room_for_known_addresses();
        let (services, left_out) = fitting(services, room.saturating_sub(nodes.len()));
        if !left_out.is_empty() && left_out != known.left_out {
            tracing::warn!("{}", complaint(&left_out));
        }
        known.left_out = left_out;
        // Addresses first: a node has some in the ranges of its pods.
        let told = setup.enforcer.set_infra_addresses(&nodes, &services);
        match told.and_then(|()| setup.enforcer.set_pod_cidrs(&ranges)) {
            Ok(()) => {
                known.dirty = false;
                setup.meters.mended.whole(KNOWN);
            }
            Err(error) => setup.meters.mended.broken(
                KNOWN,
                format!("addresses of nodes and Services, or ranges of pods, are not in the kernel: {error}"),
            ),
        }
    }

    /// Of which namespaces' Services not all addresses are known to the kernel.
    pub(super) fn known_warning(&self) -> Option<String> {
        (!self.known.left_out.is_empty()).then(|| complaint(&self.known.left_out))
    }

    /// Number of addresses of Services that are not in the kernel.
    pub(super) fn unknown_addresses(&self) -> usize {
        self.known.left_out.values().sum()
    }
}

/// The addresses that there is room for, and of which namespaces' Services how many are left out: whoever has no more
/// than an equal part has them all.
fn fitting(services: &BTreeMap<Key, Vec<IpAddr>>, room: usize) -> (BTreeSet<IpAddr>, BTreeMap<String, usize>) {
    let all: BTreeSet<IpAddr> = services.values().flatten().copied().collect();
    if all.len() <= room {
        return (all, BTreeMap::new());
    }
    // Of each Service the first come first: those that the cluster gave it.
    let wants = services.iter().flat_map(|((namespace, name), addresses)| {
        (0..).zip(addresses).map(move |(number, address)| (namespace, (number, name, namespace, *address)))
    });
    let out = left_out(room, wants);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, _, namespace, _) in &out {
        *counts.entry((*namespace).clone()).or_default() += 1;
    }
    let out: HashSet<(&String, &String, usize)> =
        out.into_iter().map(|(number, name, namespace, _)| (namespace, name, number)).collect();
    let kept = services.iter().flat_map(|((namespace, name), addresses)| {
        let out = &out;
        (0..).zip(addresses).filter(move |(number, _)| !out.contains(&(namespace, name, *number)))
    });
    (kept.map(|(_, address)| *address).collect(), counts)
}

fn complaint(left_out: &BTreeMap<String, usize>) -> String {
    let mut named = worst_first(left_out);
    named.truncate(NAMED);
    format!(
        "no room in the map `infra_addresses` for {} addresses of Services of namespaces {}{}: who calls one has to be \
         allowed to reach it as well as the pod behind it. hint: a larger map (--map-size infra_addresses=…)",
        left_out.values().sum::<usize>(),
        named.join(", "),
        if left_out.len() > NAMED { ", …" } else { "" }
    )
}

/// Namespaces that are named.
const NAMED: usize = 3;

/// The addresses of a node: those in its status, and the first two of each range of its pods. The second is what
/// plugins give to the node's end as a gateway, the first what flannel gives to its tunnel.
fn addresses(node: &Node) -> BTreeSet<IpAddr> {
    let first = node.pod_cidrs.iter().flat_map(|range| [range.network(), second(range)]);
    node.addresses.iter().copied().chain(first).collect()
}

fn second(range: &IpNet) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) | 1).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) | 1).into(),
    }
}
