//! The addresses of nodes and Services, which the kernel has to know: pods send nothing to where tunnels of nodes end, and
//! what a Service's address becomes is what counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ringfence_model::{Name, Node, Object, ObjectKey};

use super::state::Core;
use crate::follow::Key;
use crate::services::News;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Their addresses, and the ranges of their pods.
    nodes: HashMap<Name, (BTreeSet<IpAddr>, Vec<IpNet>)>,
    /// None before they were listed.
    services: Option<BTreeMap<Key, Vec<IpAddr>>>,
    /// Something differs from what the kernel holds.
    dirty: bool,
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

impl Core {
    /// Has the kernel know these addresses, once all of them have been listed: what an agent before this one told is not to
    /// be taken away. Nothing is written unless something differs.
    pub(super) fn tell_known(&mut self) {
        let Self { known, setup, in_sync, .. } = self;
        let (true, true, Some(services)) = (*in_sync, known.dirty, &known.services) else { return };
        let nodes = known.nodes.values().flat_map(|(addresses, _)| addresses).copied().collect();
        let ranges = known.nodes.values().flat_map(|(_, ranges)| ranges).map(IpNet::trunc).collect();
        let services = services.values().flatten().copied().collect();
        // Addresses first: a node has some in the ranges of its pods.
        let told = setup.enforcer.set_known_addresses(&nodes, &services);
        match told.and_then(|()| setup.enforcer.set_pod_ranges(&ranges)) {
            Ok(()) => known.dirty = false,
            Err(error) => {
                tracing::error!(%error, "addresses of nodes and Services, or ranges of pods, are not in the kernel");
            }
        }
    }
}

/// The addresses of a node: those in its status, and the first two of each range of its pods. The second is what plugins
/// give to the node's end as a gateway, the first what flannel gives to its tunnel.
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
