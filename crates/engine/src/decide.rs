//! Verdicts out of a plan, looked up as the kernel does.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_model::{Connection, Decision, Direction, Origin, Reason, Verdict};

use crate::{Breakpoint, CauseId, Endpoint, EntryKey, PeerClass, Plan, RulesetId, port_key};

impl Plan {
    /// What both ends say of a connection. An end that is no endpoint of this plan has no say
    /// ([`Reason::NotAPod`]).
    ///
    /// `gates` are not looked at: they hold back addresses the plan does not know yet, which is about time, not about
    /// policy.
    pub fn decide(&self, connection: &Connection) -> Decision {
        Decision {
            egress: self.judge(connection, Direction::Egress),
            ingress: self.judge(connection, Direction::Ingress),
        }
    }

    /// What the end that `direction` looks from says.
    pub fn judge(&self, connection: &Connection, direction: Direction) -> Verdict {
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
            Origin::Node(_) | Origin::Elsewhere => self.policy(endpoint, direction, other, connection),
        }
    }

    /// What the policy of an endpoint says about a peer, exemptions aside. What the plan does not hold is denied
    /// ([`Reason::Undecided`]).
    fn policy(&self, endpoint: &Endpoint, direction: Direction, peer: IpAddr, connection: &Connection) -> Verdict {
        let ruleset = endpoint.ruleset(direction);
        if ruleset == RulesetId::NONE {
            return Verdict::allow(Reason::Default);
        }
        let (class, key) = (self.class(peer), port_key(connection.protocol, connection.port));
        let Some(point) = self.lookup(ruleset, class, connection.established, key) else {
            return Verdict::deny(Reason::Undecided);
        };
        let reason = match self.causes.get(&point.cause) {
            Some(cause) => cause.clone(),
            None if point.cause == CauseId::DEFAULT => Reason::Default,
            None => Reason::Undecided,
        };
        Verdict { allow: point.allow, reason }
    }

    /// The class of an address: that of the longest prefix in `peers` that holds it.
    pub fn class(&self, address: IpAddr) -> PeerClass {
        let address = address.to_canonical();
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .filter_map(|length| IpNet::new(address, length).ok())
            .find_map(|net| self.peers.get(&net.trunc()))
            .copied()
            .unwrap_or(PeerClass::UNKNOWN)
    }

    /// The decision of a ruleset about a class at a key of [`port_key`], in connections that are opened or that were
    /// `established` before; none if the plan lacks it.
    pub fn lookup(&self, ruleset: RulesetId, class: PeerClass, established: bool, key: u32) -> Option<Breakpoint> {
        let entry = |class| self.entries.get(&EntryKey { ruleset, class });
        entry(class.of(established)).or_else(|| entry(class.fallback)).map(|block| block.at(key))
    }
}
