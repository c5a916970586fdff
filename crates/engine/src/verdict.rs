//! Verdicts from a plan, looked up as the kernel does.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_model::{Connection, Decision, Direction, Origin, Reason, Verdict};

use crate::{Endpoint, IpcacheEntry, Plan, PolicyKey, PortVerdict, RuleId, RulesetId, port_key};

impl Plan {
    /// Evaluates both directions of a connection. The result is [`Reason::NotAPod`] for an end that is no endpoint of
    /// this plan.
    ///
    /// `closed_cidrs` are ignored: they close addresses that the plan does not know yet, which is a matter of time, not
    /// of policy.
    pub fn evaluate(&self, connection: &Connection) -> Decision {
        Decision {
            egress: self.evaluate_direction(connection, Direction::Egress),
            ingress: self.evaluate_direction(connection, Direction::Ingress),
        }
    }

    /// Evaluates one direction of a connection.
    pub fn evaluate_direction(&self, connection: &Connection, direction: Direction) -> Verdict {
        let (own, other) = match direction {
            Direction::Egress => (connection.source, connection.destination),
            Direction::Ingress => (connection.destination, connection.source),
        };
        let (own, other) = (own.to_canonical(), other.to_canonical());
        let Some(endpoint) = self.endpoints.get(&own) else { return Verdict::allow(Reason::NotAPod) };
        if connection.is_neighbour_discovery() {
            return Verdict::allow(Reason::NeighbourDiscovery);
        }
        if own == other && !connection.translated {
            return Verdict::allow(Reason::OwnAddress);
        }
        match &connection.origin {
            Origin::Node(node) if direction == Direction::Ingress && endpoint.node.as_ref() == Some(node) => {
                Verdict::allow(Reason::LocalNode)
            }
            Origin::Node(_) | Origin::Elsewhere => self.policy_verdict(endpoint, direction, other, connection),
        }
    }

    /// The verdict of an endpoint's policy about a peer, exemptions aside. Without an entry in the plan it denies
    /// ([`Reason::Undecided`]).
    fn policy_verdict(
        &self,
        endpoint: &Endpoint,
        direction: Direction,
        peer: IpAddr,
        connection: &Connection,
    ) -> Verdict {
        let ruleset = endpoint.ruleset(direction);
        if ruleset == RulesetId::NONE {
            return Verdict::allow(Reason::Default);
        }
        let (peer_set, key) = (self.peer_set(peer), port_key(connection.protocol, connection.port));
        let Some(range) = self.lookup(ruleset, peer_set, connection.established, key) else {
            return Verdict::deny(Reason::Undecided);
        };
        let reason = match self.rules.get(&range.rule_id) {
            Some(rule_id) => rule_id.clone(),
            None if range.rule_id == RuleId::DEFAULT => Reason::Default,
            None => Reason::Undecided,
        };
        Verdict { allow: range.allow, reason }
    }

    /// The ipcache entry of an address: that of the longest prefix that holds it.
    pub fn peer_set(&self, address: IpAddr) -> IpcacheEntry {
        let address = address.to_canonical();
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .filter_map(|length| IpNet::new(address, length).ok())
            .find_map(|net| self.ipcache.get(&net.trunc()))
            .copied()
            .unwrap_or(IpcacheEntry::UNKNOWN)
    }

    /// The decision of a ruleset about a peer at a key of [`port_key`], in new connections or in `established` ones;
    /// none if the plan has no entry.
    pub fn lookup(
        &self,
        ruleset: RulesetId,
        peer_set: IpcacheEntry,
        established: bool,
        key: u32,
    ) -> Option<PortVerdict> {
        let entry = |peer_set| self.policy.get(&PolicyKey { ruleset, peer_set });
        entry(peer_set.of(established)).or_else(|| entry(peer_set.fallback)).map(|table| table.at(key))
    }
}
