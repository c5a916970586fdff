//! Names for what the kernel reports: pods and nodes for addresses, policies and rules for causes, and a hint.

use std::fmt::Write as _;
use std::net::IpAddr;

use ringfence_engine::RuleId;
use ringfence_model::{Direction, PodKey, PolicyId, Protocol, Reason};

use super::state::Core;
use crate::api;
use crate::flows::{Named, Outcome, Record, SPOOFED, Why};

/// Policies that a flow names, and that its sentence does: a pod may be isolated by any number.
const MOST_POLICIES: usize = 50;
const MOST_IN_SENTENCE: usize = 3;

/// What a record's cause stands for, in words.
struct Account {
    reason: &'static str,
    message: String,
    policies: Vec<String>,
    more_policies: usize,
    rule: Option<usize>,
    hint: Option<String>,
}

impl Core {
    /// A record with names.
    pub(super) fn name(&self, record: Record, time: &str) -> Named {
        let Record { verdict, direction, protocol, source, destination, from_node, repeated, why, .. } = record;
        let (mut source, destination) = (self.peer(protocol, source), self.peer(protocol, destination));
        if from_node {
            source.node = Some(self.setup.node.to_string());
        }
        let account = self.account(&why);
        let isolated = account.reason == "isolated" && verdict != Outcome::Allowed;
        let allow = direction.filter(|_| isolated).map(|way| allow_hint(way, protocol, &source, &destination));
        let flow = api::Flow {
            api_version: api::VERSION.into(),
            kind: "Flow".into(),
            time: time.into(),
            verdict: verdict.to_string(),
            direction: direction.map(|direction| direction.to_string()),
            protocol: protocol.to_string(),
            source,
            destination,
            reason: account.reason.into(),
            message: account.message,
            policies: account.policies,
            more_policies: account.more_policies,
            rule: account.rule,
            hint: account.hint.or(allow),
            repeated,
        };
        Named { outcome: verdict, flow }
    }

    fn peer(&self, protocol: Protocol, (address, port): (IpAddr, u16)) -> api::Peer {
        let pod = self.pod_at(address);
        let node = if pod.is_none() { self.index.node_at(address) } else { None };
        let service = if pod.is_none() && node.is_none() { self.index.service_at(address) } else { None };
        api::Peer {
            address,
            port: protocol.has_ports().then_some(port),
            namespace: pod.map(|pod| pod.namespace.to_string()),
            pod: pod.map(|pod| pod.name.to_string()),
            node: node.map(ToString::to_string),
            service: service.map(|(namespace, name)| format!("{namespace}/{name}")),
        }
    }

    fn pod_at(&self, address: IpAddr) -> Option<&PodKey> {
        let held = self.held.endpoints.get(&address).map(|endpoint| &endpoint.pod);
        held.or_else(|| self.index.claimants(address).last())
    }

    fn account(&self, why: &Why) -> Account {
        let bare = |reason, message, hint| Account {
            reason,
            message,
            policies: Vec::new(),
            more_policies: 0,
            rule: None,
            hint,
        };
        let cause = match why {
            Why::Program { reason, message } => {
                return bare(reason, (*message).into(), program_hint(reason).map(Into::into));
            }
            Why::Cause(id) => match self.held.rules.get(id).or_else(|| self.retired.get(id)) {
                Some(cause) => cause.clone(),
                None if *id == RuleId::DEFAULT => Reason::Default,
                None if !self.ready => {
                    let message = "decided by the policy that an earlier agent left in force".into();
                    return bare("earlier-policy", message, None);
                }
                None => {
                    let message = format!("decided by cause {:016x}, which is not in force any more", id.0);
                    return bare("superseded", message, None);
                }
            },
        };
        let reason = match &cause {
            Reason::Rule(rule) => {
                let (policies, rule) = (vec![rule.policy.to_string()], Some(rule.index));
                return Account { policies, rule, ..bare("rule", cause.to_string(), None) };
            }
            Reason::Isolated { direction, policies } => return isolated(*direction, policies),
            Reason::Default => "no-policy",
            Reason::Undecided => "undecided",
            Reason::NoRoom => "no-room",
            Reason::NotAPod => "not-a-pod",
            Reason::OwnAddress => "own-address",
            Reason::LocalNode => "local-node",
            Reason::NeighbourDiscovery => "neighbour-discovery",
        };
        bare(reason, cause.to_string(), None)
    }
}

/// No rule of these policies, which isolate the pod, allows it.
fn isolated(direction: Direction, policies: &[PolicyId]) -> Account {
    let mut message = format!("default deny {direction}: no rule matched in ");
    let listed = policies.iter().take(MOST_IN_SENTENCE).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    message += &listed;
    if let Some(more) = policies.len().checked_sub(MOST_IN_SENTENCE).filter(|more| *more > 0) {
        let _infallible = write!(message, " and {more} more");
    }
    Account {
        reason: "isolated",
        message,
        policies: policies.iter().take(MOST_POLICIES).map(ToString::to_string).collect(),
        more_policies: policies.len().saturating_sub(MOST_POLICIES),
        rule: None,
        hint: None,
    }
}

/// What would allow a connection that default deny stopped.
fn allow_hint(direction: Direction, protocol: Protocol, source: &api::Peer, destination: &api::Peer) -> String {
    let (subject, word, peer) = match direction {
        Direction::Ingress => (destination, "from", source),
        Direction::Egress => (source, "to", destination),
    };
    let who = match (&peer.namespace, &peer.pod, peer.address) {
        (Some(namespace), Some(pod), _) => {
            format!("pods like {namespace}/{pod} (namespaceSelector and podSelector)")
        }
        (_, _, address) => {
            let length = if address.is_ipv4() { 32 } else { 128 };
            format!("ipBlock {address}/{length}")
        }
    };
    let what = match destination.port {
        Some(port) => format!(", port {port}/{protocol}"),
        None => String::new(),
    };
    let pod = match (&subject.namespace, &subject.pod) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
        _ => "the pod".into(),
    };
    format!("allow {direction} {word} {who}{what} in a NetworkPolicy that selects {pod}")
}

/// What helps where no policy had a say.
fn program_hint(reason: &str) -> Option<&'static str> {
    match reason {
        "endpoint-not-ready" => {
            Some("the address is in this node's pod range but no known pod has it: wait, or delete what uses it")
        }
        SPOOFED => Some("the pod sends from an address that is not its own; check what runs in it"),
        "no-capacity" => Some("a kernel map is full; raise its size and restart the agent"),
        _ => None,
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Cut => "cut",
        })
    }
}
