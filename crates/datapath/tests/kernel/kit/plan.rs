//! Plans made by hand.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_engine::{Block, Breakpoint, CauseId, ClassId, Endpoint, EntryKey, PeerClass, Plan, RulesetId, port_key};
use ringfence_model::{PodKey, Protocol, Reason};

/// Builds a plan in words of addresses and ports.
#[derive(Clone, Default)]
pub(crate) struct Hand {
    pub(crate) plan: Plan,
}

impl Hand {
    /// Pod `10.0.0.2` lets `10.0.1.0/24` (class 9) in at TCP port 80, by ruleset 7 for causes 90 and 70.
    pub(crate) fn web() -> Self {
        Self::default().endpoint("10.0.0.2", 7, 0).isolated(7, 70).peer("10.0.1.0/24", 9).allow(
            7,
            9,
            &[(Protocol::TCP, 80)],
            90,
            70,
        )
    }

    /// A local pod with rulesets; 0 for none.
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

    /// A prefix or address of a class, which falls back to any pod.
    pub(crate) fn peer(mut self, prefix: &str, class: u64) -> Self {
        let net = prefix.parse().unwrap_or_else(|_| ip(prefix).into());
        self.plan.peers.insert(net, PeerClass::plain(ClassId(class), ClassId::ANY_POD));
        self
    }

    /// A ruleset that denies strangers and pods for a cause.
    pub(crate) fn isolated(self, ruleset: u64, cause: u64) -> Self {
        let block = Arc::new(Block::constant(false, CauseId(cause)));
        self.entry(ruleset, 0, &block).entry(ruleset, 1, &block).cause(cause)
    }

    /// Lets a class reach TCP and UDP ports.
    pub(crate) fn allow(self, ruleset: u64, class: u64, ports: &[(Protocol, u16)], cause: u64, otherwise: u64) -> Self {
        let mut points = vec![Breakpoint { key: 0, allow: false, cause: CauseId(otherwise) }];
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        for (protocol, port) in ports {
            let key = port_key(protocol, port);
            points.push(Breakpoint { key, allow: true, cause: CauseId(cause) });
            points.push(Breakpoint { key: key + 1, allow: false, cause: CauseId(otherwise) });
        }
        self.entry(ruleset, class, &Arc::new(Block::from_sorted(points))).cause(cause).cause(otherwise)
    }

    /// Lets a class do anything.
    pub(crate) fn allow_all(self, ruleset: u64, class: u64, cause: u64) -> Self {
        self.entry(ruleset, class, &Arc::new(Block::constant(true, CauseId(cause)))).cause(cause)
    }

    pub(crate) fn gate(mut self, net: &str) -> Self {
        self.plan.gates.push(net.parse().unwrap());
        self
    }

    fn entry(mut self, ruleset: u64, class: u64, block: &Arc<Block>) -> Self {
        let key = EntryKey { ruleset: RulesetId(ruleset), class: ClassId(class) };
        self.plan.entries.insert(key, Arc::clone(block));
        self
    }

    fn cause(mut self, cause: u64) -> Self {
        self.plan.causes.insert(CauseId(cause), Reason::Default);
        self
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
