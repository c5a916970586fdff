//! Plans made by hand.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_engine::{
    Endpoint, IpcacheEntry, PeerSetId, Plan, PolicyKey, PortTable, PortVerdict, RuleId, RulesetId, port_key,
};
use ringfence_model::{PodKey, Protocol, Reason};

/// Builds a plan from addresses and ports.
#[derive(Clone, Default)]
pub(crate) struct Hand {
    pub(crate) plan: Plan,
}

impl Hand {
    /// Pod `10.0.0.2` accepts `10.0.1.0/24` (peer set 9) at TCP port 80, by ruleset 7 with rule ids 90 and 70.
    pub(crate) fn web() -> Self {
        Self::default().endpoint("10.0.0.2", 7, 0).isolated(7, 70).peer("10.0.1.0/24", 9).allow(
            7,
            9,
            &[(Protocol::TCP, 80)],
            90,
            70,
        )
    }

    /// Adds a local pod with rulesets; 0 for none.
    pub(crate) fn endpoint(mut self, address: &str, ingress: u64, egress: u64) -> Self {
        let endpoint = Endpoint {
            pod: PodKey { namespace: "test".into(), name: address.into() },
            uid: address.into(),
            node: None,
            ingress: RulesetId(ingress),
            egress: RulesetId(egress),
        };
        self.plan.endpoints.insert(ip(address), endpoint);
        self
    }

    /// Adds a prefix or address to a peer set, with fallback to any pod.
    pub(crate) fn peer(mut self, prefix: &str, peer_set: u64) -> Self {
        let net = prefix.parse().unwrap_or_else(|_| ip(prefix).into());
        self.plan.ipcache.insert(net, IpcacheEntry::plain(PeerSetId(peer_set), PeerSetId::ANY_POD));
        self
    }

    /// Adds a ruleset that denies unknown addresses and pods, with a rule id.
    pub(crate) fn isolated(self, ruleset: u64, rule_id: u64) -> Self {
        let table = Arc::new(PortTable::constant(false, RuleId(rule_id)));
        self.entry(ruleset, 0, &table).entry(ruleset, 1, &table).rule_id(rule_id)
    }

    /// Allows TCP and UDP ports for a peer set.
    pub(crate) fn allow(
        self,
        ruleset: u64,
        peer_set: u64,
        ports: &[(Protocol, u16)],
        rule_id: u64,
        otherwise: u64,
    ) -> Self {
        let mut ranges = vec![PortVerdict { key: 0, allow: false, rule_id: RuleId(otherwise) }];
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        for (protocol, port) in ports {
            let key = port_key(protocol, port);
            ranges.push(PortVerdict { key, allow: true, rule_id: RuleId(rule_id) });
            ranges.push(PortVerdict { key: key + 1, allow: false, rule_id: RuleId(otherwise) });
        }
        self.entry(ruleset, peer_set, &Arc::new(PortTable::from_sorted(ranges))).rule_id(rule_id).rule_id(otherwise)
    }

    /// Allows everything for a peer set.
    pub(crate) fn allow_all(self, ruleset: u64, peer_set: u64, rule_id: u64) -> Self {
        self.entry(ruleset, peer_set, &Arc::new(PortTable::constant(true, RuleId(rule_id)))).rule_id(rule_id)
    }

    pub(crate) fn cidr(mut self, net: &str) -> Self {
        self.plan.closed_cidrs.push(net.parse().unwrap());
        self
    }

    fn entry(mut self, ruleset: u64, peer_set: u64, table: &Arc<PortTable>) -> Self {
        let key = PolicyKey { ruleset: RulesetId(ruleset), peer_set: PeerSetId(peer_set) };
        self.plan.policy.insert(key, Arc::clone(table));
        self
    }

    fn rule_id(mut self, rule_id: u64) -> Self {
        self.plan.rules.insert(RuleId(rule_id), Reason::Default);
        self
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
