//! Address ownership: the pods that have an address, of all pods that claim it.
//!
//! On its own node the network plugin reports the owner of an address. For other nodes' addresses a node has the API
//! only, which many may write. So a claim counts only if it can be true, a claim cannot take an address from an older
//! one, and several owners of an address are in conflict.

use std::net::IpAddr;

use crate::{Name, Node, Pod, PodPhase, World};

impl Pod {
    /// True if policy cannot distinguish two pods: namespace, labels and named ports are equal.
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

    /// True if its claim to an address excludes that of a pod of another node: it runs, it is not terminating, and it
    /// was created before. Neither of two pods of one node excludes the other: the node may reuse its addresses.
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
    /// The endpoints that have an address, oldest first, as far as the node `at` can know, or without a node of its own
    /// if that is none. If there are several, they are in conflict, and only what each of them may is allowed.
    ///
    /// * Pods of the node itself have the addresses that are reported for them, whatever other pods claim.
    /// * An address in the pod CIDR of some nodes can belong to pods of these nodes only. A node that has pod CIDRs of
    ///   a family has no pod addresses of that family outside of them.
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

    /// True if the pod CIDRs of nodes permit a pod to have an address.
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
