//! Messages to and from the thread that learns names.

use std::collections::BTreeSet;

use ipnet::IpNet;
use ringfence_api as api;

use super::state::Core;
use crate::dns::{Demand, Tell};

/// The last message sent, and the next one.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The newest change that was taken in, and the newest that was told back.
    taken: u64,
    told: u64,
    demand: Option<Demand>,
}

impl Names {
    /// A change was taken in.
    pub(super) fn taken(&mut self, change: u64) {
        self.taken = change;
    }
}

impl Core {
    /// Tells what is wanted, if that changed, and which changes were carried out: those the kernel refused too, for
    /// nobody's answers wait for a map to have room.
    pub(super) fn tell_listener(&mut self) {
        let Some(listener) = &self.setup.listener else { return };
        if self.ready {
            let demand = self.demand();
            if self.names.demand.as_ref() != Some(&demand) {
                listener.tell(Tell::Demand(demand.clone()));
                self.names.demand = Some(demand);
            }
        }
        if self.names.taken > self.names.told {
            listener.tell(Tell::Committed(self.names.taken));
            self.names.told = self.names.taken;
        }
    }

    /// The names to learn. Nothing of the pods is said where no rule has a name.
    fn demand(&self) -> Demand {
        let patterns = self.index.patterns();
        if patterns.is_empty() {
            return Demand::default();
        }
        let endpoints: BTreeSet<_> = self.held.endpoints.keys().copied().collect();
        let gates: BTreeSet<_> = self.held.closed_cidrs.iter().copied().collect();
        let outside = endpoints.iter().filter(|address| !gates.iter().any(|gate| gate.contains(*address)));
        let pods = gates.iter().copied().chain(outside.map(|address| IpNet::from(*address))).collect();
        Demand { patterns, pods, endpoints }
    }

    pub(super) fn names_status(&self) -> api::FqdnCache {
        let domains = self.index.domains();
        api::FqdnCache {
            patterns: self.names.demand.as_ref().map_or(0, |demand| demand.patterns.len()),
            learning: self.learning.active,
            dns_servers: self.learning.servers.iter().map(ToString::to_string).collect(),
            names: domains.len(),
            addresses: domains.values().sum(),
            withheld: self.domains.withheld(),
            error: self.learning.error.clone(),
        }
    }
}
