//! Who has an address, of all pods that say so.
//!
//! A node is told by its own network plugin who has an address there. Of other nodes' addresses it knows what the API
//! says, which many may write: so a claim counts only where it can be true, a claim cannot take what an older one has,
//! and what several pods have is in dispute between them.

use std::net::IpAddr;

use crate::{Name, Node, Pod, PodPhase, World};

impl Pod {
    /// Whether nothing that policy can see tells two pods apart: namespace, labels, named ports.
    pub fn is_like(&self, other: &Self) -> bool {
        let ports = |pod: &Self| {
            let mut ports: Vec<_> =
                pod.ports.iter().map(|port| (Name::clone(&port.name), port.protocol, port.port)).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        self.key.namespace == other.key.namespace && self.labels == other.labels && ports(self) == ports(other)
    }

    /// Whether its claim to an address leaves nothing to that of a pod of another node: it runs and is not about to
    /// end, and the API says that it was created before. Of two pods of one node neither: the node gives its addresses
    /// on as it likes.
    fn precedes(&self, other: &Self) -> bool {
        let runs = self.phase == PodPhase::Running && !self.terminating;
        runs && self.node != other.node && self.created != 0 && self.created < other.created
    }
}

impl Node {
    fn has_range(&self, ipv4: bool) -> bool {
        self.pod_cidrs.iter().any(|range| range.addr().is_ipv4() == ipv4)
    }
}

impl World {
    /// The endpoints that have an address, oldest first, as far as can be known `at` a node; none: at no node in
    /// particular. Several have it in dispute: only what each of them may is allowed.
    ///
    /// * A node's own pods have the addresses that are said to be theirs, whatever is said of others.
    /// * An address in the range of some nodes (`podCIDRs`) can be of their pods alone; a node that has ranges of a
    ///   family has no addresses of that family outside of them.
    /// * Of pods of different nodes, one that runs and was created before keeps the address for itself.
    pub fn owners(&self, address: IpAddr, at: Option<&Name>) -> Vec<&Pod> {
        let address = address.to_canonical();
        let has = |pod: &&Pod| pod.is_endpoint() && pod.addresses.contains(&address);
        let mut claimants: Vec<&Pod> = self.pods.values().filter(has).collect();
        claimants.sort_by_key(|pod| (pod.created, &pod.uid, &pod.key));
        let own = |pod: &Pod| at.is_some() && pod.node.as_ref() == at;
        if claimants.iter().any(|pod| own(pod)) {
            claimants.retain(|pod| own(pod));
            return claimants;
        }
        let mut standing: Vec<&Pod> = Vec::new();
        for pod in claimants.into_iter().filter(|pod| self.can_have(pod, address)) {
            if !standing.iter().any(|older| older.precedes(pod)) {
                standing.push(pod);
            }
        }
        standing
    }

    /// Whether the ranges of nodes admit that a pod has an address.
    fn can_have(&self, pod: &Pod, address: IpAddr) -> bool {
        let mut holders =
            self.nodes.values().filter(|node| node.pod_cidrs.iter().any(|range| range.contains(&address)));
        let node = pod.node.as_ref().and_then(|name| self.nodes.get(name));
        match holders.next() {
            Some(first) => std::iter::once(first).chain(holders).any(|holder| Some(&holder.name) == pod.node.as_ref()),
            None => !node.is_some_and(|node| node.has_range(address.is_ipv4())),
        }
    }
}
